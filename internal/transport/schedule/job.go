package schedule

import (
	"math"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Never is the time of what does not happen by itself.
const Never = math.MaxInt64

// Dest names where deliveries go: a kind, a colon and a name, such as
// "db:DB01", "mx:example.com", "connector:org/name" or "smarthost:name".
type Dest string

// Kind is what stands before the colon; it chooses the limits.
func (d Dest) Kind() string {
	k, _, _ := strings.Cut(string(d), ":")
	return k
}

// Flow is whose mail it is. Flows take turns.
type Flow struct {
	Organization org.OrganizationID
	Sender       uint64 // hash of the sender
}

// Job is one message for one destination.
type Job struct {
	ID       mail.TraceID
	Dest     Dest
	Rows     []uint16 // the recipients that go there, by their number in the message
	Flow     Flow
	Size     int64 // bytes of the message
	Priority mail.Priority
	// Next is the earliest time of the next attempt, 0 for now.
	Next int64
	// Notice is when somebody has to look at the job because it waits for long
	// (delay notice), 0 for never.
	Notice int64
	// Expires is when the job is to be returned, 0 for never.
	Expires int64
	// Attempts made; where Next hands the job out, the one that begins counts.
	Attempts uint16
	// Suspended jobs wait for Resume.
	Suspended bool
	// Ref is the caller's.
	Ref uint64
}

// Result is how an attempt ended, as far as the schedule is concerned.
type Result uint8

// The results.
const (
	// OK: the destination worked and the job is over.
	OK Result = iota
	// Defer: the destination worked, the job has to wait (4xx for the message).
	Defer
	// DeferDest: the destination does not work; everything for it waits.
	DeferDest
	// Slow: this connection failed beside others that may work, or the
	// destination asked for less. With a Wait the destination rests so long.
	Slow
	// Gone: the job is over and says nothing about the destination.
	Gone
	// Back: nothing was tried; the job goes back to where it was.
	Back
)

// Outcome is what Done is told.
type Outcome struct {
	Result Result
	// Wait before the next attempt: of the job for Defer, of the destination for
	// DeferDest and Slow. 0 leaves it to the ladder.
	Wait time.Duration
	// Reason is shown by Stats.
	Reason string
}

type itemState uint8

const (
	ready     itemState = iota // in its flow
	waiting                    // in its destination's heap by time
	suspended                  // nowhere
	flying                     // handed out by Next
	looked                     // handed out by Overdue
)

// item is a job as it is kept. Its size times the number of jobs is the memory
// of the queue: 112 bytes.
type item struct {
	id      mail.TraceID
	flow    *flow
	sibling *item // the next job of the same message
	prev    *item // in the flow, first in first out
	next    *item
	more    *[]uint16 // rows where there is not exactly one
	ref     uint64
	at      int64 // own earliest time
	notice  int64
	expires int64
	waitPos int32 // in the destination's waiting heap
	duePos  int32 // in the heap of what has to be looked at
	size    uint32
	epoch   uint32 // the destination's when the attempt began
	row     uint16
	attempt uint16
	state   itemState
	flags   uint8
}

const (
	flagRemoved uint8 = 1 << iota // goes when its attempt ends
	flagHold                      // is suspended when its attempt ends
)

// due is when somebody has to look at the job whatever its destination does.
func (it *item) due() int64 { return min(it.notice, it.expires) }

func orNever(t int64) int64 {
	if t <= 0 {
		return Never
	}
	return t
}

func orZero(t int64) int64 {
	if t == Never {
		return 0
	}
	return t
}

// update takes over what the caller may change between attempts.
func (it *item) update(j Job) {
	it.row, it.more = 0, nil
	if len(j.Rows) == 1 {
		it.row = j.Rows[0]
	} else {
		rows := append([]uint16(nil), j.Rows...)
		it.more = &rows
	}
	it.size = uint32(min(max(j.Size, 0), math.MaxUint32))
	it.notice, it.expires = orNever(j.Notice), orNever(j.Expires)
	it.ref = j.Ref
}

func (it *item) job() Job {
	rows := []uint16{it.row}
	if it.more != nil {
		rows = append([]uint16(nil), *it.more...)
	}
	return Job{ID: it.id, Dest: it.flow.dest.name, Rows: rows, Flow: it.flow.key(), Size: int64(it.size),
		Priority: mail.Priority(it.flow.class), Next: it.at, Notice: orZero(it.notice), Expires: orZero(it.expires),
		Attempts: it.attempt, Suspended: it.state == suspended, Ref: it.ref}
}
