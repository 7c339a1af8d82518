package mailbox

import (
	"errors"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// seedProgress is how far the seed of a copy is.
type seedProgress struct {
	active      bool
	total, done int64
	source      org.ServerName
	samples     []seedSample // of the last seconds
}

// seedSample is what had come in at a moment.
type seedSample struct {
	at   time.Time
	done int64
}

// Over which time the rate of a seed is taken, and how often it is noted.
const (
	rateWindow = 10 * time.Second
	rateEvery  = 250 * time.Millisecond
)

// note records how much has come in.
func (p *seedProgress) note(done int64, now time.Time) {
	p.done = done
	if n := len(p.samples); n > 0 && now.Sub(p.samples[n-1].at) < rateEvery {
		return
	}
	p.samples = append(p.samples, seedSample{now, done})
	for len(p.samples) > 2 && now.Sub(p.samples[0].at) > rateWindow {
		p.samples = p.samples[1:]
	}
}

// rate is how fast the seed comes in now, in bytes per second.
func (p *seedProgress) rate(now time.Time) int64 {
	if len(p.samples) == 0 {
		return 0
	}
	first := p.samples[0]
	took := now.Sub(first.at)
	if took < rateEvery {
		return 0
	}
	return max(0, int64(float64(p.done-first.done)/took.Seconds()))
}

// errSeedWaits is the end of a connection whose seed has no slot yet.
var errSeedWaits = errors.New("the seed waits for others")

// seedWait is the pause between two looks for a slot.
const seedWait = 500 * time.Millisecond

// seedSlots bound how many copies of this server are seeded at a time, and how
// many of them from one server.
type seedSlots struct {
	most, perSource int

	mu    sync.Mutex // guards taken
	taken map[org.DatabaseName]org.ServerName
}

// take claims a slot for a database, or says that it has to wait. give gives
// it back.
func (s *seedSlots) take(db org.DatabaseName, source org.ServerName) (give func(), err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	same := 0
	for other, from := range s.taken {
		if from == source && other != db {
			same++
		}
	}
	if _, mine := s.taken[db]; !mine && len(s.taken) >= s.most {
		return nil, kind.Errorf(kind.Busy, "waits: %d seeds are under way here, the most there may be", len(s.taken))
	}
	if same >= s.perSource {
		return nil, kind.Errorf(kind.Busy, "waits: %d seeds from %s are under way here", same, source)
	}
	s.taken[db] = source
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.taken, db)
	}, nil
}
