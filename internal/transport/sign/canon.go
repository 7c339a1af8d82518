package sign

import (
	"bytes"
	"crypto/sha256"
	"hash"
	"strings"
)

// form is a canonicalisation (RFC 6376 section 3.4).
type form uint8

const (
	simple form = iota
	relaxed
	forms
)

func parseForm(s string) (form, bool) {
	switch strings.ToLower(s) {
	case "simple":
		return simple, true
	case "relaxed":
		return relaxed, true
	}
	return 0, false
}

// appendField adds a field as it is hashed, without its last line end.
func (f form) appendField(dst []byte, h field) []byte {
	if f == simple {
		return append(dst, bytes.TrimSuffix(h.raw, crlf)...)
	}
	return appendRelaxed(append(append(dst, h.name...), ':'), h.value())
}

var crlf = []byte("\r\n")

// appendRelaxed adds a value unfolded, runs of blanks as one space and none
// at the ends (RFC 6376 section 3.4.2). A CR or LF that is no line end stays.
func appendRelaxed(dst, value []byte) []byte {
	start := len(dst)
	space := false
	for i := 0; i < len(value); i++ {
		switch c := value[i]; {
		case c == ' ' || c == '\t':
			space = true
		case c == '\r' && i+1 < len(value) && value[i+1] == '\n':
			i++
		default:
			if space && len(dst) > start {
				dst = append(dst, ' ')
			}
			space = false
			dst = append(dst, c)
		}
	}
	return dst
}

// bodyHash hashes the body in a form, once for all who ask.
func (m *message) bodyHash(f form) []byte {
	if m.hashes[f] == nil {
		h := sha256.New()
		if f == simple {
			hashSimple(h, m.body)
		} else {
			hashRelaxed(h, m.body)
		}
		m.hashes[f] = h.Sum(nil)
	}
	return m.hashes[f]
}

// hashSimple hashes the body with all empty lines at its end as one line end;
// an empty body is one line end (RFC 6376 section 3.4.3).
func hashSimple(h hash.Hash, body []byte) {
	for bytes.HasSuffix(body, crlf) {
		body = body[:len(body)-2]
	}
	h.Write(body)
	h.Write(crlf)
}

// flushAt is how much of a body is gathered before it is hashed.
const flushAt = 32 << 10

// gather collects bytes for a hash.
type gather struct {
	h   hash.Hash
	buf []byte
}

func (g *gather) add(p []byte) {
	for len(g.buf)+len(p) >= flushAt {
		n := flushAt - len(g.buf)
		g.buf = append(g.buf, p[:n]...)
		p = p[n:]
		g.h.Write(g.buf)
		g.buf = g.buf[:0]
	}
	g.buf = append(g.buf, p...)
}

// hashRelaxed hashes the body with runs of blanks as one space, none at line
// ends, and no empty lines at its end; an empty body is nothing (RFC 6376
// section 3.4.4). Lines end with CRLF only.
func hashRelaxed(h hash.Hash, body []byte) {
	g := gather{h, make([]byte, 0, flushAt)}
	empty := 0 // lines held back: they count only if something follows
	for len(body) > 0 {
		if bytes.HasPrefix(body, crlf) {
			empty++
			body = body[2:]
			continue
		}
		line, rest, _ := bytes.Cut(body, crlf)
		body = rest
		line = bytes.TrimRight(line, " \t")
		if len(line) == 0 {
			empty++
			continue
		}
		for ; empty > 0; empty-- {
			g.add(crlf)
		}
		g.line(line)
		g.add(crlf)
	}
	h.Write(g.buf)
}

// line adds a line. Nearly all lines of mail go out as they are, which two
// searches tell; they are tried on lines of ordinary length only, as each run
// of a longer line would search the rest of it again.
func (g *gather) line(line []byte) {
	if len(line) <= 1000 && bytes.IndexByte(line, '\t') < 0 && !bytes.Contains(line, []byte("  ")) {
		g.add(line)
		return
	}
	start := 0
	for i := 0; i < len(line); i++ {
		if c := line[i]; c != ' ' && c != '\t' {
			continue
		}
		g.add(line[start:i])
		g.add([]byte{' '})
		for i+1 < len(line) && (line[i+1] == ' ' || line[i+1] == '\t') {
			i++
		}
		start = i + 1
	}
	g.add(line[start:])
}
