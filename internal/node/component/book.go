package component

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Group is what a Book needs of the group; *cluster.Cluster is one.
type Group interface {
	Name() org.ServerName
	View() *cluster.View
	Changed() <-chan struct{}
	Commit(context.Context, cluster.Txn) (int64, error)
	Publish(section string, v []byte)
	Published(s org.ServerName, section string) (v []byte, heard time.Time, ok bool)
}

// Deps are what a Book is built from.
type Deps struct {
	Group Group
	// Now is wall time; nil: the system's.
	Now func() time.Time
	// Primary tells whether this server has the primary role; nil: no.
	Primary func() bool
	Events  *event.Log
}

// Now tells what a component does: its state, weaker than what is wished until
// that is reached, and how much is under way in it.
type Now func() (org.ComponentState, int)

// Book tells the states of components. Its methods may be called from any
// goroutine.
type Book struct {
	d  Deps
	me org.ServerName

	mu        sync.Mutex // guards the rest
	changed   chan struct{}
	last      map[org.Component]org.ComponentState // as of the last look
	now       map[org.Component]Now
	published []byte
}

// New makes a Book; Run has to follow.
func New(d Deps) *Book {
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Book{d: d, me: d.Group.Name(), changed: make(chan struct{}), last: map[org.Component]org.ComponentState{}, now: map[org.Component]Now{}}
}

// State tells what a component of this server may do, and gives a channel that is
// closed when that may have changed.
func (b *Book) State(c org.Component) (org.ComponentState, <-chan struct{}) {
	b.mu.Lock()
	changed := b.changed
	b.mu.Unlock()
	// In this order: a change after this look closes the channel.
	return b.Of(b.me, c), changed
}

// Of tells what a component of any server may do.
func (b *Book) Of(s org.ServerName, c org.Component) org.ComponentState {
	state, _ := org.Combine(b.entries(s), c, b.d.Now())
	return state
}

// Obeys has the Book publish what a component does. A component that nobody speaks
// for is published as wished.
func (b *Book) Obeys(c org.Component, now Now) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now[c] = now
}

// entries are all wishes about a server.
func (b *Book) entries(s org.ServerName) []org.ComponentEntry {
	v := b.d.Group.View()
	return org.ComponentEntries(func(yield func(string, []byte) bool) {
		for k, it := range v.Prefix(org.ComponentPrefix(s)) {
			if !yield(k, it.Value) {
				return
			}
		}
	})
}

// look is the pause between two looks: wishes expire and what is under way ends
// without anything being written.
const look = 500 * time.Millisecond

// Run tells of changes, publishes and removes what has expired until ctx ends.
func (b *Book) Run(ctx context.Context) error {
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		changed := b.d.Group.Changed()
		b.turn()
		if b.d.Primary != nil && b.d.Primary() {
			b.expire(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

// turn looks once.
func (b *Book) turn() {
	entries, now := b.entries(b.me), b.d.Now()
	states := map[org.Component]org.ComponentState{}
	for _, c := range known(entries) {
		states[c], _ = org.Combine(entries, c, now)
	}
	b.mu.Lock()
	before := b.last
	if !maps.Equal(before, states) {
		b.last = states
		close(b.changed)
		b.changed = make(chan struct{})
	}
	speakers := maps.Clone(b.now)
	b.mu.Unlock()
	for c, s := range states {
		if was := org.Active.Stronger(before[c]); was != s {
			b.d.Events.Emit(EventChanged, "component %s of %s is wanted %s, it was %s%s", c, b.me, s, was, because(entries, c, now))
		}
	}
	b.publish(states, speakers)
}

// because names who wants it, as the end of a sentence.
func because(entries []org.ComponentEntry, c org.Component, now time.Time) string {
	_, holds := org.Combine(entries, c, now)
	if len(holds) == 0 {
		return ""
	}
	return ": " + sentence(holds[0])
}

// sentence says who wants what and why.
func sentence(e org.ComponentEntry) string {
	s := fmt.Sprintf("%s wants %s", e.Requester, e.State)
	if e.Component == org.ServerOffline {
		s += " for the whole server"
	}
	if e.Reason != "" {
		s += " (" + e.Reason + ")"
	}
	if !e.Expires.IsZero() {
		s += " until " + e.Expires.UTC().Format(time.RFC3339)
	}
	return s
}

// known are the components that the program knows and those that rows name.
func known(entries []org.ComponentEntry) []org.Component {
	out := org.Components()
	seen := map[org.Component]bool{}
	for _, c := range out {
		seen[c] = true
	}
	for _, e := range entries {
		if !seen[e.Component] {
			seen[e.Component] = true
			out = append(out, e.Component)
		}
	}
	return out
}

// publish tells the other servers what this one does.
func (b *Book) publish(states map[org.Component]org.ComponentState, speakers map[org.Component]Now) {
	p := org.ServerComponents{Components: map[org.Component]org.ComponentNow{}}
	for c, s := range states {
		n := org.ComponentNow{Wished: s, State: s}
		if now := speakers[c]; now != nil {
			n.State, n.Left = now()
		}
		p.Components[c] = n
	}
	enc := codec.MustMarshal(p)
	b.mu.Lock()
	same := bytes.Equal(enc, b.published)
	b.published = enc
	b.mu.Unlock()
	if !same {
		b.d.Group.Publish(org.ComponentsSection, enc)
	}
}

// Published is what a server said last that it does, and whether it has said
// anything.
func (b *Book) Published(s org.ServerName) (org.ServerComponents, bool) {
	var p org.ServerComponents
	enc, _, ok := b.d.Group.Published(s, org.ComponentsSection)
	return p, ok && codec.Unmarshal(enc, &p) == nil
}

// expireAtOnce bounds the rows that one look removes.
const expireAtOnce = 32

// expire removes the rows of wishes that have ended, of all servers.
func (b *Book) expire(ctx context.Context) {
	now, n := b.d.Now(), 0
	for key, it := range b.d.Group.View().Prefix("components/") {
		var e org.ComponentEntry
		if json.Unmarshal(it.Value, &e) != nil || e.Expires.IsZero() || now.Before(e.Expires) {
			continue
		}
		if n++; n > expireAtOnce {
			return
		}
		_, err := b.d.Group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: it.Revision}}, Then: []cluster.Op{{Key: key, Delete: true}}})
		if err != nil {
			return // at the next look
		}
		b.d.Events.Emit(EventExpired, "the wish %s has ended: %s", key, sentence(e))
	}
}
