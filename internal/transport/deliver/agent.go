package deliver

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Agent carries messages to one kind of destination.
type Agent interface {
	// Deliver tries once and answers for each row of the work, in its order.
	// It returns before ctx is over or soon after.
	Deliver(ctx context.Context, w Work) []Result
}

// Work is a message and the recipients that share a destination.
type Work struct {
	Message queue.Message
	Rows    []queue.RecipientRow
	Dest    string // as in schedule.Dest
	// Body is the message, verified. It must not be changed.
	Body func(ctx context.Context) ([]byte, error)
	// Mine tells whether this server may still deliver the message; to be asked
	// before a connection is used and immediately before the final dot.
	Mine func() error
	// Begun makes durable, here and where the copy is, that an attempt begins
	// which a remote host may take; it has to return before the final dot.
	Begun func(ctx context.Context, host string) error
}

// Result is what became of one row: StateDelivered, StateRelayed,
// StateDeferred, StateReturned, or StateReady where nothing was tried. A
// deferred row that may have been taken says so with Doubtful.
type Result struct {
	State     queue.State
	Code      uint16 // reply (RFC 5321)
	Status    string // enhanced (RFC 3463)
	Text      string
	Host      string
	TLS       uint8 // 0: in clear; else 1 + tlspolicy.Basis
	Mailbox   org.MailboxRef
	Duplicate bool
	Doubtful  bool
	// Reports, with StateRelayed, says that the host took over to report success
	// (RFC 3461 section 5.2.2): the sender needs no notice that the message was
	// relayed.
	Reports bool
	// Whole says that it is the destination's fault, not the message's: all
	// that waits for it waits with it.
	Whole bool
	// Slow says that the destination asked for less, or that a connection beside
	// others failed.
	Slow bool
	// Wait is when to try again, 0 where the schedule decides.
	Wait time.Duration
}
