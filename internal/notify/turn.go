package notify

import (
	"cmp"
	"context"
	"encoding/json"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// batch is how many alerts are written in one transaction.
const batch = 60

// commitTime is how long one commit of this room may take.
const commitTime = 3 * time.Second

// change puts a row under the condition of its revision, or deletes it where
// value is nil.
type change struct {
	key      string
	revision int64
	value    any
}

func (n *Notifier) commit(ctx context.Context, changes ...change) error {
	var conds []Cond
	var writes []Write
	for _, c := range changes {
		w := Write{Key: c.key}
		if c.value != nil {
			var err error
			if w.Value, err = json.Marshal(c.value); err != nil {
				return kind.Errorf(kind.Internal, "write %s: %w", c.key, err)
			}
		}
		conds, writes = append(conds, Cond{c.key, c.revision}), append(writes, w)
	}
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	return n.d.Rows.Commit(ctx, conds, writes)
}

// turner is the loop of a Notifier. Its fields belong to the loop.
type turner struct {
	n        *Notifier
	reader   *reader
	busy     map[string]bool // channels with a message on its way when the turn began
	wg       sync.WaitGroup  // messages on their way
	alone    time.Time       // since when there is no quorum
	gone     map[string]time.Time
	wake     map[string]time.Time
	nextTidy time.Time
}

func newTurner(n *Notifier) *turner {
	return &turner{n: n, reader: newReader(n.d.Rows), gone: map[string]time.Time{}, wake: map[string]time.Time{}}
}

// turn is one turn of the loop.
func (t *turner) turn(ctx context.Context) {
	now := time.Now().UTC()
	// Before the rows are read: what a message that was on its way then has
	// changed may be missing in them.
	t.n.mu.Lock()
	t.busy = maps.Clone(t.n.busy)
	t.n.mu.Unlock()
	s := t.reader.read()
	t.count(s)
	if !t.n.d.Rows.Quorum() {
		t.withoutQuorum(ctx, s, now)
		return
	}
	if !t.alone.IsZero() {
		t.alone = time.Time{}
		t.n.d.Mesh.Publish(section, nil)
		t.settle(ctx, s)
	}
	if s.changed {
		clear(t.wake)
	}
	t.end(s)
	t.flush(ctx, s, now)
	t.tidy(ctx, s, now)
	for _, name := range slices.Sorted(maps.Keys(s.channels)) {
		t.serve(ctx, s, s.channels[name].value, now)
	}
}

func (t *turner) count(s snapshot) {
	if !s.changed {
		return
	}
	by := map[State]int{Open: 0, Acknowledged: 0, Closed: 0}
	for _, h := range s.alerts {
		by[h.value.State]++
	}
	for st, count := range by {
		t.n.figs.alerts.WithLabelValues(string(st)).Set(float64(count))
	}
}

// end turns the events that end others into the closing of alerts.
func (t *turner) end(s snapshot) {
	n := t.n
	n.mu.Lock()
	defer n.mu.Unlock()
	ends := n.ends
	n.ends = nil // clear may add some for the next turn
	for _, e := range ends {
		for _, h := range s.alerts {
			if a := h.value; a.State != Closed && slices.Contains(e.codes, a.Code) && about(a.Object, e.object) && a.Last.Before(e.at) {
				n.clear(a.Report, e.why, e.at)
			}
		}
		for _, p := range n.pending {
			if slices.Contains(e.codes, p.Code) && about(p.Object, e.object) && p.last.Before(e.at) && p.cleared == "" {
				n.clear(p.Report, e.why, e.at)
			}
		}
	}
	if n.dropped > 0 {
		lost := n.dropped
		n.dropped = 0
		r := Report{Code: codeDropped, Name: evDropped.Name, Level: LevelWarn, Object: string(n.me), Action: evDropped.Action,
			Sentence: "more alerts at once than are kept: some were only counted"}
		p := cmp.Or(n.pending[r.Key()], &pending{first: time.Now().UTC(), server: n.me})
		p.Report, p.last, p.count = r, time.Now().UTC(), p.count+lost
		n.pending[r.Key()] = p
	}
}

// flush writes what was reported into the rows, some at a time.
func (t *turner) flush(ctx context.Context, s snapshot, now time.Time) {
	taken, changes := t.gather(s, now)
	if len(changes) == 0 {
		return
	}
	if err := t.n.commit(ctx, changes...); err != nil {
		if !kind.Is(err, kind.Conflict) {
			t.n.d.Log.Warn("alerts were not written", "err", err)
		}
		return // they stay pending
	}
	n := t.n
	n.mu.Lock()
	defer n.mu.Unlock()
	for key, was := range taken {
		n.written[key] = now
		p := n.pending[key]
		if p == nil {
			continue
		}
		p.count -= was.count
		if p.count == 0 && (p.cleared == "" || p.clearedAt.Equal(was.clearedAt)) {
			delete(n.pending, key)
		}
	}
	maps.DeleteFunc(n.written, func(_ string, at time.Time) bool { return now.Sub(at) > n.cfg.Repeat })
}

// gather takes the next batch of pending reports and the changes that they are.
func (t *turner) gather(s snapshot, now time.Time) (map[string]pending, []change) {
	n := t.n
	rules := rulesOf(s)
	n.mu.Lock()
	defer n.mu.Unlock()
	keys := slices.SortedFunc(maps.Keys(n.pending), func(a, b string) int {
		return cmp.Or(n.pending[a].first.Compare(n.pending[b].first), cmp.Compare(a, b))
	})
	room := sync.OnceValue(func() *rooms { return roomIn(s) }) // only where a new row is wanted
	taken, changes := map[string]pending{}, []change(nil)
	for _, key := range keys {
		p := n.pending[key]
		h, exists := s.alerts[idOf(key)]
		known := exists && h.value.State != Closed
		switch {
		case known && p.cleared == "" && now.Sub(n.written[key]) < n.cfg.Repeat:
			continue // a count can wait
		case !known && p.count == 0, !known && p.observed && !covered(p, rules):
			delete(n.pending, key)
			continue
		case !exists && !room().take(&changes, p.Level) && p.Code != codeDropped:
			delete(n.pending, key)
			n.dropped += p.count
			n.figs.dropped.Add(float64(p.count))
			continue
		}
		taken[key] = *p
		a := h.value.merge(*p)
		t.announce(h.value, a)
		if changes = append(changes, change{alertPrefix + a.ID, h.revision, a}); len(changes) >= batch {
			break
		}
	}
	return taken, changes
}

// announce says as an event what becomes of an alert. A commit that is lost
// and repeated says it again.
func (t *turner) announce(was, is Alert) {
	switch {
	case is.State == Closed && was.State != Closed:
		t.n.d.Events.Emit(evClosed, "alert %s about %s is over: %s", is.ID, is.Object, is.ClosedWhy)
	case is.State == Open && was.State != Open:
		t.n.d.Events.Emit(evOpened, "alert %s about %s: %s", is.ID, is.Object, is.Sentence)
	}
}

func rulesOf(s snapshot) []Rule {
	var out []Rule
	for _, name := range slices.Sorted(maps.Keys(s.rules)) {
		out = append(out, s.rules[name].value)
	}
	return out
}

func covered(p *pending, rules []Rule) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.covers(p.Report, []org.ServerName{p.server}) })
}

