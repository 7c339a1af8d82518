package authn

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// MaxAuthors is how many author domains of one From field are evaluated (RFC
// 9989 section 11.5 asks for a limit).
const MaxAuthors = 4

// MaxField is how many octets of one field are read.
const MaxField = 64 << 10

// Authors finds the author domains of a message (RFC 9989 section 5.3.1): the
// distinct domains of the addresses of its one From field, in A-labels. It is
// an error of kind Invalid if there is no such field or more than one, no
// domain or more than MaxAuthors.
//
// What is written where no address should stand counts as well: readers show
// "ceo@bank.example <x@evil.example>" in their own ways, and DMARC must not
// pass for the one while the other is shown.
func Authors(msg []byte) ([]string, error) {
	var from []string
	fields(msg, func(f field) {
		if f.name == "from" {
			from = append(from, f.value(msg))
		}
	})
	if len(from) != 1 {
		return nil, kind.Errorf(kind.Invalid, "%d from fields", len(from))
	}
	if len(from[0]) > MaxField {
		return nil, kind.Errorf(kind.Invalid, "from field of %d octets", len(from[0]))
	}
	var out []string
	for _, d := range domainsOf(from[0]) {
		a := asciiDomain(d)
		if a == "" {
			return nil, kind.Errorf(kind.Invalid, "from field has domain %.40q", clip(d))
		}
		if !strings.Contains(a, ".") || slices.Contains(out, a) {
			continue // "Joe @ Home": names of one label have no mail
		}
		if len(out) == MaxAuthors {
			return nil, kind.Errorf(kind.Invalid, "from field has more than %d domains", MaxAuthors)
		}
		out = append(out, a)
	}
	if len(out) == 0 {
		return nil, kind.Errorf(kind.Invalid, "from field has no domain")
	}
	return out, nil
}

// domainsOf lists what stands behind each @ outside of quotes, comments and
// literals. Blanks and comments inside of a domain are no part of it (RFC 5322
// section 4.4).
func domainsOf(v string) []string {
	v = bare(v)
	var out []string
	for i := strings.IndexByte(v, '@'); i >= 0 && len(out) <= 4*MaxAuthors; {
		rest := strings.TrimLeft(v[i+1:], " \t")
		end, dot := 0, true // a blank ends a domain unless a dot stands on one side of it
		for end < len(rest) && !strings.ContainsRune("<>@,;:\"[]\\", rune(rest[end])) {
			if c := rest[end]; c == ' ' || c == '\t' {
				next := strings.TrimLeft(rest[end:], " \t")
				if !dot && !strings.HasPrefix(next, ".") {
					break
				}
			} else {
				dot = c == '.'
			}
			end++
		}
		d := strings.Map(func(r rune) rune {
			if r == ' ' || r == '\t' {
				return -1
			}
			return r
		}, rest[:end])
		if d != "" {
			out = append(out, d)
		}
		next := strings.IndexByte(rest[end:], '@')
		if next < 0 {
			return out
		}
		i = len(v) - len(rest) + end + next
	}
	return out
}

// bare takes quoted strings and comments out of a structured value, each for a
// blank; one that does not end is left, so that nothing hides behind it.
func bare(v string) string {
	var b strings.Builder
	for i := 0; i < len(v); {
		n := 0
		switch v[i] {
		case '"':
			n = quotedLen(v[i:])
		case '(':
			n = commentLen(v[i:])
		}
		if n == 0 {
			b.WriteByte(v[i])
			i++
			continue
		}
		b.WriteByte(' ')
		i += n
	}
	return b.String()
}

// quotedLen is the length of the quoted string v starts with, 0 if it does not end.
func quotedLen(v string) int {
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case '"':
			return i + 1
		}
	}
	return 0
}

// commentLen is the length of the comment v starts with, 0 if it does not end.
func commentLen(v string) int {
	depth := 0
	for i := 0; i < len(v); i++ {
		switch v[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
	return 0
}
