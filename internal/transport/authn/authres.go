package authn

import (
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/base/message"
)

// AuthResults is an Authentication-Results field (RFC 8601 section 2.2).
type AuthResults struct {
	Server  string // authserv-id: who says so
	Methods []Method
}

// Method is the outcome of one method.
type Method struct {
	Name       string // spf, dkim, dmarc, arc, ...; lower case
	Result     Result
	Reason     string
	Comment    string // written only
	Properties []Property
}

// Property is one thing a method looked at: ptype.property=value.
type Property struct{ Type, Name, Value string }

// Get returns the value of a property, empty if there is none.
func (m Method) Get(ptype, name string) string {
	for _, p := range m.Properties {
		if p.Type == ptype && p.Name == name {
			return p.Value
		}
	}
	return ""
}

// Report puts the results of a message into the words of RFC 8601. server is
// our authserv-id.
func (r Results) Report(server string) AuthResults {
	a := AuthResults{Server: server}
	add := func(name string, res Result, comment string, props ...Property) {
		if res == "" {
			return
		}
		m := Method{Name: name, Result: res, Comment: comment}
		for _, p := range props {
			if p.Value != "" {
				m.Properties = append(m.Properties, p)
			}
		}
		a.Methods = append(a.Methods, m)
	}
	if r.Helo.Result == "" { // null sender: one check, of the HELO name
		add("spf", r.MailFrom.Result, "", Property{"smtp", "helo", r.MailFrom.Domain})
	} else {
		add("spf", r.MailFrom.Result, "", Property{"smtp", "mailfrom", r.MailFrom.Sender})
		add("spf", r.Helo.Result, "", Property{"smtp", "helo", r.Helo.Domain})
	}
	for _, s := range r.DKIM {
		add("dkim", s.Result, "", Property{"header", "d", s.Domain}, Property{"header", "i", s.Identity},
			Property{"header", "s", s.Selector}, Property{"header", "a", s.Algorithm}, Property{"header", "b", s.Signature[:min(len(s.Signature), 8)]})
	}
	if len(r.DKIM) == 0 {
		add("dkim", None, "no signature")
	}
	for _, d := range append([]DMARC{r.DMARC}, r.Others...) {
		comment := ""
		if d.Domain != "" && d.Published != "" {
			comment = "p=" + string(d.Published)
		}
		if d.Override != "" {
			comment += " " + d.Override
		}
		applied := d.Applied
		if d.Result == None || d.Domain == "" {
			applied = ""
		}
		add("dmarc", d.Result, comment, Property{"header", "from", d.From}, Property{"policy", "dmarc", string(applied)})
	}
	oldest := "" // RFC 8617 section 10.2
	if r.ARC.Result == Pass {
		oldest = strconv.Itoa(r.ARC.OldestPass)
	}
	add("arc", r.ARC.Result, "", Property{"header", "oldest-pass", oldest})
	return a
}

// Header is the whole Authentication-Results field of the results.
func (r Results) Header(server string) []byte { return r.Report(server).Field() }

// Limits of what is written.
const (
	maxValue = 320 // octets of a thing that a stranger chose: an address at its longest
	foldAt   = 78  // RFC 5322 section 2.1.1
)

// words are the pieces between which the value may be folded.
func (a AuthResults) words() []string {
	out := []string{word(a.Server)}
	if len(a.Methods) == 0 {
		out[0] += ";"
		return append(out, "none")
	}
	for _, m := range a.Methods {
		out[len(out)-1] += ";"
		out = append(out, token(m.Name)+"="+token(string(m.Result)))
		if c := comment(m.Comment); c != "" {
			out = append(out, "("+c+")")
		}
		if m.Reason != "" {
			out = append(out, "reason="+word(m.Reason))
		}
		for _, p := range m.Properties {
			out = append(out, token(p.Type)+"."+token(p.Name)+"="+pvalue(p.Value))
		}
	}
	return out
}

