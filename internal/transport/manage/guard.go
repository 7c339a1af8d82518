package manage

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/transport/guard"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// maxEntries bounds each list of the guard.
const maxEntries = 10_000

// GuardRow is an entry of a list of the guard as commands show it.
type GuardRow struct {
	Value   string    `json:"value" col:"VALUE"`
	List    string    `json:"list" col:"LIST"` // allow or block
	Why     string    `json:"why,omitempty" col:"WHY"`
	By      string    `json:"by,omitempty" col:"BY"`
	Created time.Time `json:"created" col:"CREATED"`
	Expires time.Time `json:"expires,omitzero" col:"EXPIRES"`
}

type guardIn struct {
	Value string        `json:"value" arg:"1" required:"true" doc:"network, address, domain of senders, or sender"`
	Why   string        `json:"why" doc:"reason, for those who come after"`
	For   time.Duration `json:"for" doc:"how long it holds, as in 24h; without, until it is removed"`
}

// guardCommands are for those who run the servers: the lists hold for all
// organizations.
func guardCommands(d Deps) []command.Command {
	type listIn struct {
		List string `json:"list" enum:"allow,block" doc:"only this list"`
	}
	list := command.New(command.Command{Noun: "guard", Verb: "list", Short: "List who is always let in and who never", Roles: byAuditor},
		func(_ context.Context, in listIn) ([]GuardRow, error) {
			out := []GuardRow{}
			for _, which := range []string{"allow", "block"} {
				if in.List == "" || in.List == which {
					out = append(out, guardRows(d.Agreed.View(), which)...)
				}
			}
			return out, nil
		})
	return []command.Command{
		list,
		d.guardAdd("allow", "Always let a client or sender in", "postern guard allow 192.0.2.0/24 --why \"our branch office\""),
		d.guardAdd("block", "Never let a client or sender in", "postern guard block spammer.example --for 720h"),
		d.guardRemove(),
	}
}

var guardPrefixes = map[string]string{"allow": guard.AllowPrefix, "block": guard.BlockPrefix}

func guardRows(v *cluster.View, which string) []GuardRow {
	var out []GuardRow
	for key := range v.Prefix(guardPrefixes[which]) {
		e, _, err := settings.Read[guard.Entry](v, key)
		if err != nil {
			e = guard.Entry{Value: key[len(guardPrefixes[which]):], Why: "the entry is not readable; remove it"}
		}
		out = append(out, GuardRow{e.Value, which, e.Why, e.By, e.Created, e.Expires})
	}
	return out
}

func (d Deps) guardAdd(which, short, text string) command.Command {
	return command.New(command.Command{Noun: "guard", Verb: which, Short: short, Example: text, Roles: byServer, Changes: true},
		func(ctx context.Context, in guardIn) (GuardRow, error) {
			value, err := guard.NormalizeValue(in.Value)
			if err != nil {
				return GuardRow{}, err
			}
			if len(in.Why) > 200 || in.For < 0 {
				return GuardRow{}, kind.Errorf(kind.Invalid, "why: want at most 200 octets; for: want a time above zero")
			}
			now := d.Now().UTC().Truncate(time.Second)
			e := guard.Entry{Value: value, Why: in.Why, By: command.CallerOf(ctx).Name, Created: now}
			if in.For > 0 {
				e.Expires = now.Add(in.For)
			}
			err = settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
				other := guard.BlockPrefix
				if which == "block" {
					other = guard.AllowPrefix
				}
				if _, both := v.Get(other + value); both {
					return kind.WithHint(kind.Errorf(kind.Conflict, "%s is on the other list", value), "postern guard remove "+value)
				}
				t.Keep(other+value, 0)
				it, there := v.Get(guardPrefixes[which] + value)
				if !there && count(v, guardPrefixes[which]) >= maxEntries {
					return kind.Errorf(kind.Full, "the list has %d entries", maxEntries)
				}
				return t.Put(guardPrefixes[which]+value, it.Revision, e)
			})
			return GuardRow{e.Value, which, e.Why, e.By, e.Created, e.Expires}, err
		})
}

func (d Deps) guardRemove() command.Command {
	type removeIn struct {
		Value  string `json:"value" arg:"1" required:"true" doc:"as guard list shows it" complete:"guard list"`
		DryRun bool   `json:"dry_run" doc:"only show what would be done"`
	}
	c := removes("guard", "remove", "Take a client or sender off the lists", byServer, func(ctx context.Context, in removeIn) (command.Plan, error) {
		value := in.Value
		if spelled, err := guard.NormalizeValue(value); err == nil {
			value = spelled
		}
		drop := func(v *cluster.View, t *settings.Txn) error {
			for _, prefix := range guardPrefixes {
				if it, ok := v.Get(prefix + value); ok {
					t.Drop(prefix+value, it.Revision)
				}
			}
			if len(t.Then) == 0 {
				return noSuch("entry", value, "postern guard list")
			}
			return nil
		}
		if err := drop(d.Agreed.View(), new(settings.Txn)); err != nil {
			return command.Plan{}, err
		}
		return carryOut(in.DryRun, "remove entry", value, func() error { return settings.Change(ctx, d.Agreed, drop) })
	})
	c.Scoped = false // the lists are nobody's own
	return c
}
