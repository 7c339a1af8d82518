package settings

import (
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Limits of what an organization or a domain may have.
const (
	MaxConnectors  = 100 // of an organization
	MaxRules       = 100 // of an organization
	MaxKeys        = 10  // of a domain
	maxDisclaimer  = 16 << 10
	maxRefusalText = 200
)

// weightRefused is the sum of DNSBL weights from which a client is refused.
const weightRefused = 10

// Validate tells the first thing that cannot work (Invalid).
func (g Group) Validate() error {
	if err := checkAll(&g); err != nil {
		return err
	}
	for _, e := range g.DNSBL {
		if _, _, err := DNSBLZone(e); err != nil {
			return err
		}
	}
	for _, d := range g.ARCTrusted {
		if err := checkDomain("arc_trusted", d); err != nil {
			return err
		}
	}
	if g.SmartHost != "" {
		if _, _, err := HostPort(g.SmartHost, 25); err != nil {
			return kind.Errorf(kind.Invalid, "smart_host: %w", err)
		}
	}
	fill(&g)
	if g.ShadowTimeout > g.AcceptTimeout {
		return kind.Errorf(kind.Invalid, "shadow_timeout %s is longer than accept_timeout %s", Duration(g.ShadowTimeout.Std()), Duration(g.AcceptTimeout.Std()))
	}
	if g.OutboundAccountPerDay < g.OutboundAccountPerHour {
		return kind.Errorf(kind.Invalid, "outbound_account_per_day %d is less than outbound_account_per_hour %d", g.OutboundAccountPerDay, g.OutboundAccountPerHour)
	}
	return nil
}

// Covers tells whether Safety Net can make good what a database may lose: it
// keeps messages at least as long as the longest replay lag of a copy, and
// mailboxes recognize what they have for as long as it may be delivered again.
func (g Group) Covers(longestLag, duplicateWindow time.Duration) error {
	fill(&g)
	hold, expires := g.HoldTime.Std(), g.MessageExpiration.Std()
	if hold < longestLag {
		return kind.WithHint(kind.Errorf(kind.Invalid, "hold_time %s is shorter than the longest replay lag %s", Duration(hold), Duration(longestLag)),
			"postern transport set hold_time "+Duration(longestLag))
	}
	const spare = 12 * time.Hour // clocks, and a resubmission that takes long
	if hold+expires > duplicateWindow-spare {
		return kind.WithHint(kind.Errorf(kind.Invalid,
			"hold_time %s and message_expiration %s together reach beyond the %s for which mailboxes recognize a message (less %s)",
			Duration(hold), Duration(expires), Duration(duplicateWindow), Duration(spare)), "raise mailbox.duplicate_window in postern.toml of all servers first")
	}
	return nil
}

// Replaces tells whether the settings may take the place of those before. A
// lag that those did not cover either stands in the way of nothing.
func (g Group) Replaces(before Group, longestLag, duplicateWindow time.Duration) error {
	after := g
	fill(&before)
	fill(&after)
	if after.HoldTime >= before.HoldTime {
		longestLag = 0
	}
	return g.Covers(longestLag, duplicateWindow)
}

// DNSBLZone reads an entry of the setting dnsbl: zone or zone=weight.
func DNSBLZone(entry string) (zone string, weight int, err error) {
	zone, text, weighted := strings.Cut(entry, "=")
	if err := checkDomain("dnsbl", zone); err != nil {
		return "", 0, err
	}
	weight = weightRefused
	if weighted {
		if weight, err = strconv.Atoi(text); err != nil || weight < 1 || weight > 100 {
			return "", 0, kind.Errorf(kind.Invalid, "dnsbl %.80q: want a weight from 1 to 100", entry)
		}
	}
	return zone, weight, nil
}

// HostPort reads host[:port]: a name, an address, or an IPv6 address in brackets.
func HostPort(s string, port int) (string, int, error) {
	host := s
	if h, p, err := net.SplitHostPort(s); err == nil {
		n, err := strconv.Atoi(p)
		if err != nil || n < 1 || n > 65535 {
			return "", 0, kind.Errorf(kind.Invalid, "%.80q: want a port from 1 to 65535", s)
		}
		host, port = h, n
	}
	host = strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if err := checkHost(host); err != nil {
		return "", 0, err
	}
	return host, port, nil
}

func checkHost(s string) error {
	if _, err := netip.ParseAddr(s); err == nil {
		return nil
	}
	if name, err := mail.NormalizeDomain(s); err != nil || name != strings.ToLower(s) {
		return kind.Errorf(kind.Invalid, "%.80q is not the name or address of a host", s)
	}
	return nil
}

func checkDomain(what, s string) error {
	if name, err := mail.NormalizeDomain(s); err != nil || name != s || strings.HasPrefix(s, "[") {
		return kind.Errorf(kind.Invalid, "%s: %.80q is not a domain name in small letters", what, s)
	}
	return nil
}

func checkOwner(o org.OrganizationID, name *string) error {
	if err := org.ValidName(string(o)); err != nil {
		return kind.Errorf(kind.Invalid, "organization: %w", err)
	}
	if name != nil {
		if err := org.ValidName(*name); err != nil {
			return kind.Errorf(kind.Invalid, "name: %w", err)
		}
	}
	return nil
}

func checkAddress(what, s string) error {
	if _, err := mail.ParseAddress(s); err != nil {
		return kind.Errorf(kind.Invalid, "%s: %.80q is not an address", what, s)
	}
	return nil
}

// oneLine refuses what would not stay one line of a header or a reply.
func oneLine(what, s string, most int) error {
	if len(s) > most || strings.ContainsFunc(s, unicode.IsControl) {
		return kind.Errorf(kind.Invalid, "%s: want one line of at most %d octets", what, most)
	}
	return nil
}

func plainText(what, s string, most int) error {
	bad := func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' && r != '\r' }
	if len(s) > most || strings.ContainsFunc(s, bad) {
		return kind.Errorf(kind.Invalid, "%s: want at most %d octets of text", what, most)
	}
	return nil
}

// Validate tells the first thing that cannot work (Invalid).
func (p Policy) Validate() error {
	if err := checkOwner(p.Organization, nil); err != nil {
		return err
	}
	if err := checkAll(&p); err != nil {
		return err
	}
	for _, a := range p.Attachments {
		if err := a.check(); err != nil {
			return err
		}
	}
	if p.Journal != "" {
		if err := checkAddress("journal", p.Journal); err != nil {
			return err
		}
	}
	return plainText("disclaimer", p.Disclaimer, maxDisclaimer)
}

func (a AttachmentRule) check() error {
	what := a.Extension + a.Type
	bad := func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`/\"=,;:`, r) }
	media, sub, _ := strings.Cut(a.Type, "/")
	switch {
	case what == "" || a.Extension != "" && a.Type != "":
		return kind.Errorf(kind.Invalid, "attachments: want an extension or a type with each action")
	case len(what) > 128 || strings.ContainsFunc(a.Extension, bad),
		a.Type != "" && (media == "" || sub == "" || strings.ContainsFunc(media+sub, bad)):
		return kind.Errorf(kind.Invalid, "attachments: %.80q is no extension and no media type", what)
	case a.Action != "reject" && a.Action != "quarantine":
		return kind.Errorf(kind.Invalid, "attachments: action %.60q is not one of reject, quarantine", a.Action)
	}
	return nil
}

