package smtpc

import (
	"bytes"
	"errors"
)

// block is how much of a message is written at once; each has Timeouts.Block.
const block = 32 << 10

// survey is what has to be known of a message before it is sent.
type survey struct {
	eightHeader bool // bytes beyond ASCII in the header
	eightBody   bool // and behind it
}

var (
	errBareCR = errors.New("a CR without LF")
	errBareLF = errors.New("a LF without CR")
	errNUL    = errors.New("a NUL")
)

// inspect refuses what cannot be sent byte for byte: another host would take a
// bare CR or LF for the end of a line, and whoever wrote it could smuggle a
// message (RFC 5321 section 2.3.8).
func inspect(body []byte) (survey, error) {
	var s survey
	if bytes.IndexByte(body, 0) >= 0 {
		return s, errNUL
	}
	header := true
	for rest := body; len(rest) > 0; {
		line := rest
		if i := bytes.IndexByte(rest, '\n'); i >= 0 {
			line = rest[:i+1]
		}
		rest = rest[len(line):]
		text, ended := bytes.CutSuffix(line, []byte("\r\n"))
		switch {
		case bytes.IndexByte(text, '\r') >= 0:
			return s, errBareCR
		case !ended && len(line) > 0 && line[len(line)-1] == '\n':
			return s, errBareLF
		}
		if len(text) == 0 {
			header = false
		}
		if !ascii(text) {
			s.eightHeader = s.eightHeader || header
			s.eightBody = s.eightBody || !header
		}
	}
	return s, nil
}

func ascii[T []byte | string](s T) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}

// dotter stuffs dots (RFC 5321 section 4.5.2) and hands on blocks.
type dotter struct {
	buf  []byte
	emit func([]byte) error
}

// send writes body so that it stands at the start of a line when it is done:
// a last line without CRLF gets one. It does not write the final dot.
func (d *dotter) send(body []byte) error {
	d.buf = make([]byte, 0, min(len(body)+64, block)+2) // some room for dots
	start := true
	for len(body) > 0 {
		if start && body[0] == '.' {
			d.buf = append(d.buf, '.')
		}
		n := len(body)
		if i := bytes.IndexByte(body, '\n'); i >= 0 {
			n = i + 1
		}
		// A line may be cut between blocks; start stays false for its rest.
		if room := block - len(d.buf); n > room {
			n = room
		}
		d.buf = append(d.buf, body[:n]...)
		start = n > 0 && body[n-1] == '\n'
		body = body[n:]
		if len(d.buf) >= block {
			if err := d.flush(); err != nil {
				return err
			}
		}
	}
	if !start {
		d.buf = append(d.buf, '\r', '\n')
	}
	return d.flush()
}

func (d *dotter) flush() error {
	if len(d.buf) == 0 {
		return nil
	}
	err := d.emit(d.buf)
	d.buf = d.buf[:0]
	return err
}
