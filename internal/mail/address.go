package mail

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

// Limits of an address in octets (RFC 5321 section 4.5.3.1, RFC 3696 errata
// 1690: a path is 256 octets with its brackets).
const (
	MaxLocal   = 64
	MaxDomain  = 255
	MaxAddress = 254
)

// Address is a mailbox as it stands in an SMTP envelope (RFC 5321 section
// 4.1.2, RFC 6531). The zero value is the null sender.
type Address struct {
	// Local is the local part without quotes or backslashes, in the spelling
	// received.
	Local string
	// Domain is a domain in lower case and A-labels (RFC 5890), or an address
	// literal with its brackets.
	Domain string
}

// ErrAddress is wrapped by everything ParseAddress refuses.
var ErrAddress = errors.New("not an address")

func badAddress(format string, args ...any) error {
	return fmt.Errorf("%w: %s", ErrAddress, fmt.Sprintf(format, args...))
}

// ParseAddress reads local@domain, without angle brackets, source route,
// display name or comment. Quoted local parts, UTF-8 (RFC 6531),
// internationalized domains and address literals are understood. Errors wrap
// ErrAddress and do not repeat the input.
func ParseAddress(s string) (Address, error) {
	// A domain in U-labels may be longer than its limit in A-labels says, but
	// never by more than this.
	if len(s) > MaxLocal*2+3+4*MaxDomain {
		return Address{}, badAddress("too long")
	}
	if !utf8.ValidString(s) {
		return Address{}, badAddress("not UTF-8")
	}
	local, rest, err := cutLocal(s)
	if err != nil {
		return Address{}, err
	}
	if local == "" {
		return Address{}, badAddress("nothing before the @")
	}
	if len(local) > MaxLocal {
		return Address{}, badAddress("more than %d octets before the @", MaxLocal)
	}
	domain, err := NormalizeDomain(rest)
	if err != nil {
		return Address{}, err
	}
	a := Address{Local: local, Domain: domain}
	if len(a.String()) > MaxAddress {
		return Address{}, badAddress("more than %d octets", MaxAddress)
	}
	return a, nil
}

// cutLocal splits at the @ that ends the local part and takes its quotes off.
func cutLocal(s string) (local, domain string, err error) {
	if strings.HasPrefix(s, `"`) {
		return cutQuoted(s)
	}
	local, domain, found := strings.Cut(s, "@")
	if !found {
		return "", "", badAddress("no @")
	}
	if !isDotString(local) {
		return "", "", badAddress("a character before the @ that needs quotes, or a dot out of place")
	}
	return local, domain, nil
}

func cutQuoted(s string) (local, domain string, err error) {
	var b strings.Builder
	quoted := false // the last character was a backslash
	for i, r := range s[1:] {
		switch {
		case forbidden(r):
			return "", "", badAddress("a control character")
		case quoted && r >= utf8.RuneSelf:
			return "", "", badAddress("a backslash before a character beyond ASCII")
		case quoted:
			b.WriteRune(r)
			quoted = false
		case r == '\\':
			quoted = true
		case r == '"':
			domain, found := strings.CutPrefix(s[1+i+1:], "@")
			if !found {
				return "", "", badAddress("no @ after the quoted part")
			}
			return b.String(), domain, nil
		default:
			b.WriteRune(r)
		}
	}
	return "", "", badAddress("a quote that does not end")
}

// isDotString tells whether s is atoms joined by single dots (RFC 5321
// Dot-string, RFC 6531 for what is beyond ASCII).
func isDotString(s string) bool {
	last := '.'
	for _, r := range s {
		switch {
		case r == '.':
			if last == '.' {
				return false
			}
		case r >= utf8.RuneSelf:
			if forbidden(r) || unicode.IsSpace(r) {
				return false
			}
		case !isAtext(r):
			return false
		}
		last = r
	}
	return last != '.'
}

// isAtext is RFC 5322 section 3.2.3.
func isAtext(r rune) bool {
	return 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("!#$%&'*+-/=?^_`{|}~", r)
}

// forbidden characters make one address look like another or end a line
// somewhere.
func forbidden(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == utf8.RuneError ||
		r == '\u2028' || r == '\u2029' || r == '\ufeff'
}

// domains maps internationalized names as browsers do (UTS 46, not
// transitional) and holds them to letters, digits and hyphens.
func domains() *idna.Profile {
	return idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(true))
}

