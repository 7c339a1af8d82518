package mailbox

import (
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
)

// Health are the room's health items. k may be nil for listing them.
func Health(k *Keeper) health.Items {
	const set = "DataProtection"
	copies := func() []string { return nil }
	if k != nil {
		copies = func() []string {
			var out []string
			for _, st := range k.Statuses() {
				out = append(out, string(st.Database))
			}
			return out
		}
	}
	look := func(name, unit, doc string, run func(org.CopyStatus) (health.Reading, error)) health.Probe {
		return health.Probe{Set: set, Name: name, Kind: health.Check, Where: health.Inside, Every: 5 * time.Second, Timeout: 5 * time.Second, Unit: unit, Doc: doc,
			Targets: copies, Run: func(_ context.Context, db string) (health.Reading, error) {
				all := k.Statuses()
				i := slices.IndexFunc(all, func(s org.CopyStatus) bool { return s.Database == org.DatabaseName(db) })
				if i < 0 {
					return health.Reading{}, nil // removed meanwhile
				}
				return run(all[i])
			}}
	}
	return health.Items{
		Sets: []health.Set{{Name: set, Group: health.Services, Priority: org.PriorityCritical, Component: org.HighAvailability, HA: true,
			Doc: "Whether the copies of databases on this server are as they should be."}},
		Probes: []health.Probe{
			look("State", "", "The copy is not failed.", func(s org.CopyStatus) (health.Reading, error) {
				r := health.Reading{Text: string(s.State)}
				if s.State == org.CopyFailed || s.State == org.CopyFailedAndSuspended {
					return r, kind.Errorf(kind.Internal, "%s: %s", s.State, s.Reason)
				}
				return r, nil
			}),
			look("CopyQueue", "generations", "Log that the copy has not received.", func(s org.CopyStatus) (health.Reading, error) {
				return health.Reading{Value: float64(s.CopyQueueLength()), Text: string(s.State)}, nil
			}),
			look("ReplayQueue", "generations", "Log that the index has not applied.", func(s org.CopyStatus) (health.Reading, error) {
				return health.Reading{Value: float64(s.ReplayQueueLength()), Text: string(s.State)}, nil
			}),
		},
		Monitors: []health.Monitor{
			{Set: set, Name: "State", Probe: "State", Rule: health.ConsecutiveFailures(2), Timeline: health.CopyTimeline(), Chain: health.TellChain(), Doc: "The copy has failed."},
			{Set: set, Name: "CopyQueue", Probe: "CopyQueue", Rule: health.AboveFor(10, "generations", 5*time.Minute), Chain: health.TellChain(), Doc: "The copy is more than 10 generations behind for 5 min."},
			{Set: set, Name: "ReplayQueue", Probe: "ReplayQueue", Rule: health.AboveFor(50, "generations", 5*time.Minute), Chain: health.TellChain(), Doc: "More than 50 generations wait for replay for 5 min."},
		},
	}
}
