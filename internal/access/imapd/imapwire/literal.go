package imapwire

import (
	"bytes"
	"io"
	"strconv"

	"github.com/emersion/go-imap/v2"
)

// Literal reads a literal into memory.
func (dec *Decoder) Literal(ptr *string) bool {
	lit, ok := dec.LiteralReader()
	if !ok {
		return false
	}
	if lit.size > dec.limits.Literal || dec.readBytes+lit.size > dec.limits.Command {
		lit.Reject()
		return dec.fail(&SyntaxError{Code: imap.ResponseCodeTooBig,
			Message: "literals are limited to " + strconv.FormatInt(dec.limits.Literal, 10) + " bytes for this command"})
	}
	if err := lit.Accept(); err != nil {
		return dec.fail(err)
	}
	buf := make([]byte, lit.size)
	if _, err := io.ReadFull(lit, buf); err != nil {
		return dec.fail(err)
	}
	dec.readBytes += lit.size
	if bytes.IndexByte(buf, 0) >= 0 {
		return dec.fail(Syntaxf("literal holds NUL"))
	}
	*ptr = string(buf)
	return true
}

// LiteralReader reads the head of a literal. The caller has to Accept it and
// read it to its end, or to Reject it.
func (dec *Decoder) LiteralReader() (lit *LiteralReader, ok bool) {
	if !dec.Special('{') {
		return nil, false
	}
	var size int64
	if !dec.ExpectNumber64(&size) {
		return nil, false
	}
	nonSync := dec.acceptByte('+')
	if !dec.ExpectSpecial('}') || !dec.ExpectCRLF() {
		return nil, false
	}
	return &LiteralReader{dec: dec, size: size, nonSync: nonSync}, true
}

// ExpectLiteralReader expects LiteralReader.
func (dec *Decoder) ExpectLiteralReader() (lit *LiteralReader, err error) {
	lit, ok := dec.LiteralReader()
	if !dec.Expect(ok, "literal") {
		return nil, dec.Err()
	}
	return lit, nil
}

// LiteralReader is a literal that is read as it arrives.
type LiteralReader struct {
	dec     *Decoder
	size    int64
	nonSync bool
}

// Size is the number of bytes the client announced.
func (lit *LiteralReader) Size() int64 { return lit.size }

// Waits tells that the client sends the literal only after it was accepted.
func (lit *LiteralReader) Waits() bool { return !lit.nonSync }

// Accept asks the client for the literal where it waits for that.
func (lit *LiteralReader) Accept() error {
	if !lit.nonSync {
		if err := lit.dec.Continue(); err != nil {
			return err
		}
	}
	lit.dec.pending = lit.size
	lit.dec.crlf = false
	return nil
}

// Reject refuses the literal: a client that waits for the word to go on will
// not send it, another one sends it regardless and Recover drops it.
func (lit *LiteralReader) Reject() {
	if lit.nonSync {
		lit.dec.pending = lit.size
		lit.dec.crlf = false
	}
}

// Read implements io.Reader. A connection that ends inside the literal is
// io.ErrUnexpectedEOF.
func (lit *LiteralReader) Read(b []byte) (int, error) {
	if lit.dec.pending == 0 {
		return 0, io.EOF
	}
	if int64(len(b)) > lit.dec.pending {
		b = b[:lit.dec.pending]
	}
	n, err := lit.dec.r.Read(b)
	lit.dec.pending -= int64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// Recover reads to the end of a command that was rejected, so that the next
// one is found. Text of a rejected literal is never taken for a command: a
// message copied by a client is not an order to this server.
//
// It returns ErrFlood if that takes more than limits.Discard bytes, and
// errors of the connection.
func (dec *Decoder) Recover() error {
	budget := dec.limits.Discard
	for {
		if dec.pending > budget {
			return ErrFlood
		}
		budget -= dec.pending
		for dec.pending > 0 {
			n, err := dec.r.Discard(int(min(dec.pending, 1<<20)))
			dec.pending -= int64(n)
			if err != nil {
				return err
			}
			dec.crlf = false
		}
		if dec.crlf {
			return nil
		}
		tail, n, err := dec.skipLine(budget)
		if err != nil {
			return err
		}
		budget -= n
		dec.crlf = true
		if size, ok := announced(tail); ok {
			dec.pending, dec.crlf = size, false
		}
	}
}

// skipLine reads to LF and returns the end of the line.
func (dec *Decoder) skipLine(budget int64) (tail []byte, n int64, err error) {
	for {
		b, err := dec.r.ReadByte()
		if err != nil {
			return nil, n, err
		}
		if n++; n > budget {
			return nil, n, ErrFlood
		}
		if b == '\n' {
			return bytes.TrimSuffix(tail, []byte("\r")), n, nil
		}
		if len(tail) == 32 {
			copy(tail, tail[1:])
			tail = tail[:31]
		}
		tail = append(tail, b)
	}
}

// announced tells the size of the non-synchronizing literal a line ends with.
func announced(tail []byte) (int64, bool) {
	tail, ok := bytes.CutSuffix(tail, []byte("+}"))
	if !ok {
		return 0, false
	}
	i := bytes.LastIndexByte(tail, '{')
	if i < 0 {
		return 0, false
	}
	n, err := strconv.ParseInt(string(tail[i+1:]), 10, 64)
	return n, err == nil && n >= 0
}
