package dsn

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/mail"
)

// oneLine makes s printable on one line: white space becomes single spaces,
// what is not printable or turns the direction of writing becomes a question
// mark. With ascii also what is beyond it. At most limit octets are kept.
func oneLine(s string, limit int, ascii bool) string {
	var b strings.Builder
	space := false
	for _, r := range s {
		switch {
		case unicode.IsSpace(r):
			space = b.Len() > 0
			continue
		case !unicode.IsPrint(r) || r == utf8.RuneError || ascii && r >= utf8.RuneSelf:
			r = '?'
		}
		if b.Len()+utf8.RuneLen(r)+1 > limit {
			break
		}
		if space {
			b.WriteByte(' ')
			space = false
		}
		b.WriteRune(r)
	}
	return b.String()
}

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// typed gives an address with its type as RFC 3464 section 2.1.2 and RFC 6533
// section 3 write it: rfc822, or utf-8, which stands as it is in a part that
// may be UTF-8 and with escapes in one that may not.
func typed(kind, address string, unicodePart bool) string {
	if strings.EqualFold(kind, "rfc822") || strings.EqualFold(kind, "utf-8") {
		if isASCII(address) {
			return "rfc822;" + printable(address, 2*mail.MaxAddress, true)
		}
		return "utf-8;" + escaped(address, unicodePart)
	}
	return kind + ";" + printable(address, 2*mail.MaxAddress, true)
}

// escaped is utf-8-addr-unitext or utf-8-addr-xtext.
func escaped(s string, unicodePart bool) string {
	var b strings.Builder
	for _, r := range s {
		if b.Len() > 2*mail.MaxAddress {
			break
		}
		switch {
		case r == '\\' || r == '+' || r == '=' || r <= ' ' || r == 0x7f, // not QCHAR
			r >= utf8.RuneSelf && (!unicodePart || !unicode.IsPrint(r) || r == utf8.RuneError):
			fmt.Fprintf(&b, `\x{%02X}`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}

// original is the Original-Recipient of an ORCPT, empty where it is none.
func original(orcpt string, unicodePart bool) string {
	kind, address, ok := strings.Cut(orcpt, ";")
	if !ok || kind == "" || address == "" || len(kind) > 40 || strings.IndexFunc(kind, notAtom) >= 0 {
		return ""
	}
	return typed(kind, address, unicodePart)
}

func notAtom(r rune) bool {
	return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-')
}

// shown is an address as people read it.
func shown(s string) string {
	if a, err := mail.ParseAddress(s); err == nil {
		s = a.Unicode()
	}
	return printable(s, 2*mail.MaxAddress, false)
}

// final is the address that Final-Recipient names.
func final(s string) string {
	if a, err := mail.ParseAddress(s); err == nil {
		return a.String()
	}
	return s
}

// status is the enhanced code with the class that the kind asks for: a message
// that was deferred (4.4.7) until it expired has failed (5.4.7). RFC 3463.
func status(k Kind, s string) string {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 || !digits(parts[1]) || !digits(parts[2]) {
		parts = []string{"", "0", "0"}
	}
	return string(k.class()) + "." + parts[1] + "." + parts[2]
}

func digits(s string) bool {
	return len(s) >= 1 && len(s) <= 3 && strings.Trim(s, "0123456789") == ""
}

// printable is oneLine for an address, where spaces count.
func printable(s string, limit int, ascii bool) string {
	var b strings.Builder
	for _, r := range s {
		if !unicode.IsPrint(r) || r == utf8.RuneError || ascii && r >= utf8.RuneSelf {
			r = '?'
		}
		if b.Len()+utf8.RuneLen(r) > limit {
			break
		}
		b.WriteRune(r)
	}
	return b.String()
}

// field is a header line, folded before spaces (RFC 5322 section 2.2.3) so that
// lines stay below 78 octets where the value lets them. The value is one line
// already; what has no spaces is never longer than a line may be.
func field(name, value string) string {
	var b strings.Builder
	b.WriteString(name + ": ")
	line := b.Len()
	for rest := value; rest != ""; {
		blank := len(rest) - len(strings.TrimLeft(rest, " "))
		end := len(rest)
		if n := strings.IndexByte(rest[blank:], ' '); n >= 0 {
			end = blank + n
		}
		if strings.TrimLeft(rest[end:], " ") == "" { // no line of spaces only
			end = len(rest)
		}
		if blank > 0 && line+end > 76 && len(rest) < len(value) {
			b.WriteString("\r\n")
			line = 0
		}
		b.WriteString(rest[:end])
		line += end
		rest = rest[end:]
	}
	b.WriteString("\r\n")
	return b.String()
}
