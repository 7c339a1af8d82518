package summary

import (
	"bytes"
	"strings"

	words "github.com/postern-mail/postern/internal/mail"
)

// noHost stands for the host of an address that has none, since an entry
// without host begins a group.
const noHost = "MISSING_DOMAIN"

// addressParser reads one address field (RFC 5322 section 3.4) from left to
// right. It takes what is between commas for an address whatever it is.
type addressParser struct {
	p    *parser
	out  []words.HeaderAddress
	text []byte // words outside brackets
	note []byte // last comment
	spec []byte // between < and >
	has  bool   // there was a <
	in   bool   // a group
}

func (p *parser) addressList(out []words.HeaderAddress, val []byte) []words.HeaderAddress {
	a := &addressParser{p: p, out: out}
	for len(val) > 0 && p.addresses > 0 {
		val = a.step(val)
	}
	a.flush()
	if a.in {
		a.add(words.HeaderAddress{})
	}
	return a.out
}

// step takes what val begins with and returns the rest.
func (a *addressParser) step(val []byte) []byte {
	switch c := val[0]; {
	case c == '"':
		s, rest := quoted(val)
		a.text = append(a.text, s...)
		return rest
	case c == '(':
		s, rest := comment(val)
		a.note = s
		return rest
	case c == '<':
		a.has = true
		return a.angle(val[1:])
	case c == ',':
		a.flush()
	case c == '[': // a domain literal may hold colons
		n := bytes.IndexByte(val[:min(len(val), maxToken)], ']') + 1
		n = max(n, 1)
		a.text = append(a.text, val[:n]...)
		return val[n:]
	case c == ':' && !a.in && !a.has:
		name := strings.TrimSpace(string(a.text))
		a.reset()
		a.in = true
		if name = a.p.keep(name, maxText); name == "" {
			name = "group"
		}
		a.add(words.HeaderAddress{Mailbox: name})
	case c == ';':
		a.flush()
		if a.in {
			a.in = false
			a.add(words.HeaderAddress{})
		}
	case c <= ' ' || c == 0x7f:
		if n := len(a.text); n > 0 && a.text[n-1] != ' ' {
			a.text = append(a.text, ' ')
		}
	case c == '\\' && len(val) > 1:
		a.text = append(a.text, val[1])
		return val[2:]
	default:
		a.text = append(a.text, c)
	}
	return val[1:]
}

// angle takes an address up to its closing bracket.
func (a *addressParser) angle(val []byte) []byte {
	a.spec = a.spec[:0]
	for len(val) > 0 {
		switch c := val[0]; {
		case c == '>':
			return val[1:]
		case c == '"':
			var s []byte
			s, val = quoted(val)
			a.spec = append(a.spec, s...)
			continue
		case c > ' ' && c != 0x7f:
			a.spec = append(a.spec, c)
		}
		val = val[1:]
	}
	return nil
}

func (a *addressParser) reset() {
	a.text, a.spec, a.note, a.has = a.text[:0], a.spec[:0], nil, false
}

// flush makes an address of what was gathered.
func (a *addressParser) flush() {
	defer a.reset()
	text := bytes.TrimSpace(oneLine(a.text))
	spec, name := a.spec, text
	if !a.has {
		spec, name = text, nil
	}
	if len(name) == 0 {
		name = bytes.TrimSpace(oneLine(a.note))
	}
	if len(spec) > 0 && spec[0] == '@' { // an old route: @a,@b:user@host
		if i := bytes.IndexByte(spec, ':'); i >= 0 {
			spec = spec[i+1:]
		}
	}
	if len(spec) == 0 && len(name) == 0 {
		return
	}
	h := words.HeaderAddress{Name: a.p.keep(string(name[:min(len(name), 2*maxText)]), maxText), Host: noHost}
	box := spec
	if i := bytes.LastIndexByte(spec, '@'); i >= 0 {
		box = spec[:i]
		if host := spec[i+1:]; len(host) > 0 {
			h.Host = a.p.keep(string(host[:min(len(host), 2*maxText)]), maxText)
		}
	}
	h.Mailbox = a.p.keep(string(box[:min(len(box), 2*maxText)]), maxText)
	a.add(h)
}

func (a *addressParser) add(h words.HeaderAddress) {
	if a.p.addresses > 0 {
		a.p.addresses--
		a.out = append(a.out, h)
	}
}
