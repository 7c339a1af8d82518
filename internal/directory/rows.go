package directory

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Organization is a tenant.
type Organization struct {
	ID      org.OrganizationID `json:"id"`
	Name    string             `json:"name,omitempty"` // for people
	Created time.Time          `json:"created"`
	// Removing is set while an administrator removes it; nothing may be added.
	Removing bool `json:"removing,omitempty"`
}

// Domain is a domain we are responsible for.
type Domain struct {
	Name         string             `json:"name"` // lower case, A-labels
	Organization org.OrganizationID `json:"organization"`
	Created      time.Time          `json:"created"`
	Removing     bool               `json:"removing,omitempty"`
	// CatchAll gets the mail for addresses of the domain that nobody has; zero
	// for nobody.
	CatchAll mail.Address `json:"catch_all,omitzero"`
	// NoPlus takes user+detail for an address of its own (RFC 5233).
	NoPlus bool `json:"no_plus,omitempty"`
	// Route names the connector of the organization that mail for the domain
	// goes to, also that for addresses nobody has here.
	Route string `json:"route,omitempty"`
}

// Type says what a recipient is.
type Type string

// The types of recipients.
const (
	TypeUser   Type = "user"   // a mailbox with a person who logs in
	TypeShared Type = "shared" // a mailbox nobody logs in to
	TypeGroup  Type = "group"  // a list of recipients
	TypeSystem Type = "system" // a mailbox without an address, for the system's own use
)

// Recipient is a mailbox or a group as the agreed state has it.
type Recipient struct {
	ID           org.MailboxID      `json:"id"`
	Organization org.OrganizationID `json:"organization"`
	Type         Type               `json:"type"`
	Address      mail.Address       `json:"address"` // primary
	Aliases      []mail.Address     `json:"aliases,omitempty"`
	Name         string             `json:"name,omitempty"` // display name
	Disabled     bool               `json:"disabled,omitempty"`
	Created      time.Time          `json:"created"`
	// MaxMessage is the largest message it takes in bytes, 0 = as the server.
	MaxMessage int64 `json:"max_message,omitempty"`

	// Of mailboxes.

	Database      org.DatabaseName `json:"database,omitempty"`
	QuotaBytes    int64            `json:"quota_bytes,omitempty"`    // 0 = none
	QuotaMessages int64            `json:"quota_messages,omitempty"` // 0 = none
	// Provisioned says that the database knows the mailbox and its limits.
	Provisioned bool `json:"provisioned,omitempty"`
	// Deleted is when the mailbox was removed; it can be restored until it is
	// purged.
	Deleted *time.Time `json:"deleted,omitempty"`
	// Purging says that the content is being deleted: no way back.
	Purging bool           `json:"purging,omitempty"`
	Roles   []command.Role `json:"roles,omitempty"` // within the organization
	Grants  []Grant        `json:"grants,omitempty"`
	// Forward are the addresses that get its mail, inside or outside; with
	// ForwardKeep it comes here as well.
	Forward     []mail.Address `json:"forward,omitempty"`
	ForwardKeep bool           `json:"forward_keep,omitempty"`
	// Route names the connector of the organization that its mail goes to,
	// instead of a database.
	Route    string `json:"route,omitempty"`
	Language string `json:"language,omitempty"` // of what the system writes to it (BCP 47)

	// Of groups: identities of recipients of the same organization.

	Members []org.MailboxID `json:"members,omitempty"`
	// Owners are mailboxes that hear of failures and may always send to it.
	Owners  []org.MailboxID `json:"owners,omitempty"`
	Senders SenderRule      `json:"senders,omitzero"`
}

// SenderRule says who may send to a group. Whoever one of its parts allows may;
// the zero value allows everybody.
type SenderRule struct {
	Authenticated bool            `json:"authenticated,omitempty"` // accounts of the organization
	Mailboxes     []org.MailboxID `json:"mailboxes,omitempty"`     // these accounts
	Domains       []string        `json:"domains,omitempty"`       // senders of these domains, proven or not
}

// IsZero tells whether everybody may send.
func (r SenderRule) IsZero() bool {
	return !r.Authenticated && len(r.Mailboxes) == 0 && len(r.Domains) == 0
}