// rooms is how many new rows fit, and which old ones may go for them.
type rooms struct {
	left int
	old  []change // closed alerts, the oldest first
	warn []change // open warnings, the newest first: they give way to errors
}

func roomIn(s snapshot) *rooms {
	r := &rooms{left: maxAlerts - len(s.alerts)}
	if r.left >= batch {
		return r
	}
	var closed, warn []held[Alert]
	for _, h := range s.alerts {
		switch {
		case h.value.State == Closed:
			closed = append(closed, h)
		case h.value.State == Open && h.value.Level == LevelWarn:
			warn = append(warn, h)
		}
	}
	slices.SortFunc(warn, func(a, b held[Alert]) int { return byAge(b.value, a.value) })
	for _, h := range warn {
		r.warn = append(r.warn, change{key: alertPrefix + h.value.ID, revision: h.revision})
	}
	slices.SortFunc(closed, func(a, b held[Alert]) int { return a.value.ClosedAt.Compare(b.value.ClosedAt) })
	for _, h := range closed {
		r.old = append(r.old, change{key: alertPrefix + h.value.ID, revision: h.revision})
	}
	return r
}

// take makes room for one more row, if there is any.
func (r *rooms) take(changes *[]change, level string) bool {
	switch {
	case r.left > 0:
		r.left--
	case len(r.old) > 0:
		*changes, r.old = append(*changes, r.old[0]), r.old[1:]
	case level == LevelError && len(r.warn) > 0:
		*changes, r.warn = append(*changes, r.warn[0]), r.warn[1:]
	default:
		return false
	}
	return true
}

// tidy closes what nobody reports any more and drops what was closed long ago. The
// first server that lives does it.
func (t *turner) tidy(ctx context.Context, s snapshot, now time.Time) {
	if now.Before(t.nextTidy) {
		return
	}
	t.nextTidy = now.Add(min(30*time.Second, t.n.cfg.Quiet/4))
	members := t.n.d.Mesh.Members()
	if i := slices.IndexFunc(members, func(m Member) bool { return m.Alive }); i < 0 || members[i].Name != t.n.me {
		return
	}
	var changes []change
	for _, id := range slices.Sorted(maps.Keys(s.alerts)) {
		h := s.alerts[id]
		a, why := h.value, t.ended(h.value, members, now)
		switch {
		case a.State == Closed && now.Sub(a.ClosedAt) > t.n.cfg.Keep:
			changes = append(changes, change{key: alertPrefix + id, revision: h.revision})
		case why != "":
			a.State, a.ClosedAt, a.ClosedWhy = Closed, now, why
			t.announce(h.value, a)
			changes = append(changes, change{alertPrefix + id, h.revision, a})
		}
		if len(changes) >= batch {
			break
		}
	}
	if len(changes) == 0 {
		return
	}
	if err := t.n.commit(ctx, changes...); err != nil && !kind.Is(err, kind.Conflict) {
		t.n.d.Log.Warn("old alerts were not tidied", "err", err)
	}
}

// ended says why an alert is over that nobody cleared, empty while it is not.
func (t *turner) ended(a Alert, members []Member, now time.Time) string {
	switch {
	case a.State == Closed:
	case !a.Lasting && now.Sub(a.Last) > t.n.cfg.Quiet:
		return "not reported again for " + t.n.cfg.Quiet.String()
	case a.Lasting && now.Sub(a.Last) > t.n.cfg.Keep:
		return "not reported again for " + t.n.cfg.Keep.String()
	case a.Lasting && !slices.ContainsFunc(members, func(m Member) bool { return slices.Contains(a.Servers, m.Name) }):
		return "the server that reported it is no longer a member"
	}
	return ""
}
