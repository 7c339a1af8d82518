package smtpc

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Dial connects, greets, starts TLS and logs in as o says. Errors are
// *Failure; after one there is nothing to close.
func Dial(ctx context.Context, o Options) (*Conn, error) {
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, &Failure{Stage: StageConnect, Peer: o.Address, Err: err}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeouts.Overall, errOverall)
	defer cancel()
	dctx, dcancel := context.WithTimeout(ctx, o.Timeouts.Connect)
	defer dcancel()
	nc, err := o.Dial(dctx, "tcp", o.Address)
	if err != nil {
		return nil, broken(StageConnect, o.Address, err)
	}
	raw := &counted{Conn: nc}
	c := &Conn{raw: raw, nc: raw, br: bufio.NewReaderSize(raw, maxLine), o: o}
	end := c.begin(ctx)
	err = c.start()
	end()
	if err != nil {
		c.leave()
		return nil, err
	}
	if c.dead != nil {
		return nil, broken(StageHello, o.Address, c.dead)
	}
	return c, nil
}

var errOverall = errors.New("the peer took too long over it all")

// start is everything before the first message.
func (c *Conn) start() error {
	r, err := c.read(StageGreeting, c.o.Timeouts.Greeting)
	if err != nil {
		return err
	}
	switch {
	case r.Code == 220:
	case r.Code >= 400:
		return c.refused(StageGreeting, r)
	default:
		return c.offScript(StageGreeting, r)
	}
	if err := c.hello(); err != nil {
		return err
	}
	if c.o.TLS != TLSNever {
		if err := c.startTLS(); err != nil {
			return err
		}
	}
	if c.o.User != "" {
		return c.login()
	}
	return nil
}

// hello says EHLO and, to a peer that does not know it, HELO (RFC 5321
// section 3.2).
func (c *Conn) hello() error {
	c.ext = map[string]string{}
	if err := c.write(StageHello, c.o.Timeouts.Hello, "EHLO "+c.o.Hello); err != nil {
		return err
	}
	r, lines, err := c.readLines(StageHello, c.o.Timeouts.Hello)
	switch {
	case err != nil:
		return err
	case r.Code == 250:
		for _, l := range lines[1:] {
			word, param, _ := strings.Cut(strings.TrimSpace(l), " ")
			c.ext[strings.ToUpper(word)] = strings.TrimSpace(param)
		}
		return nil
	case r.Temporary():
		return c.refused(StageHello, r)
	case !r.Permanent():
		return c.offScript(StageHello, r)
	}
	r, err = c.ask(StageHello, c.o.Timeouts.Hello, "HELO "+c.o.Hello)
	switch {
	case err != nil:
		return err
	case r.Code == 250:
		return nil
	case r.Code >= 400:
		return c.refused(StageHello, r)
	}
	return c.offScript(StageHello, r)
}

// startTLS changes to TLS where the peer offers it and forgets all that was
// said before (RFC 3207 section 4.2).
func (c *Conn) startTLS() error {
	must := c.o.TLS == TLSMust
	if !c.Has("STARTTLS") {
		if must {
			return broken(StageSTARTTLS, c.o.Address, errors.New("the peer does not offer TLS"))
		}
		return nil
	}
	r, err := c.ask(StageSTARTTLS, c.o.Timeouts.Hello, "STARTTLS")
	switch {
	case err != nil:
		return err
	case r.Code >= 400 && r.Code != 421 && !must:
		return nil // offered, but not now: in clear then
	case r.Code >= 400:
		return c.refused(StageSTARTTLS, r)
	case r.Code != 220:
		return c.offScript(StageSTARTTLS, r)
	case c.br.Buffered() > 0:
		// Somebody between the hosts put answers in that would count as
		// having come over TLS.
		return c.fail(StageSTARTTLS, fmt.Errorf("%w: answers in clear behind STARTTLS", errProtocol))
	}
	tc := tls.Client(c.raw, c.o.Config)
	c.raw.SetDeadline(time.Now().Add(c.o.Timeouts.Hello))
	if err := tc.Handshake(); err != nil {
		return c.fail(StageTLS, err)
	}
	cs := tc.ConnectionState()
	c.nc, c.tls = tc, &cs
	c.br = bufio.NewReaderSize(tc, maxLine)
	return c.hello()
}

// login is AUTH PLAIN with its initial response (RFC 4954 section 4).
func (c *Conn) login() error {
	if !hasWord(c.ext["AUTH"], "PLAIN") {
		return broken(StageAuth, c.o.Address, errors.New("the peer does not offer AUTH PLAIN"))
	}
	token := base64.StdEncoding.EncodeToString([]byte("\x00" + c.o.User + "\x00" + c.o.Password))
	r, err := c.ask(StageAuth, c.o.Timeouts.Hello, "AUTH PLAIN "+token)
	switch {
	case err != nil:
		return err
	case r.Code == 235:
		return nil
	case r.Code >= 400:
		return c.refused(StageAuth, r)
	}
	return c.offScript(StageAuth, r)
}

func hasWord(list, word string) bool {
	for _, w := range strings.Fields(list) {
		if strings.EqualFold(w, word) {
			return true
		}
	}
	return false
}

// Has tells whether the peer announced a keyword, such as DSN, after the last
// EHLO.
func (c *Conn) Has(keyword string) bool {
	_, ok := c.ext[keyword]
	return ok
}

// TLS is the state of the encryption, nil in clear.
func (c *Conn) TLS() *tls.ConnectionState { return c.tls }

// Usable tells whether another message may be tried.
func (c *Conn) Usable() bool { return c.dead == nil }

// Used is how many messages the peer took.
func (c *Conn) Used() int { return c.used }

// Reset ends whatever was begun (RSET) and so also asks whether the peer is
// still there. After an error the session is over.
func (c *Conn) Reset(ctx context.Context) error {
	if c.dead != nil {
		return broken(StageReset, c.o.Address, c.dead)
	}
	defer c.begin(ctx)()
	return c.reset()
}

func (c *Conn) reset() error {
	r, err := c.ask(StageReset, c.o.Timeouts.Short, "RSET")
	if err != nil {
		return err
	}
	if !r.Positive() {
		// No word about any message, so no Reply for the caller to go by.
		return c.fail(StageReset, fmt.Errorf("RSET is answered with %s", r))
	}
	c.open = false
	return nil
}

// Quit says goodbye, waits a moment for the answer and closes.
func (c *Conn) Quit(ctx context.Context) {
	if c.dead == nil {
		end := c.begin(ctx)
		// Whatever the answer is, nothing hangs on it.
		_, _ = c.ask(StageReset, c.o.Timeouts.Short, "QUIT")
		end()
	}
	c.Close()
}

// leave is Quit for a session that never got going: it does not wait.
func (c *Conn) leave() {
	if c.dead == nil {
		c.nc.SetDeadline(time.Now().Add(time.Second))
		_, _ = c.nc.Write([]byte("QUIT\r\n")) // a courtesy
	}
	c.Close()
}

// Close ends the session without a word.
func (c *Conn) Close() {
	if c.dead == nil {
		c.dead = errors.New("the session is closed")
	}
	c.raw.Close()
}
