package transport

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// internal says what else a message of transport's own is.
type internal struct {
	parent mail.TraceID
	also   []queue.Change // in the same record
	after  *queue.Change  // as soon as it is there
	flags  uint32
	prefer org.ServerName // has the parent, so one server knows both
}

// Accept takes a message. On nil it is durable here and, as settings ask, on a
// second server; the body belongs to transport. Kinds of errors: Busy (with
// mail.ErrNoSecondCopy where that is why), Full, Invalid. After an error nothing
// is delivered, but for what was durable already when the server died.
func (m *Mover) Accept(ctx context.Context, s mail.Submission) (mail.Receipt, error) {
	began := time.Now()
	r, err := m.accept(ctx, s)
	m.metrics.accepted(s.Origin.Door, err, time.Since(began))
	return r, err
}

func (m *Mover) accept(ctx context.Context, s mail.Submission) (mail.Receipt, error) {
	if err := m.queue.Room(); err != nil {
		return mail.Receipt{}, err
	}
	if s.Quarantine != "" {
		return m.quarantined(ctx, s)
	}
	return m.take(ctx, s, internal{})
}

// take stores a message here and on a second server at the same time, and has
// it delivered.
func (m *Mover) take(ctx context.Context, s mail.Submission, x internal) (mail.Receipt, error) {
	head := message.Look(s.Body)
	if s.Received.IsZero() {
		s.Received = m.now()
	}
	a := queue.Accepted{ID: s.Trace, Identity: s.Identity, Received: s.Received.UnixNano(), Expires: s.Received.Add(m.settings.Group().MessageExpiration.Std()).UnixNano(),
		Origin: s.Origin, Envelope: s.Envelope, Priority: s.Priority, Flags: x.flags, Parent: x.parent, Also: x.also, Subject: head.Subject, MessageID: head.MessageID}
	holder, err := m.shadow.Accept(ctx, a, s.Body, x.prefer)
	if err != nil {
		return mail.Receipt{}, err
	}
	if x.after != nil {
		if err := m.queue.Apply(ctx, []queue.Change{*x.after}, queue.Soon); err != nil {
			m.log.Warn("note on a message", "trace", a.ID, "err", err)
		}
	}
	m.dispatch.Submit(ctx, a.ID)
	return mail.Receipt{Trace: a.ID, Shadow: holder}, nil
}
