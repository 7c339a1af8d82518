package imapwire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/utf7"
)

// maxListDepth limits the nesting of parenthesized lists (faults.md B44).
const maxListDepth = 100

// SyntaxError is what the client wrote wrongly; it is answered with BAD.
type SyntaxError struct {
	// Code is the response code, empty for CLIENTBUG.
	Code    imap.ResponseCode
	Message string
}

func (err *SyntaxError) Error() string { return err.Message }

// Syntaxf makes a SyntaxError.
func Syntaxf(format string, args ...any) error {
	return &SyntaxError{Message: fmt.Sprintf(format, args...)}
}

// ErrFlood means that a rejected command did not end within the limit, so
// there is no telling where the next one begins: the connection has to end.
var ErrFlood = errors.New("rejected command does not end")

// IsAtomChar returns true if ch is an ATOM-CHAR.
func IsAtomChar(ch byte) bool {
	switch ch {
	case '(', ')', '{', ' ', '%', '*', '"', '\\', ']':
		return false
	default:
		return !unicode.IsControl(rune(ch))
	}
}

// isAStringChar returns true if ch is an ASTRING-CHAR.
func isAStringChar(ch byte) bool {
	return IsAtomChar(ch) || ch == ']'
}

// Limits bounds what a command may make the decoder hold.
type Limits struct {
	Command int64 // bytes of a command, buffered literals included
	Literal int64 // bytes of a buffered literal
	Discard int64 // bytes of a rejected command that are read and dropped
}

// A Decoder reads one command.
//
// There are two families of methods:
//
//   - Methods directly named after IMAP grammar elements attempt to decode
//     said element, and return false if it's another element.
//   - "Expect" methods do the same, but set the decoder error (see Err) on
//     failure.
type Decoder struct {
	// Continue is called to let the client send a synchronizing literal.
	Continue func() error

	r         *bufio.Reader
	limits    Limits
	err       error
	pending   int64 // bytes of an open literal
	crlf      bool
	listDepth int
	readBytes int64
}

// NewDecoder creates a decoder for the next command of r.
func NewDecoder(r *bufio.Reader, limits Limits) *Decoder {
	return &Decoder{r: r, limits: limits}
}

// Err returns the decoder error, if any: a *SyntaxError, or an error of the
// connection.
func (dec *Decoder) Err() error { return dec.err }

func (dec *Decoder) fail(err error) bool {
	if dec.err == nil {
		dec.err = err
	}
	return false
}

func (dec *Decoder) readByte() (byte, bool) {
	if dec.err != nil {
		return 0, false
	}
	if dec.readBytes > dec.limits.Command {
		return 0, dec.fail(Syntaxf("command is longer than %d bytes", dec.limits.Command))
	}
	if dec.pending > 0 {
		return 0, dec.fail(errors.New("imapwire: literal is still open"))
	}
	dec.crlf = false
	b, err := dec.r.ReadByte()
	if err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return b, dec.fail(err)
	}
	dec.readBytes++
	return b, true
}

func (dec *Decoder) unreadByte() {
	if err := dec.r.UnreadByte(); err != nil {
		panic(fmt.Errorf("imapwire: unread byte: %v", err)) // only after a ReadByte
	}
	dec.readBytes--
}

func (dec *Decoder) acceptByte(want byte) bool {
	got, ok := dec.readByte()
	if !ok {
		return false
	} else if got != want {
		dec.unreadByte()
		return false
	}
	return true
}

// Expect sets the decoder error if ok is false.
func (dec *Decoder) Expect(ok bool, name string) bool {
	if !ok {
		msg := "expected " + name
		if dec.err == nil && dec.r.Buffered() > 0 {
			b, _ := dec.r.Peek(1)
			msg += fmt.Sprintf(", got %q", b)
		}
		return dec.fail(&SyntaxError{Message: msg})
	}
	return true
}

// SP reads a space that something follows.
func (dec *Decoder) SP() bool {
	if dec.acceptByte(' ') {
		// Some clients leave a space at the end of the line.
		b, ok := dec.readByte()
		if !ok {
			return false
		}
		dec.unreadByte()
		return b != '\r' && b != '\n'
	}

	// Some clients leave out the space before a parenthesized list.
	b, ok := dec.readByte()
	if !ok {
		return false
	}
	dec.unreadByte()
	return b == '('
}

// ExpectSP expects SP.
func (dec *Decoder) ExpectSP() bool {
	return dec.Expect(dec.SP(), "SP")
}

// CRLF reads the end of the line; a lone LF counts as one.
func (dec *Decoder) CRLF() bool {
	dec.acceptByte(' ') // sent by some clients
	dec.acceptByte('\r')
	if !dec.acceptByte('\n') {
		return false
	}
	dec.crlf = true
	return true
}

// ExpectCRLF expects CRLF.
func (dec *Decoder) ExpectCRLF() bool {
	return dec.Expect(dec.CRLF(), "CRLF")
}