// Validate tells the first thing that cannot work (Invalid).
func (c Connector) Validate() error {
	if err := checkOwner(c.Organization, &c.Name); err != nil {
		return err
	}
	if err := checkAll(&c); err != nil {
		return err
	}
	if c.Direction == "" || c.Kind == "" {
		return kind.Errorf(kind.Invalid, "connector %s: want a direction (in, out, both) and a kind (%s, %s, %s)", c.Name, KindExchangeOnline, KindGoogle, KindSMTP)
	}
	if c.Direction != DirectionIn {
		if err := c.validateOut(); err != nil {
			return err
		}
	}
	if c.Direction != DirectionOut {
		if err := c.validateIn(); err != nil {
			return err
		}
	}
	for _, d := range c.Domains {
		if d == AllDomains {
			continue
		}
		if err := checkDomain("domains", d); err != nil {
			return err
		}
	}
	return nil
}

func (c Connector) validateOut() error {
	if len(c.Hosts) == 0 {
		return kind.WithHint(kind.Errorf(kind.Invalid, "connector %s goes out and has no hosts", c.Name), "name the hosts with --hosts")
	}
	for _, h := range c.Hosts {
		if err := checkHost(h); err != nil {
			return kind.Errorf(kind.Invalid, "hosts: %w", err)
		}
	}
	if n := strings.TrimPrefix(c.VerifyName, "*."); n != "" {
		if err := checkDomain("verify_name", n); err != nil {
			return err
		}
	}
	if c.Kind == KindExchangeOnline && c.TLS == "opportunistic" {
		return kind.Errorf(kind.Invalid, "connector %s: %s is reached by TLS only", c.Name, c.Kind)
	}
	if c.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(c.CA)) {
		return kind.Errorf(kind.Invalid, "ca: there is no certificate (PEM) in it")
	}
	if err := oneLine("user", c.User, 256); err != nil {
		return err
	}
	if c.User != "" && c.TLS == "opportunistic" {
		return kind.Errorf(kind.Invalid, "connector %s: a login needs tls required, or its password could be read on the way", c.Name)
	}
	if len(c.Password) > 4096 {
		return kind.Errorf(kind.Invalid, "password: too long")
	}
	return oneLine("client_certificate", c.ClientCertificate, 256)
}

