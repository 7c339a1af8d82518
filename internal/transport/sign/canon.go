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

// hashRelaxed hashes the body with runs of blanks as one space, none at line
// ends, and no empty lines at its end; an empty body is nothing (RFC 6376
// section 3.4.4). Lines end with CRLF only.
func hashRelaxed(h hash.Hash, body []byte) {
	const size = 32 << 10
	buf := make([]byte, 0, size+4<<10)
	empty := 0 // lines held back: they count only if something follows
	for len(body) > 0 {
		line, rest, _ := bytes.Cut(body, crlf)
		body = rest
		if len(bytes.Trim(line, " \t")) == 0 {
			empty++
			continue
		}
		for ; empty > 0; empty-- {
			if buf = append(buf, crlf...); len(buf) >= size {
				h.Write(buf)
				buf = buf[:0]
			}
		}
		buf = appendLine(h, buf, line, size)
		if buf = append(buf, crlf...); len(buf) >= size {
			h.Write(buf)
			buf = buf[:0]
		}
	}
	h.Write(buf)
}

// appendLine adds a line to buf, writing buf out whenever it is full, so that
// one line of 100 MB needs no second copy of itself.
func appendLine(h hash.Hash, buf, line []byte, size int) []byte {
	line = bytes.TrimRight(line, " \t")
	for len(line) > 0 {
		n := run(line)
		for len(line[:n]) > 0 {
			part := line[:min(n, size)]
			buf = append(buf, part...)
			line, n = line[len(part):], n-len(part)
			if len(buf) >= size {
				h.Write(buf)
				buf = buf[:0]
			}
		}
		if len(line) > 0 {
			buf = append(buf, ' ')
			line = bytes.TrimLeft(line, " \t")
		}
	}
	return buf
}

// run is how many bytes of line go out as they are: up to the first tab or
// the first space with a blank behind it.
func run(line []byte) int {
	n := len(line)
	if i := bytes.IndexByte(line, '\t'); i >= 0 {
		n = i
		if i > 0 && line[i-1] == ' ' {
			n = i - 1
		}
	}
	if i := bytes.Index(line[:n], []byte("  ")); i >= 0 {
		n = i
	}
	return n
}
