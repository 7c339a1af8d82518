package smtpd

import (
	"context"
	"net/netip"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Account is who has logged in.
type Account struct {
	Organization org.OrganizationID
	ID           string // stable identity
}

// Target is a mailbox an address leads to.
type Target struct {
	Mailbox org.MailboxRef
	Address mail.Address
}

// Resolution is what is behind an address.
type Resolution struct {
	Organization org.OrganizationID
	Mailboxes    []Target
}

// Directory answers who may log in and where mail goes. Errors have a kind:
// Denied, NotFound, Invalid, Busy.
type Directory interface {
	// Authenticate checks a password; it throttles guessing by itself, and its
	// errors are the same for unknown accounts and wrong passwords.
	Authenticate(ctx context.Context, login, password, service string, remote netip.Addr) (Account, error)
	// Resolve gives the mailboxes behind an address, groups expanded.
	Resolve(ctx context.Context, a mail.Address) (Resolution, error)
	// Hosted reports whether the domain (as in mail.Address) is one of ours.
	Hosted(domain string) bool
	// MaySendAs reports whether the account may use the address as its own.
	MaySendAs(ctx context.Context, account Account, a mail.Address) (bool, error)
}

// Store is the part of mail.Store that the doors use.
type Store interface {
	Deliver(ctx context.Context, d mail.Delivery) ([]mail.Delivered, error)
	Usage(ctx context.Context, at org.MailboxRef) (mail.Usage, error)
}

// accountKey names an account in limits and logs.
func accountKey(a Account) string { return string(a.Organization) + "/" + a.ID }
