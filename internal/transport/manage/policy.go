package manage

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// ofProvider are the limits that the servers set for an organization, not it
// for itself.
var ofProvider = []string{"messages_per_minute", "concurrency", "max_message"}

func policyCommands(d Deps) []command.Command {
	type showIn struct {
		Organization string `json:"organization" arg:"1" required:"true" doc:"organization" complete:"organization list"`
		Changed      bool   `json:"changed" doc:"only what is not the default"`
	}
	type setIn struct {
		Organization string `json:"organization" arg:"1" required:"true" doc:"organization" complete:"organization list"`
		Setting      string `json:"setting" arg:"2" required:"true" doc:"name of the setting"`
		Value        string `json:"value" arg:"3" required:"true" doc:"its value; default takes it back"`
	}
	return []command.Command{
		reads("policy", "show", "Show what an organization decided about its mail", func(ctx context.Context, in showIn) ([]settings.Setting, error) {
			o, err := d.organization(ctx, in.Organization)
			if err != nil {
				return nil, err
			}
			p, _, err := settings.Read[settings.Policy](d.Agreed.View(), settings.PolicyKey(o))
			if err != nil {
				return nil, err
			}
			return chosen(settings.List(p), in.Changed), nil
		}),
		example(changes("policy", "set", "Change what an organization decided about its mail", byAdmins,
			func(ctx context.Context, in setIn) (settings.Setting, error) {
				o, err := d.organization(ctx, in.Organization)
				if err != nil {
					return settings.Setting{}, err
				}
				if slices.Contains(ofProvider, strings.ReplaceAll(in.Setting, "-", "_")) && !ofServers(ctx) {
					return settings.Setting{}, kind.Errorf(kind.Denied, "%s is set by the administrators of the servers", in.Setting)
				}
				var out settings.Policy
				err = settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
					p, revision, err := settings.Read[settings.Policy](v, settings.PolicyKey(o))
					if err != nil {
						return err
					}
					p.Organization = o
					if err := p.Set(in.Setting, in.Value); err != nil {
						return err
					}
					if err := p.Validate(); err != nil {
						return err
					}
					out = p
					if revision == 0 {
						return created(v, t, o, settings.PolicyKey(o), p)
					}
					return t.Put(settings.PolicyKey(o), revision, p)
				})
				if err != nil {
					return settings.Setting{}, err
				}
				return one(settings.List(out), in.Setting), nil
			}), "postern policy set acme spam_action reject\npostern policy set acme attachments exe=reject,application/x-msdownload=quarantine"),
	}
}
