package health

import (
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// observers is how many servers watch each one.
const observers = 2

// observer watches whether other servers go on saying how they are. Two of them
// have to agree before it counts; nothing is done but telling: a dead server is
// Active Manager's.
type observer struct {
	desk *Desk
	mu   sync.Mutex // guards seen
	seen map[org.ServerName]*subject
}

// subject is another server as its observer sees it.
type subject struct {
	seq    uint64
	grew   time.Time // when the sequence was last seen to move on
	silent bool
	told   bool // both observers agree
}

func newObserver(d *Desk) *observer {
	return &observer{desk: d, seen: map[org.ServerName]*subject{}}
}

// watchersOf are the next live members after a server, in a ring by name.
func watchersOf(s org.ServerName, members []org.ServerName, up func(org.ServerName) bool) []org.ServerName {
	members = slices.Clone(members)
	slices.Sort(members)
	i := slices.Index(members, s)
	if i < 0 {
		return nil
	}
	var out []org.ServerName
	for n := 1; n < len(members) && len(out) < observers; n++ {
		if m := members[(i+n)%len(members)]; up(m) {
			out = append(out, m)
		}
	}
	return out
}

// turn looks at the servers that this one watches.
func (o *observer) turn(now time.Time) {
	d := o.desk
	me, members := d.deps.Server, d.deps.Mesh.Members()
	up := func(s org.ServerName) bool { return s == me || d.deps.Mesh.Up(s) }
	watched := map[org.ServerName]bool{}
	for _, s := range members {
		if s == me || !up(s) {
			continue
		}
		watchers := watchersOf(s, members, up)
		if !slices.Contains(watchers, me) || o.excused(s) {
			continue
		}
		watched[s] = true
		o.look(s, watchers, now)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for s := range o.seen {
		if !watched[s] {
			delete(o.seen, s) // it has stopped, has other watchers, or is in maintenance
		}
	}
}

// excused tells whether a server is in maintenance, or is not to be watched.
func (o *observer) excused(s org.ServerName) bool {
	d := o.desk
	entries := org.ComponentEntries(d.deps.Rows.Prefix(org.ComponentPrefix(s)))
	now := d.deps.Clock.Now()
	if state, _ := org.Combine(entries, org.Monitoring, now); state != org.Active {
		return true
	}
	state, _ := org.Combine(entries, org.ServerOffline, now)
	return state != org.Active
}

// look judges one server and tells what has come of it.
func (o *observer) look(s org.ServerName, watchers []org.ServerName, now time.Time) {
	h, _ := o.desk.healthOf(s)
	o.mu.Lock()
	x := o.seen[s]
	if x == nil {
		x = &subject{seq: h.Seq, grew: now}
		o.seen[s] = x
	}
	if h.Seq != x.seq { // a restarted server begins at 1 again
		x.seq, x.grew = h.Seq, now
	}
	age := now.Sub(x.grew)
	x.silent = age > o.desk.pace.remote
	silent, told := x.silent, x.told
	o.mu.Unlock()
	agree := silent && o.agreed(s, watchers)
	switch {
	case agree:
		o.desk.Notify(setRemote, probeHeartbeat, string(s), Reading{}, kind.Errorf(kind.Busy, "%s has not said for %v how it is", s, age.Round(time.Second)))
		if !told {
			o.desk.deps.Events.Emit(evRemote, "%s has not said for %v how it is; %d servers agree", s, age.Round(time.Second), len(watchers))
		}
	case !silent:
		o.desk.Notify(setRemote, probeHeartbeat, string(s), Reading{Text: fmt.Sprintf("heard %v ago", age.Round(time.Second))}, nil)
	}
	o.mu.Lock()
	x.told = agree
	o.mu.Unlock()
}

// agreed tells whether the other watchers of a server find it silent too. Where
// there is no other one, its word is not needed.
func (o *observer) agreed(s org.ServerName, watchers []org.ServerName) bool {
	for _, w := range watchers {
		if w == o.desk.deps.Server {
			continue
		}
		raw, heard, ok := o.desk.deps.Mesh.Published(w, seenSection)
		var all sights
		if !ok || codec.Unmarshal(raw, &all) != nil {
			return false
		}
		if !slices.ContainsFunc(all.Seen, func(x sight) bool {
			return x.Server == s && x.Component == org.Monitoring && !x.OK && x.Age+time.Since(heard) <= o.desk.pace.fresh
		}) {
			return false
		}
	}
	return true
}

// sights are what this server publishes of those it watches.
func (o *observer) sights() []sight {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out []sight
	for s, x := range o.seen {
		if x.silent {
			out = append(out, sight{Server: s, Component: org.Monitoring, Text: "its health is not published"})
		}
	}
	return out
}
