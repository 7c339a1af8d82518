package component

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// Row is a component of a server as commands show it.
type Row struct {
	Server    org.ServerName     `json:"server" col:"SERVER"`
	Component org.Component      `json:"component" col:"COMPONENT"`
	State     org.ComponentState `json:"state" col:"STATE"` // as wished
	// Now is what the server says that it does, empty where it has not said.
	Now   org.ComponentState   `json:"now,omitempty" col:"NOW"`
	Left  int                  `json:"left,omitempty" col:"LEFT"`
	Who   string               `json:"who,omitempty" col:"BECAUSE"`
	Holds []org.ComponentEntry `json:"holds,omitempty" col:"-"`
}

type listIn struct {
	Server org.ServerName `json:"server" arg:"1" complete:"server list" doc:"only this server"`
}

type setIn struct {
	Server    org.ServerName     `json:"server" arg:"1" required:"true" complete:"server list" doc:"name of the server"`
	Component org.Component      `json:"component" arg:"2" required:"true" enum:"server_offline,smtp,submission,imap,admin_api,transport,delivery,dns,high_availability,monitoring,recovery_actions" doc:"part of the server; server_offline is all of it"`
	State     org.ComponentState `json:"state" arg:"3" required:"true" enum:"Active,Draining,Inactive" doc:"what the component may do"`
	Requester org.Requester      `json:"requester" enum:"Sidelined,Maintenance,Functional,Deployment,HealthAPI" default:"Sidelined" doc:"on whose behalf"`
	Why       string             `json:"why" doc:"reason, for those who find it held back"`
	For       time.Duration      `json:"for" doc:"time after which the wish ends by itself; never when not given"`
	Force     bool               `json:"force" doc:"also where no other server would serve the component"`
}

// longestFor bounds how long a wish with an end may last.
const longestFor = 365 * 24 * time.Hour

// maxWhy bounds a reason in bytes.
const maxWhy = 500

// Commands are the entries of the command table. b may be nil for listing them.
func Commands(b *Book) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "component", Verb: "list", Short: "Show what the parts of servers may do, what they do and who wants it", Roles: read,
			Long:    "STATE is the strongest wish of all requesters, NOW what the server does: it follows when what is under way has ended, of which LEFT is the number (connections, messages).",
			Example: "postern component list MBX2"},
			func(_ context.Context, in listIn) ([]Row, error) { return b.List(in.Server) }),
		command.New(command.Command{Noun: "component", Verb: "set", Short: "Take a part of a server out of service, or back in", Changes: true,
			Long: "Draining finishes what is under way and takes nothing new, Inactive ends clients between two commands. " +
				"Each requester has a wish of its own and the strongest counts: Active ends only the wish of this requester, and the answer names who still holds the component. " +
				"HealthAPI belongs to the recovery actions and cannot be used by hand. The last server that serves a component keeps it, unless --force says otherwise.",
			Example: "postern component set MBX2 imap Draining --why 'memory is changed' --for 2h"}, b.set),
	}
}

// List shows the components of one server, or of all.
func (b *Book) List(only org.ServerName) ([]Row, error) {
	v := b.d.Group.View()
	var out []Row
	for _, s := range v.Servers() {
		if only != "" && s.Name != only {
			continue
		}
		entries := b.entries(s.Name)
		said := b.said(s.Name)
		for _, c := range known(entries) {
			out = append(out, b.row(s.Name, c, entries, said))
		}
	}
	if only != "" && len(out) == 0 {
		return nil, kind.Errorf(kind.NotFound, "server %s: not a member of the group", only)
	}
	return out, nil
}

// silence is after what time without a word nobody knows what a server does.
const silence = 10 * time.Second

// said is what a server does with its components, nothing where it is not heard.
func (b *Book) said(s org.ServerName) org.ServerComponents {
	said, ok := b.Published(s)
	if _, heard, _ := b.d.Group.Published(s, org.ComponentsSection); !ok || s != b.me && b.d.Now().Sub(heard) > silence {
		return org.ServerComponents{}
	}
	return said
}

func (b *Book) row(s org.ServerName, c org.Component, entries []org.ComponentEntry, said org.ServerComponents) Row {
	state, holds := org.Combine(entries, c, b.d.Now())
	r := Row{Server: s, Component: c, State: state, Holds: holds}
	if n, ok := said.Components[c]; ok {
		r.Now, r.Left = n.State, n.Left
	}
	var who []string
	for _, h := range holds {
		who = append(who, sentence(h))
	}
	r.Who = strings.Join(who, "; ")
	return r
}

