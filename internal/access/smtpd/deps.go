package smtpd

import (
	"context"
	"net/netip"

	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
)

// Directory answers who may log in and as whom an account may write; it is
// *directory.Directory.
type Directory interface {
	// Authenticate checks a password. Denied is the one answer to all that is
	// wrong; Busy means that it was not judged, also because of too many guesses.
	Authenticate(ctx context.Context, login, password, service string, remote netip.Addr) (directory.Account, error)
	// MaySendAs tells whether the account may use the address as its own.
	MaySendAs(a directory.Account, from mail.Address) bool
}

// Queue keeps messages until they are delivered; it is *transport.Mover.
type Queue interface {
	// Accept returns nil once the message is kept durably; s.Body then belongs to
	// the queue. After an error, also one that leaves it open whether the
	// message is kept, the client has to be told to send again. Kinds: Busy
	// (wrapping mail.ErrNoSecondCopy where a second server was missing), Full,
	// Denied (a limit of the organization), Invalid (too large).
	Accept(ctx context.Context, s mail.Submission) (mail.Receipt, error)
}

// Guard is the policy of the doors: who may talk, send and relay, which
// recipients there are, what is in a message. It is *transport.Mover. The door
// keeps the dialogue: syntax, limits, codes.
//
// The peer is one value for the whole connection and only used by one call at a
// time; the guard may fill in Reverse at Connect. At Sender and Recipient it
// may set Connector and Organization where a connector is proven; the door
// takes them back at the end of the transaction, since the next sender needs
// its own proof. Neither peer nor envelope nor submission may be kept beyond a
// call.
//
// An answer is held back as a verdict's Delay says, but 20 s at most, two minutes
// over a connection, and not beyond the stop of the server. Defer is answered
// with 421 at Connect, else with 450, 451 or 452 as the status has it; Refuse
// with 554 at Connect, else with 550, 552 or 554. A status of the wrong class or
// none is mended.
//
// Discard and Quarantine take hold of what the verdict is about: from
// Connect and Hello all messages of the connection, from Sender, Content and
// (Quarantine) Recipient the message, from Recipient (Discard) that one
// recipient. Content is asked all the same while a recipient is left. The door
// does not hand a discarded message to Queue; who wants it in the ledger writes
// it there before answering Discard.
type Guard interface {
	// Connect is asked ahead of the greeting, on a door with TLS from the
	// first byte after the handshake.
	Connect(ctx context.Context, p *mail.Peer) mail.Verdict
	// Hello is asked at HELO and EHLO, of which p.Helo holds the argument.
	Hello(ctx context.Context, p *mail.Peer) mail.Verdict
	// Sender is asked at MAIL. An account may use the address, that is checked.
	Sender(ctx context.Context, p *mail.Peer, e *mail.Envelope) mail.Verdict
	// Recipient is asked at RCPT, while r is not in e yet: whether r exists,
	// whether the peer may write to it or relay.
	Recipient(ctx context.Context, p *mail.Peer, e *mail.Envelope, r mail.EnvelopeRecipient) mail.Verdict
	// Content is asked at the end of the data. s.Body is the message byte for
	// byte as it was received, which it has to stay; it may still hold forged
	// Return-Path and Authentication-Results fields. Quarantine and Priority may
	// be set. Prepend goes between our Received line and the message.
	Content(ctx context.Context, p *mail.Peer, s *mail.Submission) mail.Verdict
	// Failed tells of a wrong "password", an unknown "recipient" or a wrong
	// "command". It does not wait for anything.
	Failed(p *mail.Peer, what string)
}

// What Guard.Failed is told.
const (
	failedPassword  = "password"
	failedRecipient = "recipient"
	failedCommand   = "command"
)

// accountKey names an account in limits, delivery identities, and for policy and
// queue. It is the identity, since names change.
func accountKey(a directory.Account) string {
	return string(a.Organization) + "/" + a.ID.String()
}
