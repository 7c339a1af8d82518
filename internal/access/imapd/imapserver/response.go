package imapserver

import (
	"errors"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

func (c *Conn) writeStatusResp(tag string, resp *imap.StatusResponse) error {
	enc := newResponseEncoder(c)
	defer enc.end()
	if tag == "" {
		tag = "*"
	}
	enc.Atom(tag).SP().Atom(string(resp.Type)).SP()
	if resp.Code != "" {
		enc.Special('[').Atom(string(resp.Code)).Special(']').SP()
	}
	return enc.Text(resp.Text).CRLF()
}

func (c *Conn) writeContReq(text string) error {
	enc := newResponseEncoder(c)
	defer enc.end()
	return enc.Atom("+").SP().Text(text).CRLF()
}

func (c *Conn) writeCapabilityStatus(tag string, text string) error {
	enc := newResponseEncoder(c)
	defer enc.end()
	if tag == "" {
		tag = "*"
	}
	enc.Atom(tag).SP().Atom("OK").SP().Special('[').Atom("CAPABILITY")
	for _, c := range c.availableCaps() {
		enc.SP().Atom(string(c))
	}
	return enc.Special(']').SP().Text(text).CRLF()
}

func newClientBugError(text string) error {
	return &imap.Error{
		Type: imap.StatusResponseTypeBad,
		Code: imap.ResponseCodeClientBug,
		Text: text,
	}
}

// UpdateWriter writes what happened in the selected mailbox.
type UpdateWriter struct {
	conn         *Conn
	allowExpunge bool
}

// WriteExpunge writes an EXPUNGE response.
func (w *UpdateWriter) WriteExpunge(seqNum uint32) error {
	if !w.allowExpunge {
		return errors.New("imapserver: EXPUNGE updates are not allowed in this context")
	}
	return w.conn.writeExpunge(seqNum)
}

// WriteNumMessages writes an EXISTS response.
func (w *UpdateWriter) WriteNumMessages(n uint32) error {
	return w.conn.writeExists(n)
}

// WriteMessageFlags writes a FETCH response with UID and FLAGS.
func (w *UpdateWriter) WriteMessageFlags(seqNum uint32, uid imap.UID, flags []imap.Flag) error {
	rw := (&FetchWriter{conn: w.conn}).CreateMessage(seqNum)
	rw.WriteUID(uid)
	rw.WriteFlags(flags)
	return rw.Close()
}

// Flush sends the updates: only IDLE needs it, otherwise they go out with the
// tagged answer.
func (w *UpdateWriter) Flush() error { return w.conn.flush() }

// Bye ends the connection because its mailbox is gone.
func (w *UpdateWriter) Bye(text string) { w.conn.Shutdown(text) }

// handleIdle waits for DONE while the session writes updates.
func (c *Conn) handleIdle(dec *imapwire.Decoder) error {
	if !dec.ExpectCRLF() {
		return dec.Err()
	}
	if err := c.checkState(imap.ConnStateAuthenticated); err != nil {
		return err
	}
	if err := c.writeContReq("idling"); err != nil {
		return err
	}
	stop := make(chan struct{})
	done := make(chan error, 1)
	go c.idle(stop, done)
	c.setReadTimeout(c.server.options.IdleTimeout)
	var word string
	got := dec.Func(&word, func(b byte) bool { return b >= 'A' && b <= 'Z' || b >= 'a' && b <= 'z' })
	close(stop)
	if err := <-done; err != nil {
		return err
	}
	c.setReadTimeout(c.server.options.CommandTimeout)
	if !got || !strings.EqualFold(word, "DONE") || !dec.CRLF() {
		dec.Expect(false, "DONE to end the IDLE command")
		return dec.Err()
	}
	return nil
}

func (c *Conn) idle(stop <-chan struct{}, done chan<- error) {
	err := errors.New("imapserver: idle panicked")
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
		}
		if err != nil {
			c.Close() // wakes the reader
		}
		done <- err
	}()
	err = c.session.Idle(&UpdateWriter{conn: c, allowExpunge: true}, stop)
}