// Func reads one or more bytes that are valid.
func (dec *Decoder) Func(ptr *string, valid func(ch byte) bool) bool {
	var buf []byte
	for {
		b, ok := dec.readByte()
		if !ok {
			return false
		}
		if !valid(b) {
			dec.unreadByte()
			break
		}
		buf = append(buf, b)
	}
	if len(buf) == 0 {
		return false
	}
	*ptr = string(buf)
	return true
}

// Atom reads an atom.
func (dec *Decoder) Atom(ptr *string) bool {
	return dec.Func(ptr, IsAtomChar)
}

// ExpectAtom expects Atom.
func (dec *Decoder) ExpectAtom(ptr *string) bool {
	return dec.Expect(dec.Atom(ptr), "atom")
}

// Special reads the byte b.
func (dec *Decoder) Special(b byte) bool {
	return dec.acceptByte(b)
}

// ExpectSpecial expects Special.
func (dec *Decoder) ExpectSpecial(b byte) bool {
	return dec.Expect(dec.Special(b), fmt.Sprintf("'%v'", string(b)))
}

// Text reads the rest of the line without its end.
func (dec *Decoder) Text(ptr *string) bool {
	return dec.Func(ptr, func(b byte) bool { return b != '\r' && b != '\n' })
}

// ExpectText expects Text.
func (dec *Decoder) ExpectText(ptr *string) bool {
	return dec.Expect(dec.Text(ptr), "text")
}

// Number reads a number of 32 bits.
func (dec *Decoder) Number(ptr *uint32) bool {
	n, ok := dec.number(32)
	*ptr = uint32(n)
	return ok
}

func (dec *Decoder) number(bits int) (uint64, bool) {
	var s string
	if !dec.Func(&s, func(b byte) bool { return b >= '0' && b <= '9' }) {
		return 0, false
	}
	v, err := strconv.ParseUint(s, 10, bits)
	if err != nil {
		return 0, dec.fail(Syntaxf("number is out of range"))
	}
	return v, true
}

// ExpectNumber expects Number.
func (dec *Decoder) ExpectNumber(ptr *uint32) bool {
	return dec.Expect(dec.Number(ptr), "number")
}

// Number64 reads a number of 63 bits.
func (dec *Decoder) Number64(ptr *int64) bool {
	n, ok := dec.number(63)
	*ptr = int64(n)
	return ok
}

// ExpectNumber64 expects Number64.
func (dec *Decoder) ExpectNumber64(ptr *int64) bool {
	return dec.Expect(dec.Number64(ptr), "number64")
}

// Quoted reads a quoted string.
func (dec *Decoder) Quoted(ptr *string) bool {
	if !dec.Special('"') {
		return false
	}
	var buf []byte
	for {
		ch, ok := dec.readByte()
		if !ok {
			return false
		}
		if ch == '"' {
			break
		}
		if ch == '\\' {
			if ch, ok = dec.readByte(); !ok {
				return false
			}
		}
		if ch == '\r' || ch == '\n' || ch == 0 {
			dec.unreadByte()
			return dec.fail(Syntaxf("quoted string holds CR, LF or NUL"))
		}
		buf = append(buf, ch)
	}
	*ptr = string(buf)
	return true
}

// ExpectAString expects an astring.
func (dec *Decoder) ExpectAString(ptr *string) bool {
	if dec.Quoted(ptr) || dec.Literal(ptr) {
		return true
	}
	return dec.Expect(dec.Func(ptr, isAStringChar), "ASTRING-CHAR")
}

// String reads a quoted string or a literal.
func (dec *Decoder) String(ptr *string) bool {
	return dec.Quoted(ptr) || dec.Literal(ptr)
}

// List reads a parenthesized list and calls f for each of its elements.
func (dec *Decoder) List(f func() error) (isList bool, err error) {
	if !dec.Special('(') {
		return false, dec.err
	}
	if dec.Special(')') {
		return true, nil
	}
	dec.listDepth++
	defer func() { dec.listDepth-- }()
	if dec.listDepth > maxListDepth {
		dec.fail(Syntaxf("more than %d levels of parentheses", maxListDepth))
		return false, dec.err
	}
	for {
		if err := f(); err != nil {
			return true, err
		}
		if dec.Special(')') {
			return true, nil
		} else if !dec.ExpectSP() {
			return true, dec.Err()
		}
	}
}

// ExpectList expects List.
func (dec *Decoder) ExpectList(f func() error) error {
	isList, err := dec.List(f)
	if err != nil {
		return err
	} else if !dec.Expect(isList, "(") {
		return dec.Err()
	}
	return nil
}

// ExpectMailbox expects a mailbox name and decodes it from modified UTF-7.
func (dec *Decoder) ExpectMailbox(ptr *string) bool {
	var name string
	if !dec.ExpectAString(&name) {
		return false
	}
	if strings.EqualFold(name, "INBOX") {
		*ptr = "INBOX"
		return true
	}
	name, err := utf7.Decode(name)
	if err != nil {
		return dec.fail(Syntaxf("mailbox name is neither modified UTF-7 nor UTF-8"))
	}
	*ptr = name
	return true
}
