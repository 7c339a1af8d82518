package smtpd

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// finish answers the end of the data and ends the transaction.
func (c *conn) finish() reply {
	defer c.reset()
	r, result := c.accept()
	if r.code == 250 {
		c.idle, c.refused = 0, 0
	}
	c.record(r, result)
	return r
}

// accept checks a whole message and commits it.
func (c *conn) accept() (r reply, result string) {
	tx := c.tx
	if tx.body.failed.code != 0 {
		if tx.body.failed == noMemory() {
			c.srv.warn(eventMemory, "messages being received hold all %d bytes allowed", c.srv.cfg.MessageMemory)
		}
		return tx.body.failed, "refused"
	}
	msg := tx.body.message()
	seen := look(msg, c.srv.cfg.Hostname)
	if r := c.judge(seen); r.code != 0 {
		return r, "refused"
	}
	d := mail.Delivery{Recipients: tx.targets, Date: time.Now().UnixNano(), TraceID: tx.trace}
	id := c.identity(msg)
	if _, again := c.srv.mixed.has(id); again || seen.messageID || len(tx.targets) > 1 {
		d.Identity = id
	}
	// The same message for the same mailboxes keeps its key, so it is applied
	// once, also where it has no identity.
	attempt := attemptOf(id, tx.targets)
	key, again := c.srv.unsure.has(attempt)
	if !again {
		rand.Read(key[:]) // never fails (crypto/rand)
	}
	d.Key = key
	d.Body = c.dress(seen, time.Unix(0, d.Date))

	ctx, cancel := context.WithTimeout(c.ctx, c.srv.cfg.DeliverTimeout.Std())
	defer cancel()
	done, err := c.srv.deps.Store.Deliver(ctx, d)
	if err != nil {
		c.srv.unsure.put(attempt, key)
		c.log.Warn("message was not stored", "trace", tx.trace, "err", err)
		return forDelivery(kind.Of(err)), "deferred"
	}
	c.srv.unsure.forget(attempt)
	r, result = c.outcome(done)
	if result == "mixed" {
		c.srv.mixed.put(id, mail.Key{})
	}
	return r, result
}

// attemptOf names a message on its way to certain mailboxes.
func attemptOf(id [32]byte, targets []mail.Recipient) (out [32]byte) {
	h := sha256.New()
	h.Write(id[:])
	for _, t := range targets {
		h.Write(t.Mailbox.ID[:])
	}
	h.Sum(out[:0])
	return out
}

// judge refuses messages for what stands in their header.
func (c *conn) judge(s survey) reply {
	switch {
	case s.received >= c.srv.cfg.MaxReceived:
		return reply{code: 554, status: "5.4.6", text: "Message has been through too many servers, this is a loop"}
	case len(s.from) > 1 || s.oddFrom:
		return reply{code: 550, status: "5.6.0", text: "Message needs exactly one plain From (RFC 5322 section 3.6)"}
	}
	if c.account == nil {
		return reply{}
	}
	return c.judgeSubmitted(s)
}

// outcome turns the results of the mailboxes into one answer; doc.go has the
// rule.
func (c *conn) outcome(done []mail.Delivered) (reply, string) {
	tx := c.tx
	if len(done) != len(tx.targets) {
		c.log.Error("store answered for another number of recipients", "trace", tx.trace, "want", len(tx.targets), "got", len(done))
		return forDelivery(kind.Internal), "deferred"
	}
	var kinds []kind.Kind
	doubles := 0
	for _, d := range done {
		if d.Duplicate {
			doubles++
		}
		if d.Refused == "" && d.RefusedKind == 0 {
			continue
		}
		k := kind.Kind(d.RefusedKind)
		kinds = append(kinds, k)
		if k == kind.Full {
			c.srv.full.add(d.Mailbox.ID)
		}
		c.log.Info("mailbox refused a message", "trace", tx.trace, "mailbox", d.Mailbox.ID.String(), "why", d.Refused)
	}
	if len(kinds) == 0 {
		if doubles == len(done) {
			return ok("Kept as " + tx.trace + " (had it already)"), "duplicate"
		}
		return ok("Kept as " + tx.trace), "delivered"
	}
	return refusedBy(kinds, len(done))
}

