package manage

import (
	"context"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/transport/settings"
)

func transportCommands(d Deps) []command.Command {
	type showIn struct {
		Changed bool `json:"changed" doc:"only what is not the default"`
	}
	type setIn struct {
		Setting string `json:"setting" arg:"1" required:"true" doc:"name of the setting" complete:"transport show"`
		Value   string `json:"value" arg:"2" required:"true" doc:"its value; default takes it back"`
	}
	show := command.New(command.Command{Noun: "transport", Verb: "show", Short: "Show the settings of mail transport for the whole group", Roles: byAuditor},
		func(_ context.Context, in showIn) ([]settings.Setting, error) {
			stored, _, err := settings.Read[settings.Group](d.Agreed.View(), settings.GroupKey)
			if err != nil {
				return nil, err
			}
			return chosen(settings.List(stored), in.Changed), nil
		})
	set := command.New(command.Command{Noun: "transport", Verb: "set", Short: "Change a setting of mail transport for the whole group", Roles: byServer, Changes: true,
		Example: "postern transport set hold_time 3d\npostern transport set dnsbl zen.example=10,other.example=5\npostern transport set hold_time default"},
		func(ctx context.Context, in setIn) (settings.Setting, error) {
			var out settings.Group
			err := settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
				g, revision, err := settings.Read[settings.Group](v, settings.GroupKey)
				if err != nil {
					return err
				}
				before := g
				if err := g.Set(in.Setting, in.Value); err != nil {
					return err
				}
				if err := g.Validate(); err != nil {
					return err
				}
				if d.Covers != nil {
					if err := d.Covers(before, g); err != nil {
						return err
					}
				}
				out = g
				return t.Put(settings.GroupKey, revision, g)
			})
			if err != nil {
				return settings.Setting{}, err
			}
			return one(settings.List(out), in.Setting), nil
		})
	return []command.Command{show, set}
}

// chosen are all settings of a list, or those that are not the default.
func chosen(all []settings.Setting, changed bool) []settings.Setting {
	out := []settings.Setting{}
	for _, s := range all {
		if s.Changed || !changed {
			out = append(out, s)
		}
	}
	return out
}