func (c Connector) validateIn() error {
	if len(c.Networks) == 0 && len(c.CertificateNames) == 0 {
		return kind.WithHint(kind.Errorf(kind.Invalid, "connector %s takes mail in and nothing proves who brings it", c.Name),
			"name networks with --networks or client certificates with --certificate-names")
	}
	for _, n := range c.Networks {
		widest := 8
		if n.Addr().Is6() {
			widest = 19 // the largest that a registry gives to one
		}
		if !n.IsValid() || n.Bits() < widest || n != n.Masked() {
			return kind.Errorf(kind.Invalid, "networks: %s is no network, or one that is too wide to prove anything", n)
		}
	}
	for _, n := range c.CertificateNames {
		if err := checkDomain("certificate_names", strings.TrimPrefix(n, "*.")); err != nil {
			return err
		}
	}
	return nil
}

// reserved are header fields that a rule must not write: they are said by
// servers, and others believe them.
var reserved = []string{"received", "return-path", "dkim-signature", "authentication-results", "received-spf",
	"from", "sender", "to", "cc", "bcc", "date", "message-id", "content-type", "content-transfer-encoding", "mime-version"}

// Validate tells the first thing that cannot work (Invalid).
func (r Rule) Validate() error {
	if err := checkOwner(r.Organization, &r.Name); err != nil {
		return err
	}
	if err := checkAll(&r); err != nil {
		return err
	}
	if err := r.validateConditions(); err != nil {
		return err
	}
	if !r.conditional() && slices.Contains([]string{"reject", "redirect", "quarantine"}, r.Action) {
		return kind.Errorf(kind.Invalid, "rule %s would %s all mail: want a condition", r.Name, r.Action)
	}
	switch r.Action {
	case "":
		return kind.Errorf(kind.Invalid, "rule %s: want an action", r.Name)
	case "disclaimer":
		if strings.TrimSpace(r.Text) == "" {
			return kind.Errorf(kind.Invalid, "rule %s: a disclaimer needs a text", r.Name)
		}
		return plainText("text", r.Text, maxDisclaimer)
	case "redirect", "bcc":
		return checkAddress("target", r.Target)
	case "header":
		return r.validateHeader()
	}
	return oneLine("text", r.Text, maxRefusalText)
}

func (r Rule) conditional() bool {
	return r.Sender+r.Recipient+r.Header+r.Attachment+r.Authentication+r.Outside != "" || r.LargerThan > 0
}

func (r Rule) validateConditions() error {
	for what, s := range map[string]string{"sender": r.Sender, "recipient": r.Recipient} {
		if s == "" {
			continue
		}
		if domain, ok := strings.CutPrefix(s, "@"); ok {
			if err := checkDomain(what, domain); err != nil {
				return err
			}
		} else if err := checkAddress(what, s); err != nil {
			return err
		}
	}
	if r.Header != "" && !fieldName(r.Header) {
		return kind.Errorf(kind.Invalid, "header: %.80q is not the name of a header field", r.Header)
	}
	if r.Contains != "" && r.Header == "" {
		return kind.Errorf(kind.Invalid, "rule %s: contains needs a header to look into", r.Name)
	}
	if strings.ContainsAny(r.Attachment, "./\\ ") {
		return kind.Errorf(kind.Invalid, "attachment: %.80q: want an extension without the dot", r.Attachment)
	}
	return oneLine("contains", r.Contains, 256)
}

func (r Rule) validateHeader() error {
	name := strings.ToLower(r.AddName)
	if !fieldName(r.AddName) {
		return kind.Errorf(kind.Invalid, "header_name: %.80q is not the name of a header field", r.AddName)
	}
	if slices.Contains(reserved, name) || strings.HasPrefix(name, "arc-") || strings.HasPrefix(name, "x-postern-") {
		return kind.Errorf(kind.Invalid, "header_name: %s is not for rules to write", r.AddName)
	}
	return oneLine("header_value", r.AddValue, 900)
}

// fieldName tells whether s names a header field (RFC 5322 section 3.6.8).
func fieldName(s string) bool {
	return s != "" && len(s) <= 76 && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' || r == ':' })
}
