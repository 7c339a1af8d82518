package smtpd

import (
	"context"
	"net/netip"

	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Directory answers who may log in and where mail goes; it is
// *directory.Directory.
type Directory interface {
	// Authenticate checks a password. Denied is the one answer to all that is
	// wrong; Busy means that it was not judged, also because of too many guesses.
	Authenticate(ctx context.Context, login, password, service string, remote netip.Addr) (directory.Account, error)
	// Resolve gives the mailboxes behind an address, groups expanded. Errors:
	// NotFound, Elsewhere (not our domain), Denied (disabled), Invalid (group
	// too large), Busy.
	Resolve(ctx context.Context, a mail.Address) (directory.Resolution, error)
	// Hosted tells whether the domain (as in mail.Address) is one of ours.
	Hosted(domain string) bool
	// MaySendAs tells whether the account may use the address as its own.
	MaySendAs(a directory.Account, from mail.Address) bool
}

// Store is the part of mail.Store that the doors use.
type Store interface {
	Deliver(ctx context.Context, d mail.Delivery) ([]mail.Delivered, error)
	Usage(ctx context.Context, at org.MailboxRef) (mail.Usage, error)
}

// accountKey names an account in limits, logs and delivery identities. It is the
// identity, since names change.
func accountKey(a directory.Account) string {
	return string(a.Organization) + "/" + a.ID.String()
}