// String writes the value of the field on one line, as a seal wants it too
// (RFC 8617 section 4.1.1).
func (a AuthResults) String() string { return strings.Join(a.words(), " ") }

// Field writes the field, folded, a line for each method, with its last line
// end. No line is longer than 998 octets (RFC 5322 section 2.1.1).
func (a AuthResults) Field() []byte {
	b := []byte("Authentication-Results:")
	length, fresh := len(b), false
	for _, w := range a.words() {
		if fresh || length+1+len(w) > foldAt {
			b = append(b, "\r\n\t"...)
			length = 1 + len(w)
		} else {
			b = append(b, ' ')
			length += 1 + len(w)
		}
		b = append(b, w...)
		fresh = strings.HasSuffix(w, ";")
	}
	return append(b, "\r\n"...)
}

// token keeps what RFC 2045 lets stand in a token.
func token(s string) string {
	t := strings.Map(func(r rune) rune {
		if r < 0x80 && isToken(byte(r)) {
			return r
		}
		return '-'
	}, s)
	return t[:min(len(t), 64)]
}

func isToken(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune(`()<>@,;:\"/[]?=`, rune(c))
}

func comment(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '(' || r == ')' || r == '\\' || r == ';' {
			return ' '
		}
		return r
	}, clip(s))
}

// word writes a value (RFC 2045: token or quoted string).
func word(s string) string {
	s = clean(s)
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return r >= 0x80 || !isToken(byte(r)) }) < 0 {
		return s
	}
	return quote(s)
}

// pvalue writes a value of a property: a token, an address or its domain with
// the @, or a quoted string (RFC 8601 section 2.2).
func pvalue(s string) string {
	s = clean(s)
	if local, domain, ok := strings.Cut(s, "@"); ok && goodName(domain) && strings.IndexFunc(domain, func(r rune) bool {
		return r >= 0x80 || !isToken(byte(r))
	}) < 0 && strings.IndexFunc(local, func(r rune) bool { return r >= 0x80 || !isToken(byte(r)) && r != '/' && r != '=' && r != '?' }) < 0 {
		return s
	}
	return word(s)
}

// quote writes a quoted string. A semicolon becomes a blank: simple readers
// split there first, and folding tells methods by it.
func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, ";", " ").Replace(s) + `"`
}

// clean bounds a value and takes out what no field may hold. UTF-8 may stay
// (RFC 8616).
func clean(s string) string {
	s = strings.ToValidUTF8(s, "?")
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
	if len(s) > maxValue {
		s = strings.ToValidUTF8(s[:maxValue], "")
	}
	return s
}

// server brings an authserv-id to the form it is compared in.
func server(id string) string {
	if d := asciiDomain(strings.TrimSpace(id)); d != "" {
		return d
	}
	return strings.ToLower(strings.TrimSpace(id))
}

// RemoveForged takes out every Authentication-Results field of an incoming
// message that claims to be one of ours, or that can not be read and might be
// read as one (RFC 8601 section 5). It works in msg, moving what is kept of
// the header to the right, and returns the rest.
func RemoveForged(msg []byte, ours ...string) []byte {
	mine := map[string]bool{}
	for _, id := range ours {
		mine[server(id)] = true
	}
	var forged []message.HeaderField
	for _, f := range message.Named(msg, "authentication-results") {
		if long(f) {
			forged = append(forged, f)
			continue
		}
		id, err := authserv(f.Value(msg))
		if err != nil || mine[server(id)] {
			forged = append(forged, f)
		}
	}
	to := 0
	for i := len(forged) - 1; i >= 0; i-- {
		if i == len(forged)-1 {
			to = forged[i].End
		}
		start := 0
		if i > 0 {
			start = forged[i-1].End
		}
		kept := msg[start:forged[i].Start]
		to -= len(kept)
		copy(msg[to:], kept)
	}
	return msg[to:]
}