// NormalizeDomain gives a domain in lower case and A-labels. An address
// literal (RFC 5321 section 4.1.3) keeps its brackets. Errors wrap ErrAddress.
func NormalizeDomain(s string) (string, error) {
	switch {
	case s == "":
		return "", badAddress("no domain")
	case len(s) > 4*MaxDomain:
		return "", badAddress("domain too long")
	case !utf8.ValidString(s):
		return "", badAddress("not UTF-8")
	case s[0] == '[':
		return normalizeLiteral(s)
	}
	d := strings.ToLower(s)
	if !isASCII(d) || strings.Contains(d, "xn--") {
		var err error
		if d, err = domains().ToASCII(s); err != nil {
			return "", badAddress("not a domain")
		}
	}
	if len(d) > MaxDomain-2 { // 255 octets on the wire are 253 in text
		return "", badAddress("domain of more than %d octets", MaxDomain-2)
	}
	for label := range strings.SplitSeq(d, ".") {
		if !isLabel(label) {
			return "", badAddress("not a domain")
		}
	}
	return d, nil
}

// isLabel allows the underscore: it is no host name, but senders use it.
func isLabel(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for _, c := range []byte(s) {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// normalizeLiteral reads [192.0.2.1] and [IPv6:2001:db8::1]. General address
// literals have no registered tag and are refused.
func normalizeLiteral(s string) (string, error) {
	in, ok := strings.CutSuffix(s[1:], "]")
	if !ok {
		return "", badAddress("an address literal that does not end")
	}
	if len(in) > 5 && strings.EqualFold(in[:5], "IPv6:") {
		ip, err := netip.ParseAddr(in[5:])
		if err != nil || !ip.Is6() || ip.Zone() != "" {
			return "", badAddress("not an IPv6 address literal")
		}
		return "[IPv6:" + ip.String() + "]", nil
	}
	ip, err := netip.ParseAddr(in)
	if err != nil || !ip.Is4() {
		return "", badAddress("not an address literal")
	}
	return "[" + ip.String() + "]", nil
}

// IsZero tells whether a is the null sender.
func (a Address) IsZero() bool { return a == Address{} }

// IsLiteral tells whether the domain is an address literal; those are never
// hosted.
func (a Address) IsLiteral() bool { return strings.HasPrefix(a.Domain, "[") }

// NeedsUTF8 tells whether the address can only travel with SMTPUTF8 (RFC 6531).
func (a Address) NeedsUTF8() bool { return !isASCII(a.Local) }

// String gives the address as SMTP writes it, quoted where needed. The null
// sender is empty.
func (a Address) String() string {
	if a.IsZero() {
		return ""
	}
	return quoteLocal(a.Local) + "@" + a.Domain
}

// Unicode is String with the domain in U-labels, for people.
func (a Address) Unicode() string {
	if a.IsZero() || a.IsLiteral() {
		return a.String()
	}
	d, err := domains().ToUnicode(a.Domain)
	if err != nil {
		d = a.Domain
	}
	return quoteLocal(a.Local) + "@" + d
}

func quoteLocal(s string) string {
	if isDotString(s) {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

// Key is the form under which addresses are looked up: equal for spellings
// that name the same mailbox. Local parts are compared without regard to case
// and in Unicode normal form C.
func (a Address) Key() string {
	if a.IsZero() {
		return ""
	}
	return quoteLocal(foldLocal(a.Local)) + "@" + a.Domain
}

func foldLocal(s string) string {
	if isASCII(s) {
		return strings.ToLower(s)
	}
	return norm.NFC.String(strings.ToLower(norm.NFC.String(s)))
}

// Detail splits user+detail (RFC 5233): the address without the detail, and
// whether there was one.
func (a Address) Detail() (base Address, detail string, ok bool) {
	user, detail, found := strings.Cut(a.Local, "+")
	if !found || user == "" {
		return a, "", false
	}
	return Address{Local: user, Domain: a.Domain}, detail, true
}

// MarshalText implements encoding.TextMarshaler.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler; empty is the null sender.
func (a *Address) UnmarshalText(b []byte) (err error) {
	if len(b) == 0 {
		*a = Address{}
		return nil
	}
	*a, err = ParseAddress(string(b))
	return err
}
