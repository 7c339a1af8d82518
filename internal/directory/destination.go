package directory

import (
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// DestinationKind says what an address is.
type DestinationKind string

// The kinds of destinations.
const (
	KindMailbox  DestinationKind = "mailbox"
	KindGroup    DestinationKind = "group"    // Members get it
	KindExternal DestinationKind = "external" // Address gets it, elsewhere
)

// Destination is where mail for an address goes, one step of the way: groups
// are not expanded and forwards not followed.
type Destination struct {
	Kind         DestinationKind
	Organization org.OrganizationID
	ID           org.MailboxID  // zero where it is nobody's row: external, postmaster
	Mailbox      org.MailboxRef // of a mailbox
	Address      mail.Address   // primary address of the recipient; of an external one its address
	// CatchAll says that nobody has the address asked for.
	CatchAll bool
	Members  []org.MailboxID
	Forward  []mail.Address
	Keep     bool // with Forward: the mailbox gets it as well
	// Route names the connector its mail goes to: the recipient's, else that
	// of the domain; empty for none.
	Route      string
	Language   string
	Senders    SenderRule
	Owners     []org.MailboxID
	MaxMessage int64 // bytes, 0 = as the server
	Health     bool  // a health mailbox (HealthDomain): no policy looks at its mail
}

// Allows tells whether somebody may send to it. Everybody may send to what is
// no group; the owners of a group may always.
func (d Destination) Allows(s Sender) bool {
	if d.Kind != KindGroup || d.Senders.IsZero() {
		return true
	}
	inside := s.Organization != "" && s.Organization == d.Organization
	known := inside && s.Account != org.MailboxID{}
	switch {
	case inside && d.Senders.Authenticated:
		return true
	case known && (slices.Contains(d.Senders.Mailboxes, s.Account) || slices.Contains(d.Owners, s.Account)):
		return true
	}
	return s.Domain != "" && slices.Contains(d.Senders.Domains, s.Domain)
}

// Destination tells where mail for an address goes: by the address, then
// without its detail, then as postmaster (RFC 5321 section 4.5.1), then by what
// its domain says of unknown addresses. Errors: NotFound for an unknown
// recipient of a hosted domain, Elsewhere for a domain that is not ours, Denied
// for a recipient that is disabled.
func (d *Directory) Destination(a mail.Address) (Destination, error) {
	v := d.state.View()
	if a.IsZero() || a.IsLiteral() {
		return Destination{}, kind.Errorf(kind.Elsewhere, "destination of %s: not a hosted domain", a)
	}
	if a.Domain == HealthDomain && len(d.opt.Health.Secret) > 0 {
		return d.healthDestination(a, time.Now())
	}
	dom, _, ok := row[Domain](v, domainKey(a.Domain))
	if !ok {
		return Destination{}, kind.Errorf(kind.Elsewhere, "destination of %s: not a hosted domain", a)
	}
	r, ok := d.lookup(v, a)
	switch {
	case !ok:
		return d.unknown(v, dom, a)
	case r.Deleted != nil:
		return Destination{}, kind.Errorf(kind.NotFound, "destination of %s: no such recipient", a)
	case r.Disabled:
		return Destination{}, kind.Errorf(kind.Denied, "destination of %s: recipient is disabled", a)
	}
	return destination(r, dom.Route), nil
}

// destination is that of a recipient that receives.
func destination(r *Recipient, route string) Destination {
	r = r.clone() // rows of the cache are shared
	out := Destination{
		Kind: KindMailbox, Organization: r.Organization, ID: r.ID, Mailbox: r.Ref(), Address: r.Address,
		Forward: r.Forward, Keep: r.ForwardKeep, Route: r.Route, Language: r.Language, MaxMessage: r.MaxMessage,
	}
	if out.Route == "" {
		out.Route = route
	}
	if !r.IsMailbox() {
		out.Kind, out.Mailbox, out.Route = KindGroup, org.MailboxRef{}, ""
		out.Members, out.Senders, out.Owners = r.Members, r.Senders, r.Owners
	}
	return out
}

// unknown is the destination of an address of a hosted domain that nobody has.
func (d *Directory) unknown(v View, dom *Domain, a mail.Address) (Destination, error) {
	o := dom.Organization
	if strings.EqualFold(a.Local, "postmaster") {
		if res, err := d.postmaster(v, o, a); err == nil {
			out := Destination{Kind: KindGroup, Organization: o, Address: a}
			for _, t := range res.Mailboxes {
				out.Members = append(out.Members, t.Mailbox.ID)
			}
			return out, nil
		}
	}
	if dom.Route != "" {
		return Destination{Kind: KindExternal, Organization: o, Address: a, Route: dom.Route, CatchAll: true}, nil
	}
	c := dom.CatchAll
	if c.IsZero() {
		return Destination{}, kind.Errorf(kind.NotFound, "destination of %s: no such recipient", a)
	}
	in, _, ok := row[Domain](v, domainKey(c.Domain))
	if !ok || in.Organization != o {
		return Destination{Kind: KindExternal, Organization: o, Address: c, CatchAll: true}, nil
	}
	r, ok := d.lookup(v, c)
	if !ok || r.Deleted != nil || r.Disabled {
		return Destination{}, kind.Errorf(kind.NotFound, "destination of %s: no such recipient", a)
	}
	out := destination(r, in.Route)
	out.CatchAll = true
	return out, nil
}

// Expand is the destination of a recipient of an organization, such as the
// member of a group. False: it is gone or receives nothing.
func (d *Directory) Expand(o org.OrganizationID, id org.MailboxID) (Destination, bool) {
	v := d.state.View()
	r, _, ok := d.recipient(v, o, id)
	if !ok || r.Disabled || r.Deleted != nil || r.Type == TypeSystem {
		return Destination{}, false
	}
	route := ""
	if dom, _, ok := row[Domain](v, domainKey(r.Address.Domain)); ok {
		route = dom.Route
	}
	return destination(r, route), true
}
