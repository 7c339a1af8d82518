package smtpd

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"time"
)

// data receives a message up to CRLF.CRLF (RFC 5321 section 4.1.1.4).
func (c *conn) data(arg string) reply {
	switch {
	case arg != "":
		return badSyntax("DATA takes no argument")
	case c.tx == nil:
		return badSequence("Give the sender first")
	case c.tx.chunks:
		return badSequence("BDAT has begun")
	case c.tx.named == 0:
		return reply{code: 554, status: "5.5.1", text: "No valid recipients"}
	}
	c.reply(reply{code: 354, text: "End with CRLF.CRLF"})
	c.begin()
	c.tx.content.dots = true
	if err := c.readData(); err != nil {
		return c.lost(err)
	}
	return c.finish()
}

// begin makes room for the message.
func (c *conn) begin() {
	c.in.widen(&c.srv.blocks)
	if c.tx.body == nil {
		c.tx.body = newBody(&c.srv.memory, c.srv.cfg.MaxMessageBytes, c.tx.envelope.Size)
		c.tx.started = time.Now()
	}
}

var errEndless = errors.New("message does not end")

// readData feeds what arrives to the transaction. A message that is refused
// is read to its end all the same, within twice the size allowed.
func (c *conn) readData() error {
	for {
		if len(c.in.unread()) == 0 {
			if err := c.moreData(); err != nil {
				return err
			}
		}
		n, done := c.tx.content.feed(c.in.unread(), c.tx.body.add)
		c.in.drop(n)
		c.spoil()
		if done {
			return nil
		}
		if c.tx.body.size > 2*c.srv.cfg.MaxMessageBytes {
			return errEndless
		}
	}
}

// spoil stops keeping a message that will be refused.
func (c *conn) spoil() {
	if r, bad := c.tx.content.flaws.refusal(); bad && c.tx.body.failed.code == 0 {
		c.tx.body.fail(r)
	}
}

// moreData reads a block, with the deadline that progress so far has earned.
func (c *conn) moreData() error {
	if err := c.flush(); err != nil {
		return err
	}
	now := time.Now()
	cfg := &c.srv.cfg
	earned := time.Duration(c.tx.body.size/cfg.MinRate) * time.Second
	overall := c.tx.started.Add(cfg.DataTimeout.Std() + earned)
	deadline := now.Add(cfg.DataTimeout.Std())
	if overall.Before(deadline) {
		deadline = overall
	}
	if err := c.nc.SetReadDeadline(deadline); err != nil {
		return err
	}
	return c.in.fill()
}

// lost ends a connection inside a message: nothing is stored (promise P2).
func (c *conn) lost(err error) reply {
	defer c.reset()
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.record(goodbye("4.4.2", "Message came too slowly"), "timeout")
		return goodbye("4.4.2", "Message came too slowly")
	case errors.Is(err, errEndless):
		r := tooLarge(c.srv.cfg.MaxMessageBytes).closing()
		c.record(r, "refused")
		return r
	}
	c.record(reply{code: 0, text: "connection lost"}, "lost")
	return silent.closing()
}

// bdat receives a chunk (RFC 3030). Where the end of a chunk cannot be known
// the connection is closed, since the rest would be taken for commands.
func (c *conn) bdat(arg string) reply {
	size, last, good := parseChunk(arg)
	if !good {
		return badSyntax("Want BDAT size [LAST]").closing()
	}
	if size == 0 && !last {
		c.idle++ // chunks of nothing bring no message nearer
	}
	if c.tx == nil || c.tx.named == 0 {
		return c.refuseChunk(size, last, badSequence("Give sender and recipients first"))
	}
	if c.tx.failed.code != 0 {
		return c.refuseChunk(size, last, c.tx.failed)
	}
	if !c.tx.chunks {
		c.tx.chunks = true
		c.begin()
	}
	if size > c.srv.cfg.MaxMessageBytes-c.tx.body.size {
		c.tx.body.fail(tooLarge(c.srv.cfg.MaxMessageBytes))
		return c.refuseChunk(size, last, c.tx.body.failed)
	}
	c.in.widen(&c.srv.blocks)
	if err := c.readChunk(size, c.keepChunk); err != nil {
		return c.lost(err)
	}
	if last {
		c.tx.content.end()
		c.spoil()
		return c.finish()
	}
	if r := c.tx.body.failed; r.code != 0 {
		c.tx.failed = r
		return r
	}
	return ok(strconv.FormatInt(size, 10) + " octets")
}

// keepChunk adds a part of a chunk to the message.
func (c *conn) keepChunk(p []byte) {
	c.tx.content.feed(p, c.tx.body.add)
	c.spoil()
}

// parseChunk reads "size [LAST]".
func parseChunk(arg string) (size int64, last, good bool) {
	num, mark, has := strings.Cut(arg, " ")
	if has && !strings.EqualFold(mark, "LAST") || num == "" || num[0] < '0' || num[0] > '9' {
		return 0, false, false
	}
	n, err := strconv.ParseUint(num, 10, 63)
	return int64(n), has, err == nil
}

// refuseChunk reads over a chunk that is not wanted and says why. One that is
// too large to wait for ends the connection.
func (c *conn) refuseChunk(size int64, last bool, why reply) reply {
	if size > c.srv.cfg.MaxMessageBytes {
		c.reset()
		return why.closing()
	}
	if c.tx != nil {
		c.tx.failed = why
		if c.tx.body == nil {
			c.begin()
		}
		c.tx.body.fail(why)
	}
	if err := c.readChunk(size, func([]byte) {}); err != nil {
		return silent.closing()
	}
	if last {
		c.reset()
	}
	return why
}

// readChunk hands size bytes to f.
func (c *conn) readChunk(size int64, f func([]byte)) error {
	started := time.Now()
	for size > 0 {
		if len(c.in.unread()) == 0 {
			if err := c.moreChunk(started); err != nil {
				return err
			}
		}
		p := c.in.unread()
		if int64(len(p)) > size {
			p = p[:size]
		}
		f(p)
		size -= int64(len(p))
		c.in.drop(len(p))
	}
	return nil
}

// moreChunk is moreData, also for chunks without a transaction.
func (c *conn) moreChunk(started time.Time) error {
	if c.tx != nil {
		return c.moreData()
	}
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.nc.SetReadDeadline(started.Add(c.srv.cfg.DataTimeout.Std())); err != nil {
		return err
	}
	return c.in.fill()
}
