package authn

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
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
	from := message.Named(msg, "from")
	if len(from) != 1 {
		return nil, kind.Errorf(kind.Invalid, "%d from fields", len(from))
	}
	if long(from[0]) {
		return nil, kind.Errorf(kind.Invalid, "from field of more than %d octets", MaxField)
	}
	var out []string
	for _, d := range domainsOf(from[0].Value(msg)) {
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

// long reports whether there is more behind the colon than is read.
func long(f message.HeaderField) bool { return f.End-f.Colon > MaxField }

// domainsOf lists what stands behind each @ outside of quotes, comments and
// literals. Blanks and comments inside of a domain are no part of it (RFC 5322
// section 4.4).
func domainsOf(v string) []string {
	v = bare(v)
	var out []string
	for len(out) <= 4*MaxAuthors {
		_, rest, ok := strings.Cut(v, "@")
		if !ok {
			break
		}
		end := strings.IndexAny(rest, `<>@,;:"[]\`)
		if end < 0 {
			end = len(rest)
		}
		if d := firstName(rest[:end]); d != "" {
			out = append(out, d)
		}
		v = rest[end:]
	}
	return out
}

// firstName joins the words that s starts with as long as dots join them.
func firstName(s string) string {
	var b strings.Builder
	last := byte('.')
	for w := range strings.FieldsSeq(s) {
		if last != '.' && w[0] != '.' {
			break
		}
		b.WriteString(w)
		last = w[len(w)-1]
	}
	return b.String()
}

// bare takes quoted strings and comments out of a structured value, each for a
// blank. One that does not end is left, with all of its kind behind it, so that
// nothing hides there.
func bare(v string) string {
	var b strings.Builder
	open := opener{}
	for i := 0; i < len(v); {
		if n := open.skip(v[i:]); n > 0 {
			b.WriteByte(' ')
			i += n
			continue
		}
		b.WriteByte(v[i])
		i++
	}
	return b.String()
}

// opener steps over quoted strings and comments. After one that does not end
// it takes no more of its kind: looking for the end of each again would be
// quadratic.
type opener struct{ noQuotes, noComments bool }

// skip is the length of the quoted string or comment s starts with, 0 for none.
func (o *opener) skip(s string) (n int) {
	switch {
	case s[0] == '"' && !o.noQuotes:
		n = quotedLen(s)
		o.noQuotes = n == 0
	case s[0] == '(' && !o.noComments:
		n = commentLen(s)
		o.noComments = n == 0
	}
	return n
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
