package schedule

import (
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

const (
	maxIdle    = 4096 // destinations without jobs of which something is known
	keepIdle   = int64(10 * time.Minute)
	maxHolds   = 1000
	otherKinds = "" // the pool of kinds without rules of their own
)

// Scheduler holds all jobs that are not over.
type Scheduler struct {
	rules     Rules
	now       int64
	jobs      map[mail.TraceID]*item // the first of each message
	count     int
	due       pile[*item]
	dests     map[Dest]*dest
	destTimes pile[*dest]
	idle      destList
	idles     int
	flows     map[flowKey]*flow
	gates     map[gateKey]*gate
	gateTimes pile[*gate]
	opening   []*gate // gates with parked flows that may go on
	pools     map[string]*pool
	order     []*pool
	turn      int
	holds     []Selector
}

// New makes an empty scheduler.
func New(r Rules) *Scheduler {
	return &Scheduler{
		rules: r,
		jobs:  map[mail.TraceID]*item{}, dests: map[Dest]*dest{}, flows: map[flowKey]*flow{},
		gates: map[gateKey]*gate{}, pools: map[string]*pool{},
		due: pile[*item]{less: func(a, b *item) bool { return a.due() < b.due() },
			pos: func(it *item) *int32 { return &it.duePos }},
		destTimes: pile[*dest]{less: func(a, b *dest) bool { return a.timer < b.timer },
			pos: func(d *dest) *int32 { return &d.timePos }},
		gateTimes: pile[*gate]{less: func(a, b *gate) bool { return a.timer < b.timer },
			pos: func(g *gate) *int32 { return &g.timePos }},
	}
}

// Len counts the jobs that are not over.
func (s *Scheduler) Len() int { return s.count }

// Add takes a job. Exists: this message has a job for that destination already.
// Full: there is no place for another job or destination now. Invalid: the job
// names no message, destination or priority.
func (s *Scheduler) Add(j Job, now int64) error {
	s.advance(now)
	if j.Dest == "" || j.Priority > mail.PriorityLowest || (j.ID == mail.TraceID{}) {
		return kind.Errorf(kind.Invalid, "schedule %s: no identity, destination or priority", j.ID)
	}
	if s.find(j.ID, j.Dest) != nil {
		return kind.Errorf(kind.Exists, "schedule %s for %.300s: it is already", j.ID, j.Dest)
	}
	if s.rules.MaxJobs > 0 && s.count >= s.rules.MaxJobs {
		return kind.Errorf(kind.Full, "schedule %s: %d jobs already", j.ID, s.count)
	}
	d := s.dests[j.Dest]
	if d == nil {
		if d = s.newDest(j.Dest); d == nil {
			return kind.Errorf(kind.Full, "schedule %s: %d destinations already", j.ID, len(s.dests))
		}
	}
	it := &item{id: j.ID, waitPos: -1, duePos: -1, attempt: j.Attempts, sibling: s.jobs[j.ID]}
	s.jobs[j.ID] = it
	it.flow = s.flowOf(d, j.Flow, j.Priority)
	it.flow.refs++
	it.update(j)
	s.count++
	s.wakeIdle(d)
	d.items++
	if j.Suspended || s.held(it) {
		it.flags |= flagHold
	}
	s.place(it, j.Next)
	s.review(d)
	return nil
}

func (s *Scheduler) find(id mail.TraceID, name Dest) *item {
	for it := s.jobs[id]; it != nil; it = it.sibling {
		if it.flow.dest.name == name {
			return it
		}
	}
	return nil
}

// place puts a job that is nowhere where it belongs, to be tried from at on.
func (s *Scheduler) place(it *item, at int64) {
	d := it.flow.dest
	it.at = at
	if it.flags&flagHold != 0 {
		it.flags &^= flagHold
		it.state = suspended
		d.suspended++
		return
	}
	if it.due() != Never {
		s.due.push(it)
	}
	if at > s.now {
		it.state = waiting
		d.waiting.push(it)
		return
	}
	s.ripe(it)
}

// ripe puts a job at the end of its flow.
func (s *Scheduler) ripe(it *item) {
	it.state = ready
	it.flow.dest.ready++
	it.flow.append(it)
	if it.flow.state == flowIdle {
		s.enqueue(it.flow)
	}
}

// detach takes a job out of wherever it waits.
func (s *Scheduler) detach(it *item) {
	f, d := it.flow, it.flow.dest
	s.due.remove(it)
	switch it.state {
	case waiting:
		d.waiting.remove(it)
	case suspended:
		d.suspended--
	case ready:
		d.ready--
		f.unlink(it)
		if f.head != nil {
			return
		}
		switch f.state {
		case flowQueued:
			s.dequeue(f)
		case flowParked:
			g := f.gate
			g.unpark(f)
			s.reviewGate(g)
		}
	}
}

// enqueue gives an idle flow its place in its destination.
func (s *Scheduler) enqueue(f *flow) {
	d := f.dest
	c := &d.classes[f.class]
	if c.flows.len() == 0 {
		c.pass = max(c.pass, d.pass)
	}
	f.state = flowQueued
	c.join(f)
	d.queued++
	if d.queued == 1 {
		s.review(d)
	}
}

func (s *Scheduler) dequeue(f *flow) {
	f.dest.classes[f.class].flows.remove(f)
	f.state = flowIdle
	f.dest.queued--
}

// drop forgets a job that is nowhere.
func (s *Scheduler) drop(it *item) {
	f, d := it.flow, it.flow.dest
	if p := s.jobs[it.id]; p != it {
		for p.sibling != it {
			p = p.sibling
		}
		p.sibling = it.sibling
	} else if it.sibling != nil {
		s.jobs[it.id] = it.sibling
	} else {
		delete(s.jobs, it.id)
	}
	s.count--
	d.items--
	if f.refs--; f.refs > 0 {
		return
	}
	delete(s.flows, flowKey{d, f.gates[ofSender], f.class})
	for _, g := range f.gates {
		if g != nil {
			g.refs--
			s.reviewGate(g)
		}
	}
}

func (s *Scheduler) flowOf(d *dest, k Flow, p mail.Priority) *flow {
	sender := s.gateOf(gateKey{kind: ofSender, org: k.Organization, sender: k.Sender}, s.rules.Sender)
	key := flowKey{d, sender, uint8(p)}
	f := s.flows[key]
	if f != nil {
		return f
	}
	f = &flow{dest: d, class: uint8(p), pos: -1}
	f.gates[ofSender] = sender
	f.gates[ofOrganization] = s.gateOf(gateKey{kind: ofOrganization, org: k.Organization}, s.rules.share(k.Organization))
	f.gates[ofShare] = s.shareOf(f)
	for _, g := range f.gates {
		if g != nil {
			g.refs++
		}
	}
	s.flows[key] = f
	return f
}

// shareOf is the gate between an organization and a destination, nil where
// there is no such limit.
func (s *Scheduler) shareOf(f *flow) *gate {
	n := f.dest.limits.PerOrganization
	if n <= 0 {
		return nil
	}
	return s.gateOf(gateKey{kind: ofShare, org: f.gates[ofSender].key.org, dest: f.dest}, Share{Concurrency: n})
}

func (s *Scheduler) poolOf(d Dest) *pool {
	name := d.Kind()
	if _, ok := s.rules.Kinds[name]; !ok {
		name = otherKinds
	}
	p := s.pools[name]
	if p == nil {
		p = &pool{total: s.rules.ofKind(name).Total}
		s.pools[name] = p
		s.order = append(s.order, p)
	}
	return p
}

// newDest makes a destination, nil when there are too many.
func (s *Scheduler) newDest(name Dest) *dest {
	if s.rules.MaxDests > 0 && len(s.dests) >= s.rules.MaxDests {
		if s.idles == 0 {
			return nil
		}
		s.forget(s.idle.head)
	}
	l := s.rules.limits(name)
	d := &dest{name: name, pool: s.poolOf(name), limits: l, limit: int32(l.start()), timePos: -1, timer: Never}
	for i := range d.classes {
		d.classes[i] = newClass()
	}
	d.waiting = pile[*item]{less: func(a, b *item) bool { return a.at < b.at },
		pos: func(it *item) *int32 { return &it.waitPos }}
	s.dests[name] = d
	s.rest(d)
	return d
}

// rest puts a destination without jobs among the idle ones.
func (s *Scheduler) rest(d *dest) {
	d.idle, d.idleAt = true, s.now
	s.idle.push(d)
	s.idles++
}

func (s *Scheduler) wakeIdle(d *dest) {
	if d.idle {
		d.idle = false
		s.idle.remove(d)
		s.idles--
	}
}

func (s *Scheduler) forget(d *dest) {
	s.wakeIdle(d)
	s.destTimes.remove(d)
	delete(s.dests, d.name)
}