// refusedBy is the answer when some of n mailboxes refused, for these kinds.
func refusedBy(kinds []kind.Kind, n int) (reply, string) {
	same := true
	for _, k := range kinds {
		same = same && k == kinds[0]
	}
	switch {
	case same && len(kinds) == n:
		r := forRefusal(kinds[0])
		if r.code < 500 {
			return r, "deferred"
		}
		return r, "refused"
	case same && kinds[0] == kind.Full:
		return forRefusal(kind.Full), "mixed"
	case len(kinds) == n:
		return unavailable("No mailbox could take the message, try again later"), "deferred"
	}
	return unavailable("Not all mailboxes could take the message, try again later"), "mixed"
}

// identity is the delivery identity: client, sender and what was received.
func (c *conn) identity(msg []byte) (id [32]byte) {
	h := sha256.New()
	part := func(s string) {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(s)))
		h.Write(n[:])
		io.WriteString(h, s)
	}
	if c.account != nil {
		part("account " + accountKey(*c.account))
	} else {
		part("address " + c.remote.String())
	}
	part(c.tx.from.raw)
	h.Write(msg)
	h.Sum(id[:0])
	return id
}

// dress puts our lines around what was received: trace in front, what is ours
// to write or not for other eyes taken out.
func (c *conn) dress(s survey, now time.Time) []byte {
	b := c.tx.body
	spans := s.forged
	front := c.trace(nil, now)
	if c.account != nil {
		spans = append(slices.Clone(spans), s.blind...)
		slices.SortFunc(spans, func(a, b span) int { return cmp.Compare(a.start, b.start) })
		front = c.complete(front, s, now)
	}
	start := remove(b.buf, headroom, spans)
	if len(front) > start { // longer than the room kept; names are bounded, so rare
		return append(front, b.buf[start:]...)
	}
	copy(b.buf[start-len(front):], front)
	return b.buf[start-len(front):]
}

// trace appends Return-Path and Received (RFC 5321 section 4.4).
func (c *conn) trace(b []byte, now time.Time) []byte {
	tx := c.tx
	b = append(b, "Return-Path: <"+tx.from.raw+">\r\n"...)
	b = append(b, "Received: from "+c.helo...)
	if c.remote.IsValid() {
		b = append(b, " (["...)
		if c.remote.Is6() {
			b = append(b, "IPv6:"...)
		}
		b = append(b, c.remote.String()+"])"...)
	}
	b = append(b, "\r\n\tby "+c.srv.cfg.Hostname+" with "+c.protocol()+" id "+tx.trace...)
	if len(tx.rcpts) == 1 {
		b = append(b, "\r\n\tfor <"+tx.rcpts[0].address+">"...)
	}
	b = append(b, ";\r\n\t"...)
	b = now.AppendFormat(b, "Mon, 2 Jan 2006 15:04:05 -0700")
	return append(b, '\r', '\n')
}

// record logs and counts a message that came to an end.
func (c *conn) record(r reply, result string) {
	tx := c.tx
	took := time.Since(tx.started)
	c.srv.metrics.messages.WithLabelValues(c.door.name, result).Inc()
	c.srv.metrics.seconds.Observe(took.Seconds())
	attrs := []slog.Attr{
		slog.String("trace", tx.trace), slog.String("result", result), slog.Int("recipients", len(tx.rcpts)),
		slog.Int("mailboxes", len(tx.targets)), slog.Duration("took", took), slog.String("protocol", c.protocol()),
	}
	if !tx.from.null {
		attrs = append(attrs, slog.String("from", printable(tx.from.raw, 254)))
	}
	if tx.body != nil {
		attrs = append(attrs, slog.Int64("size", tx.body.size))
		c.srv.metrics.bytes.Add(float64(tx.body.size))
	}
	if c.account != nil {
		attrs = append(attrs, slog.String("account", accountKey(*c.account)))
	}
	if tx.params.envid != "" {
		attrs = append(attrs, slog.String("envid", tx.params.envid))
	}
	if r.code != 250 {
		attrs = append(attrs, slog.String("answer", strconv.Itoa(r.code)+" "+r.status+" "+r.text))
	}
	c.log.LogAttrs(c.ctx, slog.LevelInfo, "message", attrs...)
}
