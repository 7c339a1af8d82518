package route

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// The kinds of destinations, as schedule and the agents have them.
const (
	destDatabase  = "db:"
	destConnector = "connector:"
	destSmartHost = "smarthost:"
	destMX        = "mx:"
)

// way is where a recipient goes: by its own route or its domain's, by the
// connector for its domain, to its mailbox, to the smart host, to the hosts of
// its domain. problem: it goes nowhere.
func (r *run) way(it item) (c queue.RowChange, problem bool) {
	d := it.dest
	if d == nil {
		return r.wayOut(it)
	}
	if d.Kind == directory.KindGroup {
		// Of a final message: the group came to be after it.
		return returned(550, "5.1.1", "No such mailbox here"), true
	}
	if c, large := r.tooLarge(d); large {
		return c, true
	}
	c.Org = d.Organization
	name := d.Route
	if name == "" {
		name, _ = r.connectorFor(d.Organization, it.address.Domain)
	}
	switch {
	case name != "" && !r.cameBy(d.Organization, name):
		c.State, c.Dest = queue.StateReady, destConnector+string(d.Organization)+"/"+name
	case d.Kind == directory.KindMailbox:
		c.State, c.Dest, c.Mailbox = queue.StateReady, destDatabase+string(d.Mailbox.Database), d.Mailbox
	default:
		c = returned(554, "5.4.6", "The message came from where it would go")
		c.Org = d.Organization
		return c, true
	}
	return c, false
}

// wayOut is the way of a recipient that is not ours.
func (r *run) wayOut(it item) (queue.RowChange, bool) {
	o := r.q.Message.Origin
	c := queue.RowChange{State: queue.StateReady, Org: it.org}
	if it.why == 0 {
		// The doors asked this before; a domain may have left meanwhile.
		if o.Door == "receive" && !o.Trusted && o.Connector == "" {
			return returned(550, "5.7.1", "Relaying is not allowed"), true
		}
		c.Org = o.Organization
	}
	if it.address.IsLiteral() {
		return returned(550, "5.1.2", "Address literals are not sent to"), true
	}
	name, of := r.connectorFor(c.Org, it.address.Domain)
	if name == "" {
		name, of = r.connectorFor(c.Org, settings.AllDomains)
	}
	host := r.d.Settings.Group().SmartHost
	switch {
	case name != "" && !r.cameBy(of, name):
		c.Dest = destConnector + string(of) + "/" + name
	case host != "":
		c.Dest = destSmartHost + host
	default:
		c.Dest = destMX + it.address.Domain
	}
	return c, false
}

// connectorFor is the connector of an organization that takes the mail for a
// domain, as its settings write it.
func (r *run) connectorFor(o org.OrganizationID, domain string) (name string, of org.OrganizationID) {
	if o == "" {
		return "", ""
	}
	for _, c := range r.d.Settings.Connectors(o) {
		if c.Enabled && c.Direction != settings.DirectionIn && slices.ContainsFunc(c.Domains, func(s string) bool { return strings.EqualFold(s, domain) }) {
			return c.Name, o
		}
	}
	return "", ""
}

// cameBy tells whether the message came by a connector: it does not go back
// there.
func (r *run) cameBy(o org.OrganizationID, name string) bool {
	from := r.q.Message.Origin
	if from.Connector == "" {
		return false
	}
	return from.Connector == string(o)+"/"+name || from.Connector == name && from.Organization == o
}
