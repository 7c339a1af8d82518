package notify

import (
	"cmp"
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Config is how patient the room is; zero takes the default in brackets.
type Config struct {
	// Hello is the name this server gives itself towards mail servers.
	Hello string
	Turn  time.Duration // between two looks [1 s]
	// Hold is how long an alert waits for others of its kind [2 s], Gap the
	// least time between two messages about one code [60 s].
	Hold, Gap time.Duration
	// Lost is how long the owner of a channel has to be gone until another
	// claims it, and quorum until servers tell without it [30 s].
	Lost time.Duration
	// Retry is the first pause after a message that did not go [5 s]; the third
	// failure gives the channel to another server.
	Retry time.Duration
	// Away is how long a server leaves a channel alone that it could not reach
	// [5 min].
	Away time.Duration
	// Quiet closes alerts for which nobody will call Clear [1 h].
	Quiet time.Duration
	// Test is how often a channel is tried [7 days].
	Test time.Duration
	// Keep is how long closed alerts stay [7 days].
	Keep time.Duration
	// Repeat is how often a count of repeats is written [30 s].
	Repeat time.Duration
	// Local allows mail servers on this machine and among the members, for tests
	// and labs.
	Local bool
}

// Fast are the settings of tests on one machine.
func Fast() Config {
	return Config{Turn: 200 * time.Millisecond, Hold: 300 * time.Millisecond, Gap: 3 * time.Second, Lost: 3 * time.Second,
		Retry: 500 * time.Millisecond, Away: 15 * time.Second, Repeat: 2 * time.Second, Local: true}
}

func (c Config) withDefaults() Config {
	for _, d := range []struct {
		of  *time.Duration
		def time.Duration
	}{{&c.Turn, time.Second}, {&c.Hold, 2 * time.Second}, {&c.Gap, time.Minute}, {&c.Lost, 30 * time.Second}, {&c.Retry, 5 * time.Second},
		{&c.Away, 5 * time.Minute}, {&c.Quiet, time.Hour}, {&c.Test, 7 * 24 * time.Hour}, {&c.Keep, 7 * 24 * time.Hour}, {&c.Repeat, 30 * time.Second}} {
		if *d.of == 0 {
			*d.of = d.def
		}
	}
	c.Hello = cmp.Or(c.Hello, "localhost")
	return c
}

// Deps are what a Notifier is built from.
type Deps struct {
	Rows    Rows
	Mesh    Mesh
	Secrets Secrets
	// Names are the names that a sentence of an event may be about: databases
	// and servers. nil: none.
	Names func() []string
	// Servers and Sets are the servers of the group and the health sets that rules
	// may name; nil: not known here, any are taken.
	Servers func() []org.ServerName
	Sets    func() []string
	// Own are the hosts and addresses of the members; e-mail does not go there.
	Own func() []string
	// Send replaces the ways to the endpoints; for tests.
	Send func(ctx context.Context, c Channel, secret string, m Message) error
	// Roots replaces the system's certificate authorities; for tests.
	Roots   *x509.CertPool
	Log     *slog.Logger
	Events  *event.Log
	Metrics prometheus.Registerer
}

// maxPending is how many reports wait to become alerts.
const maxPending = 1024

// Notifier is the room on one server.
type Notifier struct {
	cfg  Config
	d    Deps
	me   org.ServerName
	figs *figures
	send func(ctx context.Context, c Channel, secret string, m Message) error

	mu      sync.Mutex // guards the rest
	pending map[string]*pending
	ends    []ending
	dropped int
	written map[string]time.Time // when the row of a key was last written, by key
	busy    map[string]bool      // channels with a message on its way
	tries   map[string]*trial    // by channel
	told    map[string]state     // without quorum: what was told, by channel
}

// ending is an event that ends others.
type ending struct {
	codes  []int
	object string
	why    string
	at     time.Time
}

// trial is what this server knows of sending through a channel.
type trial struct {
	failures int
	next     time.Time
}

// New builds a Notifier; nothing runs before Run.
func New(cfg Config, d Deps) *Notifier {
	n := &Notifier{cfg: cfg.withDefaults(), d: d, me: d.Mesh.Me(), figs: newFigures(d.Metrics), pending: map[string]*pending{},
		written: map[string]time.Time{}, busy: map[string]bool{}, tries: map[string]*trial{}, told: map[string]state{}}
	if n.send = d.Send; n.send == nil {
		n.send = (&sender{hello: n.cfg.Hello, roots: d.Roots, outside: n.outside}).send
	}
	return n
}

// Raise makes or repeats the alert of a report. It does not block and does no I/O.
func (n *Notifier) Raise(r Report) { n.raise(r, false) }

// raise is Raise; what was observed becomes an alert only where a rule covers it.
func (n *Notifier) raise(r Report, observed bool) {
	r = r.bounded()
	now := time.Now().UTC()
	n.mu.Lock()
	defer n.mu.Unlock()
	p, ok := n.pending[r.Key()]
	if !ok {
		if len(n.pending) >= maxPending {
			n.dropped++
			n.figs.dropped.Inc()
			return
		}
		p = &pending{first: now, server: n.me, observed: observed}
		n.pending[r.Key()] = p
	}
	p.Report, p.last = r, now
	p.cleared, p.observed = "", p.observed && observed
	p.count++
}

// Clear closes the alert about an object, if there is one.
func (n *Notifier) Clear(code int, object, why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.clear(Report{Code: code, Object: clip(object, maxObject)}, why, time.Now().UTC())
}

// clear is called with mu held.
func (n *Notifier) clear(r Report, why string, now time.Time) {
	p, ok := n.pending[r.Key()]
	if !ok {
		if len(n.pending) >= maxPending {
			n.ends = append(n.ends[max(0, len(n.ends)-maxPending+1):], ending{[]int{r.Code}, r.Object, why, now})
			return
		}
		p = &pending{Report: r, first: now, last: now, server: n.me}
		n.pending[r.Key()] = p
	}
	p.cleared, p.clearedAt = cmp.Or(clip(why, maxSentence), "it is over"), now
}

// Observe takes an operator event: it becomes an alert if a rule says so, and
// ends those alerts that its kind ends. It is made for event.Log.Subscribe.
func (n *Notifier) Observe(e event.Event) {
	if e.Code >= firstCode && e.Code <= lastCode {
		return
	}
	object := n.objectOf(e.Sentence)
	level := strings.ToLower(e.Level)
	if level == LevelWarn || level == LevelError {
		def, _ := event.Find(e.Code)
		set, _, _ := strings.Cut(object, `\`)
		if set == object {
			set = ""
		}
		n.raise(Report{Code: e.Code, Name: e.Name, Level: level, Object: object, Sentence: e.Sentence, Action: def.Action, Set: set,
			Critical: set != "", Lasting: event.Ended(e.Code)}, true)
	}
	if len(e.Ends) > 0 {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.ends = append(n.ends[max(0, len(n.ends)-maxPending+1):], ending{e.Ends, object, e.Sentence, time.Now().UTC()})
	}
}

// objectOf finds what a sentence is about: the health item that it begins with, at
// this server, or the databases and servers that it names before its first colon.
// Without any it is this server.
func (n *Notifier) objectOf(sentence string) string {
	first, _, _ := strings.Cut(clip(sentence, maxObject), " ")
	if first = strings.TrimRight(first, ":,.;"); strings.Contains(first, `\`) {
		return first + " " + string(n.me)
	}
	if n.d.Names == nil {
		return string(n.me)
	}
	names := n.d.Names()
	head, _, _ := strings.Cut(clip(sentence, maxSentence), ":")
	var found []string
	for w := range strings.FieldsFuncSeq(head, func(r rune) bool { return r == ' ' || r == ',' || r == '.' || r == ';' || r == '(' || r == ')' }) {
		if len(found) < 4 && !slices.Contains(found, w) && slices.Contains(names, w) {
			found = append(found, w)
		}
	}
	return cmp.Or(strings.Join(found, " "), string(n.me))
}

// about tells whether an alert's object is within what an ending event names.
func about(object, ended string) bool {
	words := strings.Fields(object)
	for w := range strings.FieldsSeq(ended) {
		if !slices.Contains(words, w) {
			return false
		}
	}
	return true
}

// Acknowledge marks an alert as taken by somebody: no reminders, no escalation.
func (n *Notifier) Acknowledge(ctx context.Context, id, by, comment string) (Alert, error) {
	for range 10 {
		h, ok := newReader(n.d.Rows).read().alerts[id]
		a := h.value
		switch {
		case !ok:
			return a, kind.WithHint(kind.Errorf(kind.NotFound, "acknowledge: there is no alert %.20q", id), "postern alert list")
		case a.State == Closed:
			return a, kind.Errorf(kind.Invalid, "acknowledge %s: it is closed: %s", id, a.ClosedWhy)
		}
		a.State, a.AcknowledgedBy, a.AcknowledgedAt, a.Comment = Acknowledged, by, time.Now().UTC(), clip(comment, maxSentence)
		err := n.commit(ctx, change{alertPrefix + id, h.revision, a})
		if err == nil {
			n.d.Events.Emit(evAcknowledged, "alert %s (%s) was acknowledged by %s", id, a.Object, by)
			return a, nil
		}
		if !kind.Is(err, kind.Conflict) {
			return a, err
		}
	}
	return Alert{}, kind.Errorf(kind.Busy, "acknowledge %s: the alert changes all the time", id)
}

// Run writes what was reported, owns channels and tells, until ctx ends.
func (n *Notifier) Run(ctx context.Context) error {
	t := newTurner(n)
	defer t.release(ctx)
	defer t.wg.Wait()
	tick := time.NewTicker(n.cfg.Turn)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		t.turn(ctx)
	}
}
