package notify

import (
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Kind is the way a channel goes.
type Kind string

// Kinds of channels.
const (
	Email   Kind = "email"
	Webhook Kind = "webhook"
	SMS     Kind = "sms"
)

// TLS is what a channel wants of the way to its endpoint.
type TLS string

// TLS policies; Verify is the default.
const (
	TLSVerify  TLS = "verify"  // encrypted, with a certificate of the endpoint's name
	TLSEncrypt TLS = "encrypt" // encrypted, whatever the certificate
	TLSNone    TLS = "none"    // in clear
)

// Limits of a group's channels and rules.
const (
	maxChannels = 32
	maxRules    = 64
	maxTo       = 16
)

// Channel is a way to tell somebody; row notify/channel/<name>.
type Channel struct {
	Name string `json:"name"`
	Kind Kind   `json:"kind"`
	// Address is host:port of an SMTP server, or the URL to post to.
	Address string   `json:"address"`
	TLS     TLS      `json:"tls"`
	From    string   `json:"from,omitempty"`
	To      []string `json:"to,omitempty"`
	User    string   `json:"user,omitempty"`
	// Secret is sealed: a password (e-mail, SMS) or the key of the webhook's
	// signature.
	Secret []byte `json:"secret,omitempty"`
	// Form are the fields of the request of an SMS channel, as name=value; see
	// formFields.
	Form []string `json:"form,omitempty"`
	// Timeout is for one message.
	Timeout time.Duration `json:"timeout"`
	// PerHour is the limit of messages in any hour.
	PerHour  int       `json:"per_hour"`
	Disabled bool      `json:"disabled,omitempty"`
	Changed  time.Time `json:"changed"`
	By       string    `json:"by,omitempty"`
}

// Defaults of a channel.
const (
	defaultTimeout = 10 * time.Second
	defaultPerHour = 30
)

func (c Channel) withDefaults() Channel {
	if c.TLS == "" {
		c.TLS = TLSVerify
	}
	if c.Timeout == 0 {
		c.Timeout = defaultTimeout
	}
	if c.PerHour == 0 {
		c.PerHour = defaultPerHour
	}
	if c.Kind == SMS && len(c.Form) == 0 {
		c.Form = []string{"to={to}", "text={text}"}
	}
	return c
}

// purpose is what a channel's secret is sealed for.
func purpose(channel string) string { return "notify/channel/" + channel }

func bad(format string, args ...any) error { return kind.Errorf(kind.Invalid, format, args...) }

// validate refuses what could never tell anybody.
func (c Channel) validate() error {
	if err := org.ValidName(c.Name); err != nil {
		return bad("channel: %w", err)
	}
	switch {
	case c.TLS != TLSVerify && c.TLS != TLSEncrypt && c.TLS != TLSNone:
		return bad("channel %s: tls %q: want verify, encrypt or none", c.Name, c.TLS)
	case c.Timeout < time.Second || c.Timeout > time.Minute:
		return bad("channel %s: timeout %s: want 1s to 1m", c.Name, c.Timeout)
	case c.PerHour < 1 || c.PerHour > 1000:
		return bad("channel %s: %d messages an hour: want 1 to 1000", c.Name, c.PerHour)
	case len(c.To) > maxTo:
		return bad("channel %s: %d receivers: want at most %d", c.Name, len(c.To), maxTo)
	case len(c.User) > 255 || len(c.Address) > 1000 || len(c.From) > 320:
		return bad("channel %s: a value is too long", c.Name)
	case slices.ContainsFunc(append([]string{c.User, c.From}, c.To...), hasControl):
		return bad("channel %s: control characters in a value", c.Name)
	}
	switch c.Kind {
	case Email:
		return c.validateEmail()
	case Webhook, SMS:
		return c.validateURL()
	}
	return bad("channel %s: kind %q: want email, webhook or sms", c.Name, c.Kind)
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

func (c Channel) validateEmail() error {
	host, port, err := net.SplitHostPort(c.Address)
	if err != nil || host == "" || port == "" {
		return bad("channel %s: address %q: want host:port of a mail server outside the group", c.Name, c.Address)
	}
	if c.User != "" && c.TLS == TLSNone {
		return bad("channel %s: a password goes over TLS only", c.Name)
	}
	if len(c.To) == 0 {
		return bad("channel %s: nobody to write to (--to)", c.Name)
	}
	for _, a := range append([]string{c.From}, c.To...) {
		if _, err := mail.ParseAddress(a); err != nil {
			return bad("channel %s: address %q: %w", c.Name, a, err)
		}
	}
	return nil
}

func (c Channel) validateURL() error {
	u, err := url.Parse(c.Address)
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || u.Fragment != "" {
		return bad("channel %s: %q: want a URL as in https://host/path, without a user in it", c.Name, c.Address)
	}
	if u.Scheme == "http" && c.TLS != TLSNone {
		return bad("channel %s: %s goes in clear; want https, or --tls none", c.Name, c.Address)
	}
	if c.Kind != SMS {
		return nil
	}
	if len(c.To) == 0 {
		return bad("channel %s: nobody to tell (--to)", c.Name)
	}
	for _, to := range c.To {
		if !telephone(to) {
			return kind.WithHint(bad("channel %s: %.60q is no telephone number", c.Name, to), "want digits, with a + before the country's: --to +491701234567")
		}
	}
	if len(c.Form) > 20 {
		return bad("channel %s: %d form fields: want at most 20", c.Name, len(c.Form))
	}
	text := false
	for _, f := range c.Form {
		name, value, ok := strings.Cut(f, "=")
		if !ok || name == "" || len(f) > 500 || hasControl(f) {
			return bad("channel %s: form field %q: want name=value", c.Name, f)
		}
		text = text || strings.Contains(value, "{text}")
	}
	if !text {
		return bad("channel %s: no form field has {text} in it: nobody would learn what happened", c.Name)
	}
	return nil
}

// telephone tells whether s is a telephone number: digits, as E.164 has them
// with a +, or as a gateway knows short ones of its own.
func telephone(s string) bool {
	digits := strings.TrimPrefix(s, "+")
	return digits != "" && len(digits) <= 15 && strings.Trim(digits, "0123456789") == ""
}

// host is the host of the endpoint.
func (c Channel) host() string {
	if c.Kind == Email {
		h, _, _ := net.SplitHostPort(c.Address)
		return h
	}
	u, err := url.Parse(c.Address)
	if err != nil {
		return ""
	}
	return u.Hostname()
}

// outside refuses a mail server that is one of the group's own: what is told
// could wait in the very queue that it is about. addrs are those of host, own
// the addresses and names of the members.
func (c Channel) outside(addrs []netip.Addr, own []string) error {
	inside := func(h string) error {
		return kind.WithHint(bad("channel %s: %s is a server of this group, which may be what failed", c.Name, h),
			"name a mail server outside, for example that of your provider")
	}
	for _, o := range own {
		if strings.EqualFold(c.host(), o) {
			return inside(c.host())
		}
		ip, err := netip.ParseAddr(o)
		if err != nil {
			continue
		}
		if slices.Contains(addrs, ip.Unmap()) {
			return inside(c.host() + " (" + o + ")")
		}
	}
	for _, a := range addrs {
		if a.IsLoopback() {
			return inside(c.host() + " (" + a.String() + ")")
		}
	}
	return nil
}
