package transport

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Health are the room's health items. m may be nil for listing them, and at a
// witness.
func Health(m *Mover) health.Items {
	const set = "HubTransport"
	look := func(name, unit, doc string, run func() (health.Reading, error)) health.Probe {
		p := health.Probe{Set: set, Name: name, Kind: health.Check, Where: health.Inside, Every: 10 * time.Second, Timeout: 10 * time.Second, Unit: unit, Doc: doc}
		p.Run = func(context.Context, string) (health.Reading, error) { return run() }
		if m == nil {
			p.Targets = func() []string { return nil }
		}
		return p
	}
	x := health.Items{
		Sets: []health.Set{
			{Name: set, Group: health.Services, Priority: org.PriorityCritical, Component: org.Transport, Doc: "Whether the queue takes and moves messages."},
			{Name: "Clock", Group: health.Resources, Priority: org.PriorityCritical, Doc: "Whether this server's clock can be believed."}},
		Probes: []health.Probe{
			look("Pressure", "", "The queue has room.", func() (health.Reading, error) {
				r := health.Reading{Text: m.queue.Level().String()}
				if m.queue.Level() >= queue.LevelHigh {
					return r, kind.Errorf(kind.Full, "pressure is %s", m.queue.Level())
				}
				return r, nil
			}),
			look("Alone", "messages", "Messages without a copy on a second server.", func() (health.Reading, error) {
				return health.Reading{Value: float64(m.shadow.Status().Alone)}, nil
			}),
			look("Unsettled", "messages", "Messages that wait until it is known whose they are.", func() (health.Reading, error) {
				return health.Reading{Value: float64(m.shadow.Reconciling())}, nil
			}),
			look("Stalled", "s", "Time for which the disk of the queue has not answered.", func() (health.Reading, error) {
				return health.Reading{Value: m.queue.Stats().Stalled.Seconds()}, nil
			}),
		},
		Monitors: []health.Monitor{
			{Set: set, Name: "Pressure", Probe: "Pressure", Rule: health.ConsecutiveFailures(6), Chain: health.TellChain(), Doc: "Pressure is high for a minute."},
			{Set: set, Name: "Alone", Probe: "Alone", Rule: health.AboveFor(0, "messages", 5*time.Minute), Chain: health.TellChain(), Doc: "Messages have no second copy for 5 min."},
			{Set: set, Name: "Unsettled", Probe: "Unsettled", Rule: health.AboveFor(0, "messages", 10*time.Minute), Chain: health.TellChain(), Doc: "Messages are unsettled for 10 min."},
			{Set: set, Name: "Stalled", Probe: "Stalled", Rule: health.Above(3, "s", 2), Chain: health.TellChain(), Doc: "The disk of the queue does not answer."},
			{Set: "Clock", Name: "Trusted", Probe: "Trusted", Rule: health.ConsecutiveFailures(2), Chain: health.TellChain(), Doc: "The clock differs from those of the other servers."},
		},
	}
	p := look("Trusted", "", "The clock agrees with those of the other servers.", func() (health.Reading, error) {
		if ok, why := m.clock.Trusted(); !ok {
			return health.Reading{}, kind.Errorf(kind.Conflict, "%s", why)
		}
		return health.Reading{}, nil
	})
	p.Set = "Clock"
	x.Probes = append(x.Probes, p)
	return x
}

// Clock is the guarded clock of this server: it never goes back, and says when
// it is not to be believed.
func (m *Mover) Clock() health.Clock { return m.clock }
