package queue

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// State of a row, which is one message for one recipient.
type State uint8

// The states. Numbers are on disks and never change.
const (
	StateNew         State = 1  // accepted, its destination not known yet
	StateReady       State = 2  // may be tried
	StateAttempt     State = 3  // a remote host is being tried; the final dot may follow
	StateDeferred    State = 4  // to be tried again at Next
	StateDoubtful    State = 5  // an attempt was cut short: the host may have it
	StateSuspended   State = 6  // held back by an administrator or a guard
	StateHeld        State = 7  // of a copy for another server
	StateDelivered   State = 16 // in a mailbox
	StateRelayed     State = 17 // a remote host said 250
	StateReturned    State = 18 // given up; the sender was told where that is due
	StateExpanded    State = 19 // other rows replace it
	StateDropped     State = 20 // by policy
	StateQuarantined State = 21 // kept aside by policy
	StateTaken       State = 22 // another server owns it
	StateRemoved     State = 23 // by an administrator
	StateVoid        State = 24 // never confirmed to the client
	StateElsewhere   State = 25 // of a copy that is over: its server dealt with it
)

var stateNames = map[State]string{
	StateNew: "new", StateReady: "ready", StateAttempt: "attempt", StateDeferred: "deferred",
	StateDoubtful: "doubtful", StateSuspended: "suspended", StateHeld: "held",
	StateDelivered: "delivered", StateRelayed: "relayed", StateReturned: "returned",
	StateExpanded: "expanded", StateDropped: "dropped", StateQuarantined: "quarantined",
	StateTaken: "taken", StateRemoved: "removed", StateVoid: "void", StateElsewhere: "elsewhere",
}

func (s State) String() string {
	if n, ok := stateNames[s]; ok {
		return n
	}
	return fmt.Sprintf("state %d", uint8(s))
}

// Finished tells that nothing will be done any more.
func (s State) Finished() bool { return s >= StateDelivered }

// moves is the table of what may follow what; everything else is a Conflict.
// Administrators, takers and the like may end or hold back any unfinished row.
var moves = map[State][]State{
	StateNew:       {StateReady, StateExpanded, StateReturned, StateDropped, StateQuarantined, StateVoid},
	StateReady:     {StateAttempt, StateDelivered, StateDeferred, StateReturned, StateVoid},
	StateDeferred:  {StateAttempt, StateDelivered, StateDeferred, StateReturned}, // again: no host was reached, a mailbox is full still
	StateAttempt:   {StateDelivered, StateRelayed, StateDeferred, StateReturned, StateDoubtful},
	StateDoubtful:  {StateDelivered, StateRelayed, StateDeferred, StateReturned, StateAttempt},
	StateSuspended: {StateNew, StateReady, StateDeferred, StateReturned},
}

// transition tells whether a row may go from one state to another.
func transition(from, to State) bool {
	if from.Finished() {
		return false
	}
	switch to {
	case StateSuspended, StateRemoved, StateTaken:
		return from >= StateNew && from <= StateSuspended && from != to
	}
	for _, s := range moves[from] {
		if s == to {
			return true
		}
	}
	return false
}

// Fate is what became of a message as a whole, as the holder of its copy is
// told.
type Fate uint8

// The fates.
const (
	FateOpen       Fate = 0 // unfinished
	FateAttempt    Fate = 1 // a remote attempt begins
	FateProgress   Fate = 2 // some rows changed
	FateFinished   Fate = 3 // all rows are finished
	FateVoid       Fate = 4 // never confirmed to the client
	FateSuperseded Fate = 5 // another server holds the copy
	FateTaken      Fate = 6 // another server owns the message
)

// Durability says what a caller of Apply waits for.
type Durability uint8

// The durabilities. A change that is not waited for can be lost in a crash; it
// must be one that may be made again.
const (
	Wait Durability = iota // until it is on stable storage
	Soon                   // it is written within 5 ms
	Lazy                   // within 100 ms
)

// Level is how hard pressed a queue is.
type Level uint8

// The levels.
const (
	LevelNormal Level = iota
	LevelMedium       // Safety Net is shortened
	LevelHigh         // nothing is accepted
)

func (l Level) String() string { return [...]string{"normal", "medium", "high"}[min(l, LevelHigh)] }

// spare is what stays free of the volume besides the reserve, in bytes
// (Exchange: 500 MB).
const spare = 500 << 20

// watermarks judges the space of the volume. It is high below reserve and
// spare, medium below 2 % of the volume more, and each level is left only at
// the threshold above: 2 % more for high, 4 % for medium. On a volume so small
// that this were most of it, spare counts a twentieth of it at most.
func watermarks(free, total, reserve int64, was Level) Level {
	high := reserve + min(spare, total/20)
	medium, normal := high+total/50, high+total/25
	switch {
	case free < high, free < medium && was == LevelHigh:
		return LevelHigh
	case free < medium, free < normal && was != LevelNormal:
		return LevelMedium
	}
	return LevelNormal
}

// depth judges the number of unfinished messages: high from limit on, medium
// from 98 % on; each is left 2 % lower.
func depth(n, limit int64, was Level) Level {
	medium, normal := limit-limit/50, limit-limit/25
	switch {
	case n >= limit, n >= medium && was == LevelHigh:
		return LevelHigh
	case n >= medium, n >= normal && was != LevelNormal:
		return LevelMedium
	}
	return LevelNormal
}

// ParseState reads what String wrote.
func ParseState(s string) (State, error) {
	for st, n := range stateNames {
		if n == s {
			return st, nil
		}
	}
	names := slices.Sorted(maps.Values(stateNames))
	return 0, kind.Errorf(kind.Invalid, "state %.40q: want one of %s", s, strings.Join(names, ", "))
}
