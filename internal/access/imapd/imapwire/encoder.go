package imapwire

import (
	"bufio"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"
	"github.com/postern-mail/postern/internal/access/imapd/utf7"
)

// An Encoder writes one response. Nothing is flushed: the connection does that
// when it is about to wait for the client, so that many responses share a
// TLS record and a system call.
//
// Most methods don't return an error, instead they defer error handling until
// CRLF is called. These methods return the Encoder so that calls can be
// chained.
type Encoder struct {
	// QuotedUTF8 allows raw UTF-8 in quoted strings. This requires IMAP4rev2
	// to be available, or UTF8=ACCEPT to be enabled.
	QuotedUTF8 bool

	w       *bufio.Writer
	err     error
	literal bool
}

// NewEncoder creates a new encoder.
func NewEncoder(w *bufio.Writer) *Encoder {
	return &Encoder{w: w}
}

func (enc *Encoder) setErr(err error) {
	if err != nil && enc.err == nil {
		enc.err = err
	}
}

func (enc *Encoder) writeString(s string) *Encoder {
	if enc.err != nil {
		return enc
	}
	if enc.literal {
		enc.err = fmt.Errorf("imapwire: cannot encode while a literal is open")
		return enc
	}
	if _, err := enc.w.WriteString(s); err != nil {
		enc.err = err
	}
	return enc
}

// CRLF ends the response and returns the first error of it.
func (enc *Encoder) CRLF() error {
	enc.writeString("\r\n")
	return enc.err
}

// Atom writes s as it is.
func (enc *Encoder) Atom(s string) *Encoder {
	return enc.writeString(s)
}

// SP writes a space.
func (enc *Encoder) SP() *Encoder {
	return enc.writeString(" ")
}

// Special writes the byte ch.
func (enc *Encoder) Special(ch byte) *Encoder {
	return enc.writeString(string(ch))
}

// Quoted writes a quoted string.
func (enc *Encoder) Quoted(s string) *Encoder {
	var sb strings.Builder
	sb.Grow(2 + len(s))
	sb.WriteByte('"')
	for i := 0; i < len(s); i++ {
		ch := s[i]
		if ch == '"' || ch == '\\' {
			sb.WriteByte('\\')
		}
		sb.WriteByte(ch)
	}
	sb.WriteByte('"')
	return enc.writeString(sb.String())
}

// String writes a quoted string or, where that cannot hold it, a literal.
func (enc *Encoder) String(s string) *Encoder {
	if !enc.validQuoted(s) {
		enc.stringLiteral(s)
		return enc
	}
	return enc.Quoted(s)
}

func (enc *Encoder) validQuoted(s string) bool {
	if len(s) > 4096 {
		return false
	}

	for i := 0; i < len(s); i++ {
		// NUL, CR and LF are never valid
		switch ch := s[i]; {
		case ch == 0, ch == '\r', ch == '\n':
			return false
		case ch >= utf8.RuneSelf:
			return enc.QuotedUTF8 && utf8.ValidString(s) && !strings.ContainsAny(s, "\x00\r\n")
		}
	}
	return true
}

// stringLiteral writes s as a literal. NUL may not be sent in one (RFC 9051
// CHAR8), so it is left out.
func (enc *Encoder) stringLiteral(s string) {
	s = strings.ReplaceAll(s, "\x00", "")
	enc.writeString("{" + strconv.Itoa(len(s)) + "}\r\n" + s)
}

// Mailbox writes a mailbox name.
func (enc *Encoder) Mailbox(name string) *Encoder {
	if strings.EqualFold(name, "INBOX") {
		return enc.Atom("INBOX")
	} else {
		if enc.QuotedUTF8 {
			name = utf7.Escape(name)
		} else {
			name = utf7.Encode(name)
		}
		return enc.String(name)
	}
}

// NumSet writes a set of numbers.
func (enc *Encoder) NumSet(numSet imap.NumSet) *Encoder {
	s := numSet.String()
	if s == "" {
		enc.setErr(fmt.Errorf("imapwire: cannot encode empty sequence set"))
		return enc
	}
	return enc.writeString(s)
}

