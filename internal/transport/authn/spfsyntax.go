package authn

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// checkSyntax reads a whole SPF record against the grammar of RFC 7208 section
// 12. The evaluation stops at the first term that matches; section 4.6 wants a
// permerror for a syntax error anywhere.
func checkSyntax(record string) error {
	once := map[string]bool{}
	for term := range strings.SplitSeq(record[len("v=spf1"):], " ") {
		if term == "" {
			continue
		}
		if name, value, ok := modifier(term); ok {
			if name != "redirect" && name != "exp" {
				if macroLen(value, "slodiphvcrt") != len(value) {
					return syntaxError(term)
				}
				continue
			}
			if once[name] || !domainSpec(value) {
				return syntaxError(term)
			}
			once[name] = true
			continue
		}
		if !mechanism(term) {
			return syntaxError(term)
		}
	}
	return nil
}

func syntaxError(term string) error {
	return kind.Errorf(kind.Invalid, "term %.60q is not of SPF", term)
}

// modifier splits name=value; the name tells it from a mechanism (section 4.6.1).
func modifier(term string) (name, value string, ok bool) {
	name, value, ok = strings.Cut(term, "=")
	if !ok || name == "" || !letter(name[0]) {
		return "", "", false
	}
	for i := range len(name) {
		if c := name[i]; !letter(c) && !digit(c) && c != '-' && c != '_' && c != '.' {
			return "", "", false
		}
	}
	return strings.ToLower(name), value, true
}

// mechanism reads [qualifier] name [: value] [/ prefix lengths] (section 5).
func mechanism(term string) bool {
	if strings.IndexByte("+-?~", term[0]) >= 0 {
		term = term[1:]
	}
	end := strings.IndexAny(term, ":/")
	if end < 0 {
		end = len(term)
	}
	rest := term[end:]
	value, named := strings.CutPrefix(rest, ":")
	switch strings.ToLower(term[:end]) {
	case "all":
		return rest == ""
	case "include", "exists":
		return named && domainSpec(value)
	case "ptr":
		return rest == "" || named && domainSpec(value)
	case "ip4":
		addr, bits, cut := strings.Cut(value, "/")
		a, err := netip.ParseAddr(addr)
		return named && err == nil && a.Is4() && (!cut || prefix(bits, 32))
	case "ip6":
		addr, bits, cut := strings.Cut(value, "/")
		a, err := netip.ParseAddr(addr)
		return named && err == nil && a.Is6() && a.Zone() == "" && (!cut || prefix(bits, 128))
	case "a", "mx":
		if named {
			return domainAndPrefix(value)
		}
		return prefixes(rest)
	}
	return false
}

// domainAndPrefix reads what stands behind "a:" and "mx:". A slash may be part
// of a name, so each one is tried as the start of the prefix lengths.
func domainAndPrefix(s string) bool {
	for i := range len(s) + 1 {
		if (i == len(s) || s[i] == '/') && prefixes(s[i:]) && domainSpec(s[:i]) {
			return true
		}
	}
	return false
}

// prefixes reads [/n][//n] (section 5.6, dual-cidr-length).
func prefixes(s string) bool {
	v4, v6, both := strings.Cut(s, "//")
	if both && !prefix(v6, 128) {
		return false
	}
	bits, any := strings.CutPrefix(v4, "/")
	return v4 == "" || any && prefix(bits, 32)
}

// prefix reads the length of a prefix, which has no leading zeros.
func prefix(s string, most int) bool {
	n, err := strconv.ParseUint(s, 10, 8)
	return err == nil && int(n) <= most && strconv.FormatUint(n, 10) == s
}

// domainSpec reads macro-string domain-end (section 7.1): the end is a macro or
// a label that could be a top-level one.
func domainSpec(s string) bool {
	last, end := 0, 0 // start and end of the last macro or literal
	for end < len(s) {
		n := oneMacro(s[end:], "slodiphv")
		if n == 0 {
			return false
		}
		last, end = end, end+n
	}
	if end > 0 && s[last] == '%' {
		return true
	}
	s = strings.TrimSuffix(s, ".")
	dot := strings.LastIndexByte(s, '.')
	return dot >= 0 && topLabel(s[dot+1:])
}

// topLabel is toplabel of section 7.1: letters, digits and inner hyphens, and
// not digits alone.
func topLabel(s string) bool {
	plain := false // something but a digit
	for i := range len(s) {
		switch c := s[i]; {
		case letter(c), c == '-' && i > 0 && i < len(s)-1:
			plain = true
		case !digit(c):
			return false
		}
	}
	return plain
}

// macroLen is how much of s is macros and literals.
func macroLen(s, letters string) int {
	at := 0
	for at < len(s) {
		n := oneMacro(s[at:], letters)
		if n == 0 {
			break
		}
		at += n
	}
	return at
}

// oneMacro is the length of the macro or literal that s starts with, 0 if it
// is neither.
func oneMacro(s, letters string) int {
	if s[0] != '%' {
		if s[0] > ' ' && s[0] < 0x7f {
			return 1
		}
		return 0
	}
	if len(s) > 1 && strings.IndexByte("%_-", s[1]) >= 0 {
		return 2
	}
	end := strings.IndexByte(s, '}')
	if end < 3 || s[1] != '{' || strings.IndexByte(letters, s[2]|0x20) < 0 {
		return 0
	}
	body := s[3:end]
	digits := len(body) - len(strings.TrimLeft(body, "0123456789"))
	if digits > 0 && strings.Trim(body[:digits], "0") == "" {
		return 0
	}
	body = body[digits:]
	if body != "" && body[0]|0x20 == 'r' {
		body = body[1:]
	}
	if strings.Trim(body, "-.+,/_=") != "" {
		return 0
	}
	return end + 1
}

func letter(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }
func digit(c byte) bool  { return c >= '0' && c <= '9' }
