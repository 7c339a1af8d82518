package smtpd

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"io"
	"log/slog"
	"slices"
	"strconv"
	"time"

	"github.com/postern-mail/postern/internal/base/message"
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

// accept checks a whole message and gives it to the queue.
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
	kept := ok("Kept as " + tx.trace.String())
	if len(tx.envelope.Recipients) == 0 { // policy has taken all of them out
		return kept, "discarded"
	}
	s := c.submission(msg, seen)
	front, r := c.content(&s)
	switch {
	case r.code >= 500:
		return r, "refused"
	case r.code != 0:
		return r, "deferred"
	case tx.fate.action == mail.ActionDiscard:
		return kept, "discarded"
	case tx.fate.action == mail.ActionQuarantine && s.Quarantine == "":
		s.Quarantine = tx.fate.why
	}
	s.Body = c.dress(seen, front, s.Received)

	ctx, cancel := context.WithTimeout(c.ctx, c.srv.cfg.DeliverTimeout.Std())
	defer cancel()
	if _, err := c.srv.deps.Queue.Accept(ctx, s); err != nil {
		c.log.Warn("message was not kept", "trace", tx.trace.String(), "err", err)
		if r = forQueue(err); r.code >= 500 {
			return r, "refused"
		}
		return r, "deferred"
	}
	if s.Quarantine != "" {
		return kept, "quarantined"
	}
	return kept, "queued"
}

// submission is the message as it was received.
func (c *conn) submission(msg []byte, seen survey) mail.Submission {
	tx := c.tx
	return mail.Submission{
		Trace: tx.trace, Envelope: tx.envelope, Origin: c.origin(), Body: msg,
		Identity: c.identity(msg, seen), Received: time.Now(), Priority: mail.PriorityNormal,
	}
}

// origin tells where the message comes from.
func (c *conn) origin() mail.Origin {
	o := mail.Origin{
		Door: c.door.origin, Helo: c.helo, Account: c.peer.Account,
		Connector: c.peer.Connector, Organization: c.peer.Organization,
		Trusted: c.account != nil || c.peer.Connector != "",
	}
	if c.remote.IsValid() {
		o.Remote = c.remote.String()
	}
	if c.tls != nil {
		o.TLS = tls.VersionName(c.tls.Version) + " " + tls.CipherSuiteName(c.tls.CipherSuite)
	}
	return o
}

// judge refuses messages for what stands in their header. One that is longer
// than it is read for could hide what has to be seen or taken out.
func (c *conn) judge(s survey) reply {
	switch {
	case s.Cut:
		return reply{code: 552, status: "5.3.4", text: "Header is too large"}
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

// identity is the delivery identity: client, sender and what was received.
// Without a Message-ID two equal messages for one recipient may be meant as
// two, so the trace is part of it then.
func (c *conn) identity(msg []byte, seen survey) (id [32]byte) {
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
	part(c.tx.envelope.From)
	if !seen.messageID && len(c.tx.envelope.Recipients) == 1 {
		part(string(c.tx.trace[:]))
	}
	h.Write(msg)
	h.Sum(id[:0])
	return id
}

// dress puts our lines and those of policy (front) before what was received,
// where room was kept for them, and takes out what is ours to write or not for
// other eyes.
func (c *conn) dress(s survey, front []byte, now time.Time) []byte {
	b := c.tx.body
	spans := s.forged
	lines := append(c.traceLines(make([]byte, 0, 1024+len(front)), now), front...)
	if c.account != nil {
		spans = append(slices.Clone(spans), s.blind...)
		slices.SortFunc(spans, func(a, b message.Span) int { return cmp.Compare(a.Start, b.Start) })
		lines = c.complete(lines, s, now)
	}
	start := remove(b.buf, headroom, spans)
	if len(lines) > start { // longer than the room kept, so rare
		return append(lines, b.buf[start:]...)
	}
	copy(b.buf[start-len(lines):], lines)
	return b.buf[start-len(lines):]
}

// traceLines appends Return-Path and Received (RFC 5321 section 4.4).
func (c *conn) traceLines(b []byte, now time.Time) []byte {
	tx := c.tx
	b = append(b, "Return-Path: <"+tx.envelope.From+">\r\n"...)
	b = append(b, "Received: from "+c.helo...)
	if c.remote.IsValid() {
		b = append(b, " ("...)
		if validHelo(c.peer.Reverse) { // it came from somebody's DNS
			b = append(b, c.peer.Reverse+" "...)
		}
		b = append(b, '[')
		if c.remote.Is6() {
			b = append(b, "IPv6:"...)
		}
		b = append(b, c.remote.String()+"])"...)
	}
	b = append(b, "\r\n\tby "+c.srv.cfg.Hostname+" with "+c.protocol()+" id "+tx.trace.String()...)
	if tx.named == 1 {
		b = append(b, "\r\n\tfor <"+tx.envelope.Recipients[0].Address+">"...)
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
		slog.String("trace", tx.trace.String()), slog.String("result", result), slog.Int("recipients", len(tx.envelope.Recipients)),
		slog.Duration("took", took), slog.String("protocol", c.protocol()),
	}
	if tx.envelope.From != "" {
		attrs = append(attrs, slog.String("from", printable(tx.envelope.From, 254)))
	}
	if tx.body != nil {
		attrs = append(attrs, slog.Int64("size", tx.body.size))
		c.srv.metrics.bytes.Add(float64(tx.body.size))
	}
	if c.account != nil {
		attrs = append(attrs, slog.String("account", accountKey(*c.account)))
	}
	if c.peer.Connector != "" {
		attrs = append(attrs, slog.String("connector", c.peer.Connector))
	}
	if tx.envelope.EnvID != "" {
		attrs = append(attrs, slog.String("envid", tx.envelope.EnvID))
	}
	if r.code != 250 {
		attrs = append(attrs, slog.String("answer", strconv.Itoa(r.code)+" "+r.status+" "+r.text))
	}
	c.log.LogAttrs(c.ctx, slog.LevelInfo, "message", attrs...)
}