// Sender is who sends, as a SenderRule judges it.
type Sender struct {
	Organization org.OrganizationID // of the account; empty for strangers
	Account      org.MailboxID      // zero for strangers and accounts without a mailbox
	Domain       string             // of the envelope sender, normalized; empty for the null sender
}

// Grant lets another mailbox of the organization use this one.
type Grant struct {
	Mailbox org.MailboxID `json:"mailbox"`
	SendAs  bool          `json:"send_as,omitempty"`
	Access  bool          `json:"access,omitempty"` // read and change what is in it
}

// IsMailbox tells whether r has a mailbox.
func (r *Recipient) IsMailbox() bool { return r.Type != TypeGroup }

// Ref tells where the mailbox is.
func (r *Recipient) Ref() org.MailboxRef { return org.MailboxRef{ID: r.ID, Database: r.Database} }

// label names a recipient for people.
func (r *Recipient) label() string {
	if r.Type == TypeSystem {
		return r.Name + " of " + string(r.Organization)
	}
	return r.Address.String()
}

// grant returns what the mailbox is allowed.
func (r *Recipient) grant(id org.MailboxID) Grant {
	for _, g := range r.Grants {
		if g.Mailbox == id {
			return g
		}
	}
	return Grant{}
}

// clone copies what a change may write to; rows in the cache are shared.
func (r *Recipient) clone() *Recipient {
	c := *r
	c.Aliases = slices.Clone(r.Aliases)
	c.Roles = slices.Clone(r.Roles)
	c.Grants = slices.Clone(r.Grants)
	c.Members = slices.Clone(r.Members)
	c.Forward = slices.Clone(r.Forward)
	c.Owners = slices.Clone(r.Owners)
	c.Senders.Mailboxes = slices.Clone(r.Senders.Mailboxes)
	c.Senders.Domains = slices.Clone(r.Senders.Domains)
	return &c
}

// owner is the value of an address row.
type owner struct {
	Organization org.OrganizationID `json:"organization"`
	Recipient    org.MailboxID      `json:"recipient"`
}

// credentials are what a mailbox logs in with.
type credentials struct {
	Hash         string        `json:"hash,omitempty"` // of the password; empty: none
	AppPasswords []appPassword `json:"app_passwords,omitempty"`
	Changed      time.Time     `json:"changed"`
}

type appPassword struct {
	Name     string    `json:"name"`
	Hash     string    `json:"hash"`
	Services []string  `json:"services,omitempty"` // empty: all but administration
	Created  time.Time `json:"created"`
}

// administrator is a login without a mailbox.
type administrator struct {
	Name         string             `json:"name"`
	Organization org.OrganizationID `json:"organization,omitempty"` // empty: all
	Roles        []command.Role     `json:"roles"`
	Hash         string             `json:"hash"`
	Disabled     bool               `json:"disabled,omitempty"`
	Created      time.Time          `json:"created"`
}

func organizationKey(id org.OrganizationID) string { return "organizations/" + string(id) }
func databaseKey(db org.DatabaseName) string       { return "databases/" + string(db) }
func domainKey(domain string) string               { return "domains/" + domain }
func addressKey(a mail.Address) string             { return "addresses/" + a.Key() }
func administratorKey(name string) string          { return "administrators/" + strings.ToLower(name) }
func nestingKey(id org.OrganizationID) string      { return "nesting/" + string(id) }
func recipientsOf(id org.OrganizationID) string    { return "recipients/" + string(id) + "/" }

func recipientKey(o org.OrganizationID, id org.MailboxID) string {
	return recipientsOf(o) + id.String()
}

func credentialsKey(o org.OrganizationID, id org.MailboxID) string {
	return "credentials/" + string(o) + "/" + id.String()
}

// encode makes the value of a row; all row types are known to encode.
func encode(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("encode %T: %v", v, err))
	}
	return b
}

// row reads and decodes the row at a key. A row that does not decode counts as
// absent: it was written by something else, and one bad row must not take down the others.
func row[T any](v View, key string) (*T, int64, bool) {
	it, ok := v.Get(key)
	if !ok {
		return nil, 0, false
	}
	t := new(T)
	if json.Unmarshal(it.Value, t) != nil {
		return nil, 0, false
	}
	return t, it.Revision, true
}
