package summary

import (
	"bytes"
	"fmt"
	"strings"

	words "github.com/postern-mail/postern/internal/mail"
)

// contentType sets type and parameters of a part and returns its boundary. A
// type that makes no sense leaves the default (RFC 2045 section 5.2).
func (p *parser) contentType(n *words.Part, val []byte) string {
	head, params := p.params(val)
	typ, sub, ok := strings.Cut(strings.ToLower(head), "/")
	if !ok || !token(typ) || !token(sub) {
		return ""
	}
	n.Type, n.Subtype, n.Params = p.keep(typ, maxToken), p.keep(sub, maxToken), params
	if n.Type == "" || n.Subtype == "" {
		n.Type, n.Subtype = "application", "octet-stream" // the budget is used up
	}
	b := params["boundary"]
	for i := 0; i < 10 && params["boundary"] == ""; i++ { // RFC 2231 section 3
		more, ok := params[fmt.Sprintf("boundary*%d", i)]
		if !ok {
			break
		}
		b += more
	}
	if len(b) > maxBoundary {
		return ""
	}
	return strings.TrimRight(b, " \t")
}

func token(s string) bool {
	return s != "" && len(s) <= maxToken && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r >= 0x7f || strings.ContainsRune(`()<>@,;:\"/[]?=`, r)
	})
}

func firstToken(val []byte) string {
	s := string(bytes.TrimSpace(uncomment(val[:min(len(val), 4*maxToken)])))
	if i := strings.IndexAny(s, " \t\r\n;"); i >= 0 {
		s = s[:i]
	}
	if !token(s) {
		return ""
	}
	return s
}

// params splits "head; name=value; ..." (RFC 2045 section 5.1). Names are
// lower case; RFC 2231 forms stay as they came. The first of equal names counts.
func (p *parser) params(val []byte) (head string, out map[string]string) {
	val = uncomment(val[:min(len(val), 64<<10)])
	rest := val
	if i := bytes.IndexByte(val, ';'); i >= 0 {
		val, rest = val[:i], val[i+1:]
	} else {
		rest = nil
	}
	head = string(bytes.TrimSpace(oneLine(val[:min(len(val), 4*maxToken)])))
	for len(rest) > 0 && len(out) < maxParams {
		var name, v []byte
		name, v, rest = param(rest)
		key := strings.ToLower(string(bytes.TrimSpace(name)))
		if !paramName(key) {
			continue
		}
		if _, dup := out[key]; dup {
			continue
		}
		if key = p.keep(key, maxToken); key == "" {
			break
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = p.keep(string(oneLine(v)), maxValue)
	}
	return head, out
}

func paramName(s string) bool { return len(s) <= maxToken && token(s) }

// param takes one "name=value" and what follows the semicolon after it.
func param(b []byte) (name, val, rest []byte) {
	i := bytes.IndexAny(b, "=;")
	if i < 0 {
		return nil, nil, nil
	}
	if b[i] == ';' {
		return nil, nil, b[i+1:]
	}
	name, b = b[:i], bytes.TrimLeft(b[i+1:], " \t\r\n")
	if len(b) > 0 && b[0] == '"' {
		val, b = quoted(b)
	} else {
		j := bytes.IndexByte(b, ';')
		if j < 0 {
			j = len(b)
		}
		val, b = bytes.TrimSpace(b[:j]), b[j:]
	}
	if j := bytes.IndexByte(b, ';'); j >= 0 {
		return name, val, b[j+1:]
	}
	return name, val, nil
}

// quoted takes a quoted string, which b begins with, without its quotes.
func quoted(b []byte) (s, rest []byte) {
	for i := 1; i < len(b); i++ {
		switch b[i] {
		case '"':
			return s, b[i+1:]
		case '\\':
			if i+1 < len(b) {
				i++
			}
		}
		s = append(s, b[i])
	}
	return s, nil
}

// uncomment blanks comments (RFC 5322 section 3.2.2) outside quoted strings.
func uncomment(b []byte) []byte {
	if bytes.IndexByte(b, '(') < 0 {
		return b
	}
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '"':
			_, rest := quoted(b[i:])
			end := len(b) - len(rest)
			out = append(out, b[i:end]...)
			i = end - 1
		case '(':
			_, rest := comment(b[i:])
			i = len(b) - len(rest) - 1
			out = append(out, ' ')
		default:
			out = append(out, b[i])
		}
	}
	return out
}

// comment takes a comment, which b begins with, counting nested ones. The
// text is without the outer brackets.
func comment(b []byte) (text, rest []byte) {
	depth := 0
	for i := 0; i < len(b); i++ {
		switch b[i] {
		case '\\':
			i++
		case '(':
			depth++
		case ')':
			if depth--; depth == 0 {
				return b[1:i], b[i+1:]
			}
		}
	}
	return b[1:], nil
}
