package directory

import (
	"slices"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Services a login can be for. App passwords may be bound to some of them.
const (
	ServiceIMAP       = "imap"
	ServiceSubmission = "submission"
	ServiceAdmin      = "admin" // only for accounts with a role, never with an app password
)

// Account is who has logged in.
type Account struct {
	ID           org.MailboxID      // zero for an administrator without a mailbox
	Organization org.OrganizationID // empty for a server administrator
	Login        mail.Address       // the primary address; zero without a mailbox
	Name         string             // for logs and the audit: the primary address or the administrator's name
	Mailbox      org.MailboxRef     // zero without a mailbox
	Roles        []command.Role
	AppPassword  string // name of the app password that was used, if one was
	ServerAdmin  bool
	Health       bool // a probe of the group's own (HealthDomain); its logins are not worth a line of the log
	// Stamp is another after each change of the password, so that a session
	// can see that it began with an old one.
	Stamp int64
}

// Account tells what an account that has logged in before is now: its roles and
// stamp, or that it is gone or disabled. It checks no password.
func (d *Directory) Account(login string) (Account, bool) {
	c := d.candidate(d.state.View(), login)
	return c.account, c.usable
}

// Caller is the account as commands see it.
func (a Account) Caller(remote, traceID string) command.Caller {
	return command.Caller{
		Name: a.Name, Roles: slices.Clone(a.Roles), Organization: string(a.Organization),
		Remote: remote, TraceID: traceID,
	}
}
