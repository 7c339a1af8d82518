package schedule

import "github.com/postern-mail/postern/internal/org"

type gateKind uint8

const (
	ofOrganization gateKind = iota
	ofSender
	ofShare // what one organization has of one destination
	gateKinds
)

type gateKey struct {
	kind   gateKind
	org    org.OrganizationID
	sender uint64
	dest   *dest // of a share
}

// gate is a limit that many flows share. Flows that find it closed are parked
// at it and not looked at until it opens.
type gate struct {
	key     gateKey
	share   Share
	running int32
	refs    int32 // flows
	parked  int32
	timePos int32
	head    *flow
	tail    *flow
	pace    pace
	timer   int64
	opening bool // is in Scheduler.opening
}

func (g *gate) open(now int64) bool {
	return (g.share.Concurrency <= 0 || int(g.running) < g.share.Concurrency) && g.pace.at(g.share.PerMinute) <= now
}

func (g *gate) park(f *flow) {
	f.state, f.gate = flowParked, g
	f.prev, f.next = g.tail, nil
	if g.tail != nil {
		g.tail.next = f
	} else {
		g.head = f
	}
	g.tail = f
	g.parked++
}

func (g *gate) unpark(f *flow) {
	if f.prev != nil {
		f.prev.next = f.next
	} else {
		g.head = f.next
	}
	if f.next != nil {
		f.next.prev = f.prev
	} else {
		g.tail = f.prev
	}
	f.prev, f.next, f.gate, f.state = nil, nil, nil, flowIdle
	g.parked--
}

func (s *Scheduler) gateOf(k gateKey, share Share) *gate {
	g := s.gates[k]
	if g == nil {
		g = &gate{key: k, share: share, timePos: -1}
		s.gates[k] = g
	}
	return g
}

// reviewGate notes when the gate has to be looked at again: now, when its pace
// allows, or never; and forgets it when nothing needs it.
func (s *Scheduler) reviewGate(g *gate) {
	at := int64(Never)
	switch {
	case g.refs == 0 && g.running == 0:
		if s.gates[g.key] != g { // forgotten already, and perhaps made anew
			return
		}
		if g.share.PerMinute <= 0 || g.pace.tat <= s.now {
			s.gateTimes.remove(g)
			delete(s.gates, g.key)
			return
		}
		at = g.pace.tat
	case g.parked > 0 && g.open(s.now):
		if !g.opening {
			g.opening = true
			s.opening = append(s.opening, g)
		}
	case g.parked > 0 && (g.share.Concurrency <= 0 || int(g.running) < g.share.Concurrency):
		at = g.pace.at(g.share.PerMinute)
	}
	setTimer(&s.gateTimes, g, &g.timer, at)
}

func setTimer[T any](p *pile[T], x T, timer *int64, at int64) {
	switch was := *p.pos(x) >= 0; {
	case at == Never:
		p.remove(x)
		*timer = at
	case !was:
		*timer = at
		p.push(x)
	case *timer != at:
		*timer = at
		p.moved(x)
	}
}

// thaw puts flows parked at open gates back into their destinations, until one
// came to a destination that can be tried now. Flows are bounded per call: what
// is left is for the next.
func (s *Scheduler) thaw() {
	for n := 0; n < 8 && len(s.opening) > 0; n++ {
		g := s.opening[0]
		s.opening = s.opening[1:]
		g.opening = false
		if g.head == nil || !g.open(s.now) {
			s.reviewGate(g)
			continue
		}
		f := g.head
		g.unpark(f)
		s.enqueue(f)
		s.reviewGate(g) // to the end of the line when there is more
		if f.dest.inRing {
			return
		}
	}
}
