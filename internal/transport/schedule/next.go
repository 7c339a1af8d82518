package schedule

import "github.com/postern-mail/postern/internal/base/kind"

// advance lets the time be now.
func (s *Scheduler) advance(now int64) {
	s.now = max(s.now, now)
	for s.destTimes.len() > 0 && s.destTimes.top().timer <= s.now {
		s.review(s.destTimes.top())
	}
	for s.gateTimes.len() > 0 && s.gateTimes.top().timer <= s.now {
		s.reviewGate(s.gateTimes.top())
	}
	for d := s.idle.head; d != nil && (s.idles > maxIdle || d.idleAt <= s.now-keepIdle); d = s.idle.head {
		s.forget(d)
	}
}

// review puts a destination where it belongs after anything about it changed:
// into the ring of those that can be tried, under the timer, among the idle.
func (s *Scheduler) review(d *dest) {
	for d.waiting.len() > 0 && d.waiting.top().at <= s.now {
		it := d.waiting.top()
		d.waiting.remove(it)
		s.ripe(it)
	}
	timer := int64(Never)
	if d.waiting.len() > 0 {
		timer = d.waiting.top().at
	}
	can := d.queued > 0 && d.room()
	if can && d.at() > s.now {
		timer = min(timer, d.at())
		can = false
	}
	if can != d.inRing {
		d.inRing = can
		if can {
			d.pool.ring.push(d)
		} else {
			d.pool.ring.remove(d)
		}
	}
	setTimer(&s.destTimes, d, &d.timer, timer)
	if d.items == 0 && !d.idle {
		if s.rest(d); !d.learned(s.now) {
			s.forget(d)
		}
	}
}

// Next gives the job to be attempted now; false: there is none before Wake,
// or before another call. The job is in flight until Done.
func (s *Scheduler) Next(now int64) (Job, bool) {
	s.advance(now)
	for {
		s.thaw()
		for range s.order {
			s.turn = (s.turn + 1) % len(s.order)
			p := s.order[s.turn]
			for !p.full() && p.ring.head != nil {
				d := p.ring.head
				if it := s.pick(d); it != nil {
					s.start(it)
					return it.job(), true
				}
				s.review(d)
			}
		}
		if len(s.opening) == 0 {
			return Job{}, false
		}
	}
}

// pick takes out the job whose turn it is at d; flows that meet a closed gate
// are parked on the way.
func (s *Scheduler) pick(d *dest) *item {
	for {
		c := d.choose()
		if c == nil {
			return nil
		}
		f := c.flows.top()
		if g := s.closed(f); g != nil {
			s.dequeue(f)
			g.park(f)
			s.reviewGate(g)
			continue
		}
		it := f.head
		c.took(f, it.size)
		c.flows.moved(f)
		c.pass += stride[f.class]
		s.detach(it)
		return it
	}
}

func (s *Scheduler) closed(f *flow) *gate {
	for _, g := range f.gates {
		if g != nil && !g.open(s.now) {
			return g
		}
	}
	return nil
}

func (s *Scheduler) start(it *item) {
	f, d := it.flow, it.flow.dest
	it.state = flying
	it.epoch = d.epoch
	if it.attempt < ^uint16(0) {
		it.attempt++
	}
	d.running++
	d.pool.running++
	if f.class == lowest {
		d.lowest++
	}
	d.pace.start(s.now, d.limits.PerMinute)
	for _, g := range f.gates {
		if g != nil {
			g.running++
			g.pace.start(s.now, g.share.PerMinute)
		}
	}
	d.pool.ring.remove(d) // its next turn is after the others'
	d.inRing = false
	s.review(d)
}

// Wake is when Next or Overdue may have something without another call in
// between: Never, or a time that may have passed already.
func (s *Scheduler) Wake() int64 {
	at := int64(Never)
	if s.destTimes.len() > 0 {
		at = min(at, s.destTimes.top().timer)
	}
	if s.gateTimes.len() > 0 {
		at = min(at, s.gateTimes.top().timer)
	}
	if s.due.len() > 0 {
		at = min(at, s.due.top().due())
	}
	return at
}

// Overdue gives a job whose Notice or Expires has come, whatever its
// destination does. It counts against no limit and is in flight until Done:
// with Back and a later Notice, or with Gone. Jobs in flight and suspended ones
// are not given.
func (s *Scheduler) Overdue(now int64) (Job, bool) {
	s.advance(now)
	if s.due.len() == 0 || s.due.top().due() > s.now {
		return Job{}, false
	}
	it := s.due.top()
	s.detach(it)
	it.state = looked
	s.review(it.flow.dest)
	return it.job(), true
}

// Done ends the attempt of a job that Next or Overdue gave. Unless it is over,
// its Rows, Size, Notice, Expires and Ref are taken from j and it goes back;
// the answer is the earliest time of its next attempt, Never when it is over or
// suspended. NotFound: no such job is in flight.
func (s *Scheduler) Done(j Job, o Outcome, now int64) (int64, error) {
	s.advance(now)
	it := s.find(j.ID, j.Dest)
	if it == nil || it.state != flying && it.state != looked {
		return Never, kind.Errorf(kind.NotFound, "schedule %s for %.300s: not in flight", j.ID, j.Dest)
	}
	d := it.flow.dest
	at := it.at
	if it.state == flying {
		s.land(it)
		at = s.judge(it, o)
	} else if o.Wait > 0 {
		at = s.now + int64(o.Wait)
	}
	defer s.review(d)
	if o.Result == OK || o.Result == Gone || it.flags&flagRemoved != 0 {
		s.drop(it)
		return Never, nil
	}
	it.update(j)
	s.place(it, at)
	if it.state == suspended {
		return Never, nil
	}
	return max(at, d.until), nil
}

// land gives back what start took.
func (s *Scheduler) land(it *item) {
	f, d := it.flow, it.flow.dest
	d.running--
	d.pool.running--
	if f.class == lowest {
		d.lowest--
	}
	for _, g := range f.gates {
		if g != nil {
			g.running--
			s.reviewGate(g)
		}
	}
}

// judge learns about the destination from how an attempt ended, and tells when
// the job may be tried again.
func (s *Scheduler) judge(it *item, o Outcome) int64 {
	d := it.flow.dest
	r := o.Result
	if r == Slow && o.Wait == 0 && d.running == 0 {
		r = DeferDest // nothing beside it works: there is no slower than that
	}
	current := it.epoch == d.epoch
	switch r {
	case OK:
		d.worked()
	case Defer:
		d.worked()
		if o.Wait > 0 {
			return s.now + int64(o.Wait)
		}
		return s.now + int64(d.limits.again(it.attempt, it.id))
	case DeferDest:
		if current {
			d.epoch++
			d.fails++
			d.limit = 1
			d.reason = o.Reason
			wait := o.Wait
			if wait <= 0 {
				wait = d.limits.Dest.Wait(int(d.fails), hash([]byte(d.name)))
			}
			d.until = s.now + int64(wait)
		}
	case Slow:
		if current {
			d.epoch++
			d.limit = max(1, d.limit/2)
			d.reason = o.Reason
		}
		if o.Wait > 0 {
			d.until = max(d.until, s.now+int64(o.Wait))
		}
	case Back:
		it.attempt--
		if o.Wait > 0 {
			return s.now + int64(o.Wait)
		}
		return it.at
	}
	return s.now
}