// set carries out component set.
func (b *Book) set(ctx context.Context, in setIn) (Row, error) {
	e := org.ComponentEntry{Component: in.Component, Requester: in.Requester, State: in.State, By: command.CallerOf(ctx).Name, Reason: in.Why}
	switch {
	case in.Requester == org.HealthAPI:
		return Row{}, kind.WithHint(kind.Errorf(kind.Denied, "set %s: the requester HealthAPI belongs to the recovery actions", in.Component),
			"leave --requester away, or stop them with: postern component set "+string(in.Server)+" recovery_actions Inactive")
	case in.For < 0 || in.For > longestFor:
		return Row{}, kind.Errorf(kind.Invalid, "set %s: an end after %s is not from 0 to %s", in.Component, in.For, longestFor)
	case len(in.Why) > maxWhy:
		return Row{}, kind.Errorf(kind.Invalid, "set %s: a reason of %d bytes is longer than %d", in.Component, len(in.Why), maxWhy)
	}
	if in.For > 0 {
		e.Expires = b.d.Now().Add(in.For).UTC().Truncate(time.Second)
	}
	if in.State == org.Active || in.Force {
		return b.Set(ctx, in.Server, e)
	}
	return b.setUnlessLast(ctx, in.Server, e)
}

// guardTries bounds how often a wish is judged anew.
const guardTries = 5

// setUnlessLast is Set, but not for the last server that serves the component. It
// is judged anew where another wish is written meanwhile: of two servers that both
// do without the other one has to stay.
func (b *Book) setUnlessLast(ctx context.Context, s org.ServerName, e org.ComponentEntry) (r Row, err error) {
	for range guardTries {
		// Before the look at the others: a wish that comes after it changes this row.
		guard, _ := b.d.Group.View().Get(org.ComponentGuard)
		if b.onlyServer(s, e.Component) {
			return Row{}, kind.WithHint(kind.Errorf(kind.Denied, "set %s: %s is the last server of the group that serves it", e.Component, s),
				"postern component list tells what the others do; --force does it all the same")
		}
		if r, err = b.put(ctx, s, e, cluster.Cond{Key: org.ComponentGuard, Revision: guard.Revision}); !kind.Is(err, kind.Conflict) {
			break
		}
	}
	return r, err
}

// onlyServer tells whether a server serves a component that clients or mail need
// and no other server that is heard does.
func (b *Book) onlyServer(s org.ServerName, c org.Component) bool {
	if c == org.Monitoring || c == org.RecoveryActions || b.Of(s, c) != org.Active {
		return false
	}
	for _, o := range b.d.Group.View().Servers() {
		if o.Name == s || o.Witness || b.Of(o.Name, c) != org.Active {
			continue
		}
		if now, ok := b.said(o.Name).Components[c]; ok && now.State == org.Active {
			return false
		}
	}
	return true
}

// Set writes the wish of a requester about a component of a server, or, for
// Active, ends it. Other requesters' wishes stay. An entry without Since gets the
// present time. Errors: NotFound for a server that is no member, Busy without
// quorum.
func (b *Book) Set(ctx context.Context, s org.ServerName, e org.ComponentEntry) (Row, error) {
	return b.put(ctx, s, e)
}

// put is Set under conditions.
func (b *Book) put(ctx context.Context, s org.ServerName, e org.ComponentEntry, conds ...cluster.Cond) (Row, error) {
	if _, ok := b.d.Group.View().Server(s); !ok {
		return Row{}, kind.Errorf(kind.NotFound, "server %s: not a member of the group", s)
	}
	if e.Since.IsZero() {
		e.Since = b.d.Now().UTC().Truncate(time.Second)
	}
	op := cluster.Op{Key: org.ComponentKey(s, e.Component, e.Requester), Delete: e.State == org.Active}
	t := cluster.Txn{If: conds}
	if !op.Delete {
		var err error
		if op.Value, err = json.Marshal(e); err != nil {
			return Row{}, err
		}
		t.Then = append(t.Then, cluster.Op{Key: org.ComponentGuard, Value: []byte(rand.Text())})
	}
	t.Then = append(t.Then, op)
	if _, err := b.d.Group.Commit(ctx, t); err != nil {
		return Row{}, err
	}
	said := b.said(s)
	r := b.row(s, e.Component, b.entries(s), said)
	if e.State == org.Active && r.State != org.Active {
		b.d.Events.Emit(EventHeld, "%s gave component %s of %s free, but %s", cmp.Or(e.Requester, org.Sidelined), e.Component, s, r.Who)
	}
	return r, nil
}