// Flag writes a flag.
func (enc *Encoder) Flag(flag imap.Flag) *Encoder {
	if flag != "\\*" && !isValidFlag(string(flag)) {
		enc.setErr(fmt.Errorf("imapwire: invalid flag %q", flag))
		return enc
	}
	return enc.writeString(string(flag))
}

// MailboxAttr writes a mailbox attribute.
func (enc *Encoder) MailboxAttr(attr imap.MailboxAttr) *Encoder {
	if !strings.HasPrefix(string(attr), "\\") || !isValidFlag(string(attr)) {
		enc.setErr(fmt.Errorf("imapwire: invalid mailbox attribute %q", attr))
		return enc
	}
	return enc.writeString(string(attr))
}

// isValidFlag checks whether the provided string satisfies
// flag-keyword / flag-extension.
func isValidFlag(s string) bool {
	for i := 0; i < len(s); i++ {
		ch := s[i]
		if ch == '\\' {
			if i != 0 {
				return false
			}
		} else {
			if !IsAtomChar(ch) {
				return false
			}
		}
	}
	return len(s) > 0
}

// Number writes a number.
func (enc *Encoder) Number(v uint32) *Encoder {
	return enc.writeString(strconv.FormatUint(uint64(v), 10))
}

// Number64 writes a number.
func (enc *Encoder) Number64(v int64) *Encoder {
	return enc.writeString(strconv.FormatInt(v, 10))
}

// List writes a parenthesized list.
func (enc *Encoder) List(n int, f func(i int)) *Encoder {
	enc.Special('(')
	for i := 0; i < n; i++ {
		if i > 0 {
			enc.SP()
		}
		f(i)
	}
	enc.Special(')')
	return enc
}

// BeginList begins a parenthesized list.
func (enc *Encoder) BeginList() *ListEncoder {
	enc.Special('(')
	return &ListEncoder{enc: enc}
}

// NIL writes NIL.
func (enc *Encoder) NIL() *Encoder {
	return enc.Atom("NIL")
}

// Text writes human-readable text.
func (enc *Encoder) Text(s string) *Encoder {
	return enc.writeString(s)
}

// UID writes a UID.
func (enc *Encoder) UID(uid imap.UID) *Encoder {
	return enc.Number(uint32(uid))
}

// Literal writes a literal, or a literal8 (RFC 9051 section 4.3.1).
//
// The caller must write exactly size bytes to the returned writer.
func (enc *Encoder) Literal(size int64, literal8 bool) io.WriteCloser {
	if literal8 {
		enc.writeString("~")
	}
	enc.writeString("{" + strconv.FormatInt(size, 10) + "}\r\n")
	enc.literal = true
	return &literalWriter{enc: enc, n: size}
}

type literalWriter struct {
	enc *Encoder
	n   int64
}

func (lw *literalWriter) Write(b []byte) (int, error) {
	if lw.n < int64(len(b)) {
		return 0, fmt.Errorf("wrote too many bytes in literal")
	}
	if lw.enc.err != nil {
		return 0, lw.enc.err
	}
	n, err := lw.enc.w.Write(b)
	lw.n -= int64(n)
	lw.enc.setErr(err)
	return n, err
}

// Close ends the literal. One that is too short cannot be mended: the
// response fails and with it the connection.
func (lw *literalWriter) Close() error {
	lw.enc.literal = false
	if lw.n != 0 {
		lw.enc.setErr(fmt.Errorf("wrote too few bytes in literal (%d remaining)", lw.n))
	}
	return lw.enc.err
}

// ListEncoder writes the elements of a list.
type ListEncoder struct {
	enc *Encoder
	n   int
}

// Item begins an element.
func (le *ListEncoder) Item() *Encoder {
	if le.n > 0 {
		le.enc.SP()
	}
	le.n++
	return le.enc
}

// End ends the list.
func (le *ListEncoder) End() {
	le.enc.Special(')')
	le.enc = nil
}

// Err is the first error met.
func (enc *Encoder) Err() error { return enc.err }
