package schedule

const quantum = 64 << 10 // bytes per turn of a flow

const classes = 4 // mail.PriorityHigh to mail.PriorityLowest

const lowest = classes - 1

// stride of each priority: what one turn costs it. Shares are the inverse.
var stride = [classes]uint64{1, 4, 16, 64}

type flowState uint8

const (
	flowIdle   flowState = iota // nothing ready
	flowQueued                  // in its class
	flowParked                  // at a closed gate
)

type flowKey struct {
	dest   *dest
	sender *gate
	class  uint8
}

// flow is the mail of one sender for one destination in one priority.
type flow struct {
	dest    *dest
	gates   [gateKinds]*gate // of a share: nil where there is no such limit
	head    *item
	tail    *item
	refs    int32 // jobs, wherever they are
	pos     int32 // in its class
	class   uint8
	state   flowState
	deficit uint32 // bytes left of the last turn, below quantum
	round   uint64 // of its next turn
	seq     uint64 // within the round
	gate    *gate  // where it is parked
	prev    *flow  // at the gate
	next    *flow
}

func (f *flow) key() Flow {
	k := f.gates[ofSender].key
	return Flow{Organization: k.org, Sender: k.sender}
}

func (f *flow) append(it *item) {
	it.prev, it.next = f.tail, nil
	if f.tail != nil {
		f.tail.next = it
	} else {
		f.head = it
	}
	f.tail = it
}

func (f *flow) unlink(it *item) {
	if it.prev != nil {
		it.prev.next = it.next
	} else {
		f.head = it.next
	}
	if it.next != nil {
		it.next.prev = it.prev
	} else {
		f.tail = it.prev
	}
	it.prev, it.next = nil, nil
}

// class holds the flows of one priority of a destination in the order of their
// turns.
type class struct {
	flows pile[*flow]
	round uint64 // of the last turn
	seq   uint64
	pass  uint64 // what this priority has used up, in strides
}

func newClass() class {
	return class{flows: pile[*flow]{less: flowBefore, pos: flowPos}}
}

func flowBefore(a, b *flow) bool {
	return a.round < b.round || a.round == b.round && a.seq < b.seq
}
func flowPos(f *flow) *int32 { return &f.pos }

// join lets f have its turn in the next round at the earliest: a flow that is
// emptied and filled again does not overtake those that wait for theirs.
func (c *class) join(f *flow) {
	c.seq++
	f.round, f.seq = max(f.round, c.round+1), c.seq
	c.flows.push(f)
}

// took charges f for a job of size bytes and gives it its next turn.
func (c *class) took(f *flow, size uint32) {
	c.round = f.round
	c.seq++
	f.seq = c.seq
	f.round++
	left := int64(f.deficit) + quantum - int64(max(size, quantum))
	if left < 0 {
		skip := (-left + quantum - 1) / quantum
		f.round += uint64(skip)
		left += skip * quantum
	}
	f.deficit = uint32(left)
}

// dest is a destination.
type dest struct {
	name      Dest
	pool      *pool
	limits    Limits
	classes   [classes]class
	pass      uint64 // of the priority served last
	waiting   pile[*item]
	until     int64 // nothing before that time
	pace      pace
	timer     int64
	timePos   int32
	epoch     uint32 // grows when the destination is judged; older attempts judge no more
	fails     int32  // in a row
	limit     int32  // jobs in flight
	running   int32
	lowest    int32 // of these, of lowest priority
	queued    int32 // flows in classes
	items     int32
	ready     int32
	suspended int32
	inRing    bool
	idle      bool
	prev      *dest // in the ring of its pool, or among the idle
	next      *dest
	idleAt    int64
	reason    string
}

// room tells whether another attempt may run beside those that do.
func (d *dest) room() bool { return d.running < d.limit }

// at is the earliest time of the next attempt.
func (d *dest) at() int64 { return max(d.until, d.pace.at(d.limits.PerMinute)) }

// fixed destinations do not feel their way.
func (d *dest) fixed() bool { return d.limits.start() >= d.limits.concurrency() }

// choose gives the priority whose turn it is, nil when nothing is queued.
func (d *dest) choose() *class {
	best := -1
	others := false
	for i := range d.classes {
		c := &d.classes[i]
		if c.flows.len() == 0 {
			continue
		}
		if i == lowest && others && d.lowest >= max(1, d.limit/2) {
			continue
		}
		others = true
		if best < 0 || c.pass < d.classes[best].pass {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	c := &d.classes[best]
	d.pass = c.pass
	return c
}

// worked notes a sign of life: a delivery, or a word about one message. Hosts
// that answer every first try with 4xx (greylisting) are alive as well.
func (d *dest) worked() {
	if d.fails > 0 {
		d.fails, d.until, d.reason = 0, 0, ""
	}
	top := int32(d.limits.concurrency())
	if d.fixed() {
		d.limit = top
	} else {
		d.limit = min(d.limit+1, top)
	}
}

// learned tells whether forgetting the destination would lose something.
func (d *dest) learned(now int64) bool {
	return d.fails > 0 || d.until > now || d.limit != int32(d.limits.start()) || d.pace.tat > now
}

// destList is a list threaded through destinations.
type destList struct{ head, tail *dest }

func (l *destList) push(d *dest) {
	d.prev, d.next = l.tail, nil
	if l.tail != nil {
		l.tail.next = d
	} else {
		l.head = d
	}
	l.tail = d
}

func (l *destList) remove(d *dest) {
	if d.prev != nil {
		d.prev.next = d.next
	} else {
		l.head = d.next
	}
	if d.next != nil {
		d.next.prev = d.prev
	} else {
		l.tail = d.prev
	}
	d.prev, d.next = nil, nil
}

// pool is the destinations of a kind: those that can be tried now, in the order
// of their turns.
type pool struct {
	total   int
	running int
	ring    destList
}

func (p *pool) full() bool { return p.total > 0 && p.running >= p.total }
