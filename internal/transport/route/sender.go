package route

import (
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Directory is what the categoriser asks about people. *directory.Directory is
// one.
type Directory interface {
	OrganizationOf(domain string) (org.OrganizationID, bool)
	Destination(a mail.Address) (directory.Destination, error)
	Expand(o org.OrganizationID, id org.MailboxID) (directory.Destination, bool)
	Domains(o org.OrganizationID) []directory.Domain
}

// origPrefix begins an original recipient (RFC 3461 section 4.2).
const origPrefix = "rfc822;"

// Sender is the envelope sender under which a row leaves: the message's, or,
// where the row was added for a forward, an alias or a rule and the sender is a
// stranger, one of ours that leads back to it. now is the message's time, so
// that a repeated attempt has the same sender.
func Sender(m queue.Message, r queue.RecipientRow, dir Directory, secret []byte) string {
	from := m.Envelope.From
	if r.Why == 0 || r.Why == queue.WhyGroup || from == "" || len(secret) == 0 {
		return from
	}
	a, err := mail.ParseAddress(from)
	if err != nil {
		return from
	}
	if _, ours := dir.OrganizationOf(a.Domain); ours {
		return from
	}
	domain := forwarderDomain(r, dir)
	if domain == "" {
		return from
	}
	return Rewrite(a, domain, secret, m.Received).String()
}

// forwarderDomain is the domain of who forwards a row, else one of its
// organization.
func forwarderDomain(r queue.RecipientRow, dir Directory) string {
	if a, err := mail.ParseAddress(strings.TrimPrefix(r.Original, origPrefix)); err == nil {
		if o, ok := dir.OrganizationOf(a.Domain); ok && o == r.Organization {
			return a.Domain
		}
	}
	for _, d := range dir.Domains(r.Organization) {
		return d.Name
	}
	return ""
}

// ReportTo is who is told of what became of a row, empty for nobody: of what a
// group led to its owner, where it has one, else the sender.
func ReportTo(m queue.Message, rows []queue.RecipientRow, n uint16, dir Directory) string {
	from := m.Envelope.From
	if from == "" {
		return ""
	}
	top := n
	for range len(rows) {
		if int(top) >= len(rows) || rows[top].Why == 0 {
			break
		}
		top = rows[top].Parent
	}
	if top == n || int(top) >= len(rows) {
		return from
	}
	a, err := mail.ParseAddress(rows[top].Address)
	if err != nil {
		return from
	}
	d, err := dir.Destination(a)
	if err != nil {
		return from
	}
	for _, id := range d.Owners {
		if o, ok := dir.Expand(d.Organization, id); ok {
			return o.Address.String()
		}
	}
	return from
}

// reversed is the sender that a recipient leads back to, where it is a
// rewritten one of a domain of ours.
func reversed(a mail.Address, dir Directory, secret []byte, now time.Time) (mail.Address, bool) {
	if tag, _ := srsTag(a.Local); tag == "" {
		return a, false
	}
	if _, ours := dir.OrganizationOf(a.Domain); !ours {
		return a, false
	}
	back, err := Reverse(a, secret, now)
	return back, err == nil
}
