package transport

import (
	"context"

	"github.com/postern-mail/postern/internal/mail"
)

// Connect judges who connects; see package guard.
func (m *Mover) Connect(ctx context.Context, p *mail.Peer) mail.Verdict {
	return m.guard.Connect(ctx, p)
}

// Hello judges how the client greets.
func (m *Mover) Hello(ctx context.Context, p *mail.Peer) mail.Verdict { return m.guard.Hello(ctx, p) }

// Sender judges an envelope sender.
func (m *Mover) Sender(ctx context.Context, p *mail.Peer, e *mail.Envelope) mail.Verdict {
	return m.guard.Sender(ctx, p, e)
}

// Recipient judges one recipient: whether it exists, whether the client may
// write to it or relay to it.
func (m *Mover) Recipient(ctx context.Context, p *mail.Peer, e *mail.Envelope, r mail.EnvelopeRecipient) mail.Verdict {
	return m.guard.Recipient(ctx, p, e, r)
}

// Content judges a whole message.
func (m *Mover) Content(ctx context.Context, p *mail.Peer, s *mail.Submission) mail.Verdict {
	return m.guard.Content(ctx, p, s)
}

// Failed remembers what a client did wrong.
func (m *Mover) Failed(p *mail.Peer, what string) { m.guard.Failed(p, what) }
