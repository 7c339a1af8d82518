package smtpd

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// path is a parsed reverse-path or forward-path (RFC 5321 section 4.1.2).
type path struct {
	null    bool   // <>
	route   bool   // a source route stood in front
	local   string // without quotes and escapes
	domain  string // as written; empty only for <postmaster>
	literal bool   // the domain is an address literal
	utf8    bool   // has bytes above 127 (RFC 6531)
	raw     string // the mailbox as written
}

var (
	errBracket = errors.New("address must stand in one pair of angle brackets")
	errLocal   = errors.New("part before the @ is not valid")
	errDomain  = errors.New("domain is not valid")
	errLong    = errors.New("address is longer than 254 octets")
)

// parsePath reads a path at the start of s and returns what follows it.
// Blanks before it are forgiven, missing brackets are not.
func parsePath(s string) (p path, rest string, err error) {
	s = strings.TrimLeft(s, " ")
	if !strings.HasPrefix(s, "<") {
		return p, "", errBracket
	}
	s = s[1:]
	if strings.HasPrefix(s, ">") {
		p.null = true
		return p, s[1:], nil
	}
	if strings.HasPrefix(s, "@") { // A-d-l ":"
		i := strings.IndexAny(s, ":>\"")
		if i < 0 || s[i] != ':' {
			return p, "", errDomain
		}
		p.route = true
		s = s[i+1:]
	}
	start := s
	if p.local, s, err = parseLocal(s); err != nil {
		return p, "", err
	}
	if strings.HasPrefix(s, ">") && strings.EqualFold(p.local, "postmaster") {
		p.raw = p.local
		return p, s[1:], nil
	}
	if !strings.HasPrefix(s, "@") {
		return p, "", errLocal
	}
	if p.domain, p.literal, s, err = parseDomain(s[1:]); err != nil {
		return p, "", err
	}
	p.raw = start[:len(start)-len(s)]
	if !strings.HasPrefix(s, ">") {
		return p, "", errBracket
	}
	if len(p.raw) > 254 { // RFC 5321 section 4.5.3.1.3, brackets left out
		return p, "", errLong
	}
	for i := range len(p.raw) {
		p.utf8 = p.utf8 || p.raw[i] >= utf8.RuneSelf
	}
	return p, s[1:], nil
}

// parseLocal reads a dot-string or a quoted-string.
func parseLocal(s string) (local, rest string, err error) {
	if strings.HasPrefix(s, `"`) {
		return parseQuoted(s[1:])
	}
	i := 0
	for i < len(s) && (isAtext(s[i]) || s[i] == '.') {
		i++
	}
	local = s[:i]
	if local == "" || local[0] == '.' || local[i-1] == '.' || strings.Contains(local, "..") {
		return "", "", errLocal
	}
	return local, s[i:], nil
}

func parseQuoted(s string) (local, rest string, err error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"':
			if b.Len() == 0 {
				return "", "", errLocal
			}
			return b.String(), s[i+1:], nil
		case c == '\\':
			i++
			if i == len(s) || s[i] < ' ' || s[i] > '~' {
				return "", "", errLocal
			}
			b.WriteByte(s[i])
		case c < ' ' || c == 0x7f:
			return "", "", errLocal
		default:
			b.WriteByte(c)
		}
	}
	return "", "", errLocal
}

func isAtext(c byte) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c >= utf8.RuneSelf:
		return true
	}
	return strings.IndexByte("!#$%&'*+-/=?^_`{|}~", c) >= 0
}

// parseDomain reads a domain or an address literal. Underscores are forgiven:
// hosts that send mail have them.
func parseDomain(s string) (domain string, literal bool, rest string, err error) {
	if strings.HasPrefix(s, "[") {
		i := strings.IndexByte(s, ']')
		if i < 2 || strings.ContainsFunc(s[1:i], func(r rune) bool { return r <= ' ' || r >= 0x7f || strings.ContainsRune("[<>@\"\\", r) }) {
			return "", false, "", errDomain
		}
		return s[:i+1], true, s[i+1:], nil
	}
	i := 0
	for i < len(s) && (isDomainByte(s[i]) || s[i] == '.') {
		i++
	}
	domain = s[:i]
	if domain == "" || domain[0] == '.' || domain[i-1] == '.' || strings.Contains(domain, "..") {
		return "", false, "", errDomain
	}
	for label := range strings.SplitSeq(domain, ".") {
		if len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return "", false, "", errDomain
		}
	}
	return domain, false, s[i:], nil
}

func isDomainByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c >= utf8.RuneSelf
}

// validHelo reports whether s may be the argument of EHLO: a domain or an
// address literal, read generously, but nothing that could break a header.
func validHelo(s string) bool {
	if s == "" || len(s) > 255 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; c <= ' ' || c >= 0x7f || strings.IndexByte("()<>@,;\\\"", c) >= 0 {
			return false
		}
	}
	return true
}
