package transport

import (
	"context"
	"encoding/binary"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/safetynet"
	"github.com/postern-mail/postern/internal/transport/schedule"
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
	waits := &stuck{}
	return health.TransportItems(health.Queues{
		Level: look(func() (health.Reading, error) {
			l := m.queue.Level()
			r := health.Reading{Text: l.String()}
			if l >= queue.LevelHigh {
				r.Value = 2
			}
			return r, nil
		}),
		Local: look(func() (health.Reading, error) { return waits.look(m.dispatch.Stats(), time.Now()), nil }),
		Alone: look(func() (health.Reading, error) {
			s := m.shadow.Status()
			if len(s.Candidates) == 0 {
				return health.Reading{Text: "no other server could have a copy"}, nil // Partner tells
			}
			return health.Reading{Value: float64(s.Alone)}, nil
		}),
		Reconciling: look(func() (health.Reading, error) {
			return health.Reading{Value: float64(m.shadow.Status().Reconciling)}, nil
		}),
		Requests: look(func() (health.Reading, error) { return m.requestHours(), nil }),
		Partner: look(func() (health.Reading, error) {
			n := len(m.shadow.Status().Candidates)
			if others := len(m.servers()) - 1; n == 0 && others > 0 {
				return health.Reading{}, kind.Errorf(kind.Busy, "none of %d other servers can store a message", others)
			}
			return health.Reading{Value: float64(n)}, nil
		}),
	})
}

// stuck notes since when mail for databases of this group gets nowhere.
type stuck struct {
	mu    sync.Mutex // guards since
	since time.Time
}

// look tells for how many seconds, without a break, a destination within the
// group has had mail and no success with it. Mail for other hosts may wait for
// days: that is theirs.
func (s *stuck) look(all []schedule.DestStats, now time.Time) health.Reading {
	worst := ""
	for _, d := range all {
		if strings.HasPrefix(string(d.Dest), "db:") && d.Fails > 0 && d.Suspended == 0 {
			worst = fmt.Sprintf("%s: %d messages, %s", d.Dest, d.Ready+d.Waiting+d.InFlight, d.Reason)
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case worst == "":
		s.since = time.Time{}
		return health.Reading{}
	case s.since.IsZero():
		s.since = now
	}
	return health.Reading{Value: now.Sub(s.since).Seconds(), Text: worst}
}

// requestHours is for how long the oldest Safety Net request that is not
// answered in full has run.
func (m *Mover) requestHours() health.Reading {
	var oldest time.Time
	for _, s := range m.net.Requests() {
		if (s.State == safetynet.StateNew || s.State == safetynet.StateRunning) && (oldest.IsZero() || s.Request.Created.Before(oldest)) {
			oldest = s.Request.Created
		}
	}
	if oldest.IsZero() {
		return health.Reading{}
	}
	return health.Reading{Value: m.now().Sub(oldest).Hours()}
}

// ClockOffset tells by how many seconds the clock of another server differs,
// from what it published (ClockSection) and when that came.
func ClockOffset(published []byte, came time.Time) (time.Duration, bool) {
	if len(published) != 8 || came.IsZero() {
		return 0, false
	}
	return time.Unix(0, int64(binary.BigEndian.Uint64(published))).Sub(came.Round(0)), true
}

// Resolves fails while none of the resolvers answers. In closed networks nobody
// is asked.
func (m *Mover) Resolves(ctx context.Context) (text string, err error) {
	if m.cfg.Private {
		return "a closed network: nobody is asked", nil
	}
	return m.resolver.Answers(ctx, m.hostname())
}

// Clock is the guarded clock of this server: it never goes back, and says when
// it is not to be believed.
func (m *Mover) Clock() health.Clock { return m.clock }
