package dsn

import (
	"bytes"
	"mime"
	"strings"
	"unicode/utf8"
)

// header is the header of the parent, cut at its end and at maxHeader.
type header []byte

// headerOf takes whole fields only; a line that is longer than the limit leaves
// nothing.
func headerOf(p Parent) header {
	h := p.Header
	if len(h) == 0 {
		h = p.Full
	}
	cut := len(h) > maxHeader
	if cut {
		h = h[:maxHeader]
	}
	at, whole := 0, 0 // of the line, of the last field that is whole
	for at < len(h) {
		end := bytes.IndexByte(h[at:], '\n') + 1
		if end == 0 {
			break
		}
		line := bytes.TrimRight(h[at:at+end], "\r\n")
		if len(line) == 0 {
			return header(h[:at])
		}
		if line[0] != ' ' && line[0] != '\t' {
			whole = at
		}
		at += end
	}
	if cut {
		return header(h[:whole])
	}
	return header(h)
}

// first gives the value of the first field of that name, unfolded.
func (h header) first(name string) string {
	rest := []byte(h)
	for len(rest) > 0 {
		line := rest
		for end := 0; ; { // to the end of the field
			n := bytes.IndexByte(rest[end:], '\n')
			if n < 0 {
				rest = nil
				break
			}
			end += n + 1
			if end == len(rest) || rest[end] != ' ' && rest[end] != '\t' {
				line, rest = rest[:end], rest[end:]
				break
			}
		}
		k, v, ok := bytes.Cut(line, []byte(":"))
		if ok && strings.EqualFold(string(bytes.TrimRight(k, " \t")), name) {
			return strings.TrimSpace(strings.NewReplacer("\r", "", "\n", "").Replace(string(v)))
		}
	}
	return ""
}

// notification tells whether the parent is itself a report of delivery, by its
// type (RFC 6522), whoever it says it is from.
func (h header) notification() bool {
	v := strings.ToLower(h.first("Content-Type"))
	return strings.HasPrefix(v, "multipart/report") && strings.Contains(v, "delivery-status")
}

// automatic tells whether a machine sent it (RFC 3834 section 5, and what lists
// wrote before).
func (h header) automatic() bool {
	if v := h.first("Auto-Submitted"); v != "" && !strings.EqualFold(v, "no") {
		return true
	}
	switch strings.ToLower(h.first("Precedence")) {
	case "bulk", "list", "junk":
		return true
	}
	return false
}

// messageID is the Message-ID, empty where it is not one that could be written
// into another field.
func (h header) messageID() string {
	v := h.first("Message-ID")
	if len(v) < 5 || len(v) > 250 || v[0] != '<' || v[len(v)-1] != '>' || strings.Count(v, "@") != 1 {
		return ""
	}
	for _, c := range []byte(v[1 : len(v)-1]) {
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`<>()[]\,;:"`, c) >= 0 {
			return ""
		}
	}
	left, right, _ := strings.Cut(v[1:len(v)-1], "@")
	if !dotAtom(left) || !dotAtom(right) {
		return ""
	}
	return v
}

func dotAtom(s string) bool {
	return s != "" && s[0] != '.' && s[len(s)-1] != '.' && !strings.Contains(s, "..")
}

// subject is the subject for people.
func (h header) subject() string {
	v := h.first("Subject")
	if len(v) > 4*maxSubject {
		v = v[:4*maxSubject]
	}
	dec := mime.WordDecoder{}
	if d, err := dec.DecodeHeader(v); err == nil {
		v = d
	}
	return oneLine(v, maxSubject, false)
}

// plain tells whether b can travel as it is: whole CRLF lines of at most 998
// octets without NUL (RFC 5321 section 4.5.3.1.6, RFC 2045 section 2.8), and
// whether it needs 8BITMIME.
func plain(b []byte) (ok, eightBit bool) {
	line := 0
	for i, c := range b {
		switch {
		case c == 0:
			return false, false
		case c == '\n':
			if i == 0 || b[i-1] != '\r' {
				return false, false
			}
			line = 0
			continue
		case c == '\r':
			if i+1 == len(b) || b[i+1] != '\n' {
				return false, false
			}
			continue
		case c >= utf8.RuneSelf:
			eightBit = true
		}
		if line++; line > 998 {
			return false, false
		}
	}
	return true, eightBit
}
