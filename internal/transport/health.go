package transport

import (
	"context"
	"slices"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Health are the room's health items. m may be nil for listing them, and at a
// witness, where nothing is looked at.
func Health(m *Mover) health.Items {
	look := func(f func() (health.Reading, error)) health.Look {
		return func(context.Context, string) (health.Reading, error) {
			if m == nil {
				return health.Reading{Text: "no queue here"}, nil
			}
			return f()
		}
	}
	x := health.TransportItems(health.Queues{
		Level: look(func() (health.Reading, error) {
			l := m.queue.Level()
			r := health.Reading{Text: l.String()}
			if l >= queue.LevelHigh {
				r.Value = 2
			}
			return r, nil
		}),
		Partner: look(func() (health.Reading, error) {
			n := len(m.shadow.Status().Candidates)
			if others := len(m.servers()) - 1; n == 0 && others > 0 {
				return health.Reading{}, kind.Errorf(kind.Busy, "none of %d other servers can store a message", others)
			}
			return health.Reading{Value: float64(n)}, nil
		}),
	})
	// Ages of messages are not kept: what has no look is left out.
	return without(x, "Oldest", "Alone", "Reconciling", "Requests")
}

// without leaves out probes and what reads them.
func without(x health.Items, names ...string) health.Items {
	x.Probes = slices.DeleteFunc(x.Probes, func(p health.Probe) bool { return slices.Contains(names, p.Name) })
	x.Monitors = slices.DeleteFunc(x.Monitors, func(m health.Monitor) bool { return slices.Contains(names, m.Probe) })
	x.Sets = slices.DeleteFunc(x.Sets, func(s health.Set) bool {
		return !slices.ContainsFunc(x.Probes, func(p health.Probe) bool { return p.Set == s.Name })
	})
	return x
}

// Clock is the guarded clock of this server: it never goes back, and says when
// it is not to be believed.
func (m *Mover) Clock() health.Clock { return m.clock }
