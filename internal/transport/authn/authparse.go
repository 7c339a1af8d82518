package authn

import (
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

const (
	maxMethods = 100  // of one field
	maxJoined  = 1024 // octets of a name that is written in pieces
)

// ParseAuthResults reads the value of an Authentication-Results field (RFC
// 8601 section 2.2). Comments are dropped. Errors are of kind Invalid.
func ParseAuthResults(value string) (AuthResults, error) {
	if len(value) > MaxField {
		return AuthResults{}, kind.Errorf(kind.Invalid, "authentication results: %d octets", len(value))
	}
	var a AuthResults
	for i, part := range splitUnquoted(value) {
		words, err := lex(part)
		if err != nil {
			return AuthResults{}, err
		}
		switch {
		case i == 0:
			if a.Server, err = serverID(words); err != nil {
				return AuthResults{}, err
			}
		case len(words) == 0:
			// a semicolon at the end is seen in the wild
		case len(words) == 1 && !words[0].quoted && strings.EqualFold(words[0].text, "none"):
		case len(a.Methods) == maxMethods:
			return AuthResults{}, kind.Errorf(kind.Invalid, "authentication results: more than %d methods", maxMethods)
		default:
			m, err := readMethod(words)
			if err != nil {
				return AuthResults{}, err
			}
			a.Methods = append(a.Methods, m)
		}
	}
	return a, nil
}

// authserv reads the authserv-id only.
func authserv(value string) (string, error) {
	if len(value) > MaxField {
		return "", kind.Errorf(kind.Invalid, "authentication results: %d octets", len(value))
	}
	words, err := lex(splitUnquoted(value)[0])
	if err != nil {
		return "", err
	}
	return serverID(words)
}

// serverID reads the id and its version, which is 1 or absent.
func serverID(words []lexeme) (string, error) {
	if len(words) == 0 || words[0].text == "" || words[0].mark() || len(words) > 2 || len(words) == 2 && words[1].text != "1" {
		return "", kind.Errorf(kind.Invalid, "authentication results: no server, or a version that is not 1")
	}
	return words[0].text, nil
}

// readMethod reads method [/version] = result [reason = value] properties.
func readMethod(words []lexeme) (Method, error) {
	bad := func(what string) (Method, error) {
		return Method{}, kind.Errorf(kind.Invalid, "authentication results: %s", what)
	}
	if len(words) < 3 || !words[0].keyword() {
		return bad("no method")
	}
	m := Method{Name: strings.ToLower(words[0].text)}
	words = words[1:]
	if words[0].is("/") {
		if len(words) < 4 || words[1].text != "1" {
			return bad("version of a method that is not 1")
		}
		words = words[2:]
	}
	if !words[0].is("=") || !words[1].keyword() {
		return bad("method without result")
	}
	m.Result = Result(strings.ToLower(words[1].text))
	for words = words[2:]; len(words) > 0; words = words[3:] {
		if len(words) < 3 || !words[0].keyword() || !words[1].is("=") || words[2].mark() {
			return bad("property without value")
		}
		name, value := strings.ToLower(words[0].text), words[2].text
		if name == "reason" || name == "action" {
			m.Reason = value
			continue
		}
		ptype, name, ok := strings.Cut(name, ".")
		if !ok || ptype == "" || name == "" {
			return bad("property without type")
		}
		m.Properties = append(m.Properties, Property{Type: ptype, Name: name, Value: value})
	}
	return m, nil
}

// lexeme is a word or one of the marks = and /.
type lexeme struct {
	text   string
	quoted bool
}

func (l lexeme) mark() bool       { return l.is("=") || l.is("/") }
func (l lexeme) is(s string) bool { return !l.quoted && l.text == s }

// keyword reports whether it may be the name of a method, result or property.
func (l lexeme) keyword() bool { return !l.quoted && !l.mark() }

// goesOn reports whether a word and the one that starts with c are one name.
func (l lexeme) goesOn(c byte) bool {
	return !l.quoted && !l.mark() && (c == '.' || strings.HasSuffix(l.text, "."))
}

// lex splits a part into words and marks; comments and blanks separate them.
// A value that follows a mark goes on to the next blank, as addresses and
// base64 may hold marks of their own.
func lex(s string) ([]lexeme, error) {
	var out []lexeme
	for i := 0; i < len(s); {
		switch c := s[i]; {
		case c == ' ' || c == '\t' || c == '\r' || c == '\n':
			i++
		case c == '(':
			n := commentLen(s[i:])
			if n == 0 {
				return nil, kind.Errorf(kind.Invalid, "authentication results: comment does not end")
			}
			i += n
		case c == '"':
			n := quotedLen(s[i:])
			if n == 0 {
				return nil, kind.Errorf(kind.Invalid, "authentication results: quotes do not end")
			}
			text := unquote(s[i : i+n])
			i += n
			if i < len(s) && s[i] == '@' { // "local part"@domain
				m := wordLen(s[i:], true)
				text = s[i-n : i+m]
				i += m
			}
			out = append(out, lexeme{text, true})
		case c == '=' || c == '/' && len(out) == 1:
			out = append(out, lexeme{text: string(c)})
			i++
		default:
			n := wordLen(s[i:], len(out) > 0 && out[len(out)-1].is("="))
			if last := len(out) - 1; last >= 0 && out[last].goesOn(s[i]) && (last == 0 || !out[last-1].is("=")) {
				if len(out[last].text) > maxJoined {
					return nil, kind.Errorf(kind.Invalid, "authentication results: name of more than %d octets", maxJoined)
				}
				out[last].text += s[i : i+n] // blanks and comments around a dot
			} else {
				out = append(out, lexeme{text: s[i : i+n]})
			}
			i += n
		}
	}
	return out, nil
}

// wordLen is the length of the word s starts with; in a value marks belong to it.
func wordLen(s string, value bool) int {
	stop := " \t\r\n(\"=/"
	if value {
		stop = " \t\r\n("
	}
	if n := strings.IndexAny(s[1:], stop); n >= 0 {
		return n + 1
	}
	return len(s)
}

func unquote(s string) string {
	s = s[1 : len(s)-1]
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+1 < len(s) {
			i++
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// splitUnquoted splits at semicolons outside of quotes and comments.
func splitUnquoted(v string) []string {
	var out []string
	start, open := 0, opener{}
	for i := 0; i < len(v); {
		if v[i] == ';' {
			out = append(out, v[start:i])
			start = i + 1
		}
		i += max(open.skip(v[i:]), 1)
	}
	return append(out, v[start:])
}
