package message

import (
	"fmt"
	"mime"
	"net/url"
	"strings"
)

const (
	maxParams = 64
	maxValue  = 64 << 10
)

// parameters splits "head; name=value; ..." (RFC 2045 section 5.1), leniently:
// readers of mail do. Values are decoded by RFC 2231, and by RFC 2047 as some
// write them; of equal names the first counts.
func parameters(v string) (head string, out map[string]string) {
	v = uncomment(v[:min(len(v), maxValue)])
	head, rest, _ := strings.Cut(v, ";")
	head = strings.ToLower(strings.TrimSpace(head))
	raw := map[string]string{}
	for rest != "" && len(raw) < maxParams {
		var name, val string
		name, val, rest = parameter(rest)
		if _, dup := raw[name]; name != "" && !dup {
			raw[name] = val
		}
	}
	out = map[string]string{}
	for _, name := range []string{"boundary", "name", "filename"} {
		out[name] = joined(raw, name)
	}
	return head, out
}

// joined is the value of a parameter in any of its forms.
func joined(raw map[string]string, name string) string {
	if v, ok := raw[name+"*"]; ok {
		return extended(v, true)
	}
	var b strings.Builder
	for i := 0; i < maxParams; i++ {
		key := fmt.Sprintf("%s*%d", name, i)
		if v, ok := raw[key]; ok {
			b.WriteString(v)
		} else if v, ok := raw[key+"*"]; ok {
			b.WriteString(extended(v, i == 0))
		} else {
			break
		}
	}
	if b.Len() > 0 {
		return b.String()
	}
	v := raw[name]
	if strings.Contains(v, "=?") {
		dec := mime.WordDecoder{}
		if d, err := dec.DecodeHeader(v); err == nil {
			return d
		}
	}
	return v
}

// extended decodes charset'language'%41 (RFC 2231 section 4). Other charsets
// than UTF-8 stay bytes: what is asked of a name is ASCII.
func extended(v string, charset bool) string {
	if charset {
		if parts := strings.SplitN(v, "'", 3); len(parts) == 3 {
			v = parts[2]
		}
	}
	if d, err := url.PathUnescape(v); err == nil {
		return d
	}
	return v
}

// parameter takes one name=value and what follows its semicolon.
func parameter(s string) (name, val, rest string) {
	i := strings.IndexAny(s, "=;")
	if i < 0 {
		return "", "", ""
	}
	name = strings.ToLower(strings.TrimSpace(s[:i]))
	if s[i] == ';' {
		return "", "", s[i+1:]
	}
	s = strings.TrimLeft(s[i+1:], " \t")
	if strings.HasPrefix(s, `"`) {
		val, s = unquote(s[1:])
		_, rest, _ = strings.Cut(s, ";")
		return name, val, rest
	}
	val, rest, _ = strings.Cut(s, ";")
	return name, strings.TrimSpace(val), rest
}

// unquote takes the rest of a quoted string and what follows it.
func unquote(s string) (val, rest string) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}

// uncomment takes comments out, outside of quoted strings (RFC 5322 section
// 3.2.2). One that does not end is none: it could hide what follows.
func uncomment(s string) string {
	if !strings.Contains(s, "(") {
		return s
	}
	var b strings.Builder
	depth, quoted := 0, false
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '\\' && (quoted || depth > 0):
			if depth == 0 && i+1 < len(s) {
				b.WriteString(s[i : i+2])
			}
			i++
			continue
		case c == '"' && depth == 0:
			quoted = !quoted
		case c == '(' && !quoted:
			depth++
			continue
		case c == ')' && depth > 0:
			depth--
			continue
		}
		if depth == 0 {
			b.WriteByte(c)
		}
	}
	if depth > 0 {
		return s
	}
	return b.String()
}
