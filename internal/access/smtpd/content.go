package smtpd

import "bytes"

// lineState is where in a line a message is. The zero value is the beginning
// of a line: the line end of DATA or BDAT counts as the one before.
type lineState uint8

const (
	atStart  lineState = iota // just behind CRLF
	atDot                     // a dot at the start of a line, held back
	atDotCR                   // CR behind that dot, held back
	inLine                    // anywhere else
	behindCR                  // behind a CR
)

// flaw is what makes a message one that is refused. RFC 5321 section 2.3.8
// forbids bare CR and LF: other servers end lines there, and so messages
// could be smuggled. NUL cannot be given back over IMAP (RFC 9051 CHAR8).
type flaw uint8

const (
	bareCR flaw = 1 << iota
	bareLF
	hasNUL
)

// reader takes the content of a message apart as it arrives, in blocks of
// any size. Only CRLF "." CRLF ends it (RFC 5321 section 4.1.1.4), whatever
// flaws were met before.
type reader struct {
	state lineState
	dots  bool // DATA: remove stuffed dots and look for the end; BDAT: do not
	flaws flaw
}

// feed consumes p up to the end of the message, hands the content to keep and
// returns how many bytes were consumed and whether the end was met.
func (r *reader) feed(p []byte, keep func([]byte)) (n int, done bool) {
	from := 0 // start of content not yet kept
	i := 0
	for i < len(p) {
		switch r.state {
		case atStart:
			if r.dots && p[i] == '.' {
				keep(p[from:i])
				i++
				from = i
				r.state = atDot
				continue
			}
			r.state = inLine
		case atDot:
			if p[i] == '\r' {
				i++
				from = i
				r.state = atDotCR
				continue
			}
			r.state = inLine // the dot was stuffing
		case atDotCR:
			if p[i] == '\n' {
				return i + 1, true
			}
			r.flaws |= bareCR
			r.state = behindCR
		case behindCR:
			switch p[i] {
			case '\n':
				i++
				r.state = atStart
			case '\r':
				i++
				r.flaws |= bareCR
			default:
				r.flaws |= bareCR
				r.state = inLine
			}
		case inLine:
			i += r.line(p[i:])
		}
	}
	keep(p[from:])
	return len(p), false
}

// line consumes up to and with the next CR, or all.
func (r *reader) line(p []byte) int {
	seg := p
	if k := bytes.IndexByte(p, '\r'); k >= 0 {
		seg = p[:k]
		r.state = behindCR
	}
	if bytes.IndexByte(seg, '\n') >= 0 {
		r.flaws |= bareLF
	}
	if bytes.IndexByte(seg, 0) >= 0 {
		r.flaws |= hasNUL
	}
	if r.state == behindCR {
		return len(seg) + 1
	}
	return len(seg)
}

// end is called at the end of the last chunk of BDAT.
func (r *reader) end() {
	if r.state == behindCR {
		r.flaws |= bareCR
	}
}

// refusal is the answer to a message with flaws.
func (f flaw) refusal() (reply, bool) {
	switch {
	case f&(bareCR|bareLF) != 0:
		return reply{code: 550, status: "5.6.11", text: "Message has a CR or LF that is not part of CRLF (RFC 5321 section 2.3.8)"}, true
	case f&hasNUL != 0:
		return reply{code: 550, status: "5.6.0", text: "Message has a NUL byte"}, true
	}
	return reply{}, false
}
