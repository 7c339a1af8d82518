package schedule

import (
	"encoding/binary"
	"hash/fnv"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Step is a rung of a Ladder: Times waits of Wait each.
type Step struct {
	Times int
	Wait  time.Duration
}

// Ladder says how long to wait after each failure in a row; the last step goes
// on for ever. An empty one is one of a minute.
type Ladder []Step

// Wait is the pause after the given failure in a row, counted from 1, within
// 10 % of what the ladder says. The deviation depends on seed and attempt only,
// so that what failed together does not come back together, and a restart or
// another server computes the same.
func (l Ladder) Wait(attempt int, seed uint64) time.Duration {
	if len(l) == 0 {
		l = Ladder{{1, time.Minute}}
	}
	w := l[len(l)-1].Wait
	n := attempt
	for _, s := range l {
		if n <= s.Times {
			w = s.Wait
			break
		}
		n -= s.Times
	}
	var b [16]byte
	binary.BigEndian.PutUint64(b[:], seed)
	binary.BigEndian.PutUint64(b[8:], uint64(attempt))
	return w + time.Duration((int64(hash(b[:])%2001)-1000)*int64(w)/10_000)
}

func hash(b []byte) uint64 {
	h := fnv.New64a()
	h.Write(b)
	x := h.Sum64() // its last bytes move the low bits only: mix (splitmix64)
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}

// Limits hold for a kind of destination or for one destination. Zero is no
// limit, except for Start and Concurrency, which are at least 1.
type Limits struct {
	Start           int // jobs in flight to a destination nothing is known of
	Concurrency     int // jobs in flight to one destination at most
	PerOrganization int // of these, for one organization
	PerMinute       int // starts to one destination; a tenth of it may come at once
	Total           int // jobs in flight to all destinations of the kind; not per destination
	Dest            Ladder
	Message         Ladder
}

func (l Limits) concurrency() int { return max(l.Concurrency, 1) }
func (l Limits) start() int       { return min(max(l.Start, 1), l.concurrency()) }

func (l Limits) again(attempt uint16, id mail.TraceID) time.Duration {
	return l.Message.Wait(int(attempt), hash(id[:]))
}

// Again is when a message that a destination deferred is tried again, after the
// given number of attempts.
func (r *Rules) Again(d Dest, attempt uint16, id mail.TraceID) time.Duration {
	return r.limits(d).again(attempt, id)
}

// Share is what one organization or one sender may have of everything. Zero is
// no limit.
type Share struct {
	Concurrency int // jobs in flight
	PerMinute   int // starts; a tenth of it may come at once
}

// Rules are the settings of a Scheduler.
type Rules struct {
	Kinds         map[string]Limits // by Dest.Kind
	Default       Limits            // for other kinds, which share its Total
	Dests         map[Dest]Limits   // for single destinations, before Kinds
	Organization  Share             // for each
	Organizations map[org.OrganizationID]Share
	Sender        Share
	MaxJobs       int
	MaxDests      int
}

// DefaultRules are the defaults of docs/settings.md: 4 x 1 min, 6 x 5 min, then
// every 10 min for a remote destination that fails, 5 to 15 min for a message
// it defers, 250 ms to 5 s for databases.
func DefaultRules() Rules {
	remote := Limits{Start: 2, Concurrency: 20, Total: 1024,
		Dest:    Ladder{{4, time.Minute}, {6, 5 * time.Minute}, {1, 10 * time.Minute}},
		Message: Ladder{{1, 5 * time.Minute}, {1, 10 * time.Minute}, {1, 15 * time.Minute}}}
	busy := Ladder{{1, 250 * time.Millisecond}, {1, 500 * time.Millisecond}, {1, time.Second}, {1, 2 * time.Second}, {1, 5 * time.Second}}
	return Rules{
		Kinds:        map[string]Limits{"db": {Start: 64, Concurrency: 64, Total: 512, Dest: busy, Message: busy}},
		Default:      remote,
		Organization: Share{Concurrency: 512},
		Sender:       Share{Concurrency: 256},
		MaxJobs:      2_000_000,
		MaxDests:     200_000,
	}
}

func (r *Rules) limits(d Dest) Limits {
	if l, ok := r.Dests[d]; ok {
		return l
	}
	return r.ofKind(d.Kind())
}

func (r *Rules) ofKind(kind string) Limits {
	if l, ok := r.Kinds[kind]; ok {
		return l
	}
	return r.Default
}

func (r *Rules) share(o org.OrganizationID) Share {
	if s, ok := r.Organizations[o]; ok {
		return s
	}
	return r.Organization
}

// pace spaces starts (GCRA, as in ITU-T I.371): a start is allowed from tat
// minus the burst on, and moves tat on by one interval.
type pace struct{ tat int64 }

// at is when the next start is allowed.
func (p *pace) at(perMinute int) int64 {
	if perMinute <= 0 {
		return 0
	}
	every := int64(time.Minute) / int64(perMinute)
	return p.tat - every*int64(max(perMinute/10, 1)-1)
}

func (p *pace) start(now int64, perMinute int) {
	if perMinute > 0 {
		p.tat = max(p.tat, now) + int64(time.Minute)/int64(perMinute)
	}
}
