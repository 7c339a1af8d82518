package smtpd

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
)

// conn is one connection. All fields but those under mu belong to the
// goroutine that serves it.
type conn struct {
	srv    *Server
	door   *door
	raw    net.Conn // as accepted
	nc     net.Conn // raw, or TLS on it
	tls    *tls.ConnectionState
	in     input
	out    []byte // answers not yet written
	remote netip.Addr
	log    *slog.Logger
	ctx    context.Context

	helo    string
	esmtp   bool // EHLO, not HELO
	account *directory.Account
	tx      *transaction

	peer    mail.Peer     // what policy knows of the client
	fate    fate          // of all messages of this connection
	shut    bool          // refused in the greeting: only QUIT is heard
	over    bool          // policy wants the connection to end behind the next answer
	delayed time.Duration // spent on delays by policy

	errors, refused, idle, authFailures int

	linger bool // the client may still be sending when we close

	mu       sync.Mutex // guards those below and the read deadline while waiting
	waiting  bool       // for a command or a handshake
	within   bool       // a transaction was open when the waiting began
	draining bool       // ends at the next wait
	leaving  bool       // ends at the next wait outside of a transaction
}

var errDraining = errors.New("server is stopping")

// verbs are the commands. Those of RFC 821 and of private extensions that we
// refuse are listed so that they get the right code.
var verbs = map[string]func(*conn, string) reply{
	"EHLO": (*conn).ehlo, "HELO": (*conn).heloOld, "MAIL": (*conn).mail, "RCPT": (*conn).rcpt,
	"DATA": (*conn).data, "BDAT": (*conn).bdat, "RSET": (*conn).rset, "NOOP": (*conn).noop,
	"QUIT": (*conn).quit, "VRFY": (*conn).vrfy, "HELP": (*conn).help, "STARTTLS": (*conn).startTLS,
	"AUTH": (*conn).auth,
	"EXPN": (*conn).refuse, "TURN": (*conn).refuse, "ETRN": (*conn).refuse, "ATRN": (*conn).refuse, "SEND": (*conn).refuse,
	"SOML": (*conn).refuse, "SAML": (*conn).refuse, "XCLIENT": (*conn).refuse, "XFORWARD": (*conn).refuse,
}

// serve talks until the client or we have had enough.
func (c *conn) serve() {
	defer c.close()
	if !c.greeting() {
		return
	}
	for {
		line, err := c.readLine()
		if err != nil {
			c.hangUp(err)
			return
		}
		r := c.command(line)
		if !c.answer(r) {
			return
		}
	}
}

// lingerBytes and lingerTime bound how long we listen to somebody we have
// hung up on.
const (
	lingerBytes = 256 << 10
	lingerTime  = time.Second
)

// close ends the connection. Closing a socket with unread input resets it, and
// the reset may overtake our last answer; so what still comes is read for a
// moment.
func (c *conn) close() {
	c.in.narrow(&c.srv.blocks)
	if c.tls != nil {
		c.nc.Close() // says so to the other side
		return
	}
	half, can := c.raw.(interface{ CloseWrite() error })
	if !c.linger || !can || half.CloseWrite() != nil || c.raw.SetReadDeadline(time.Now().Add(lingerTime)) != nil {
		return
	}
	io.CopyN(io.Discard, c.raw, lingerBytes) // whatever it was, it is over
}

// hangUp says why the connection ends, where there is somebody to hear it.
func (c *conn) hangUp(err error) {
	switch {
	case errors.Is(err, errDraining):
		c.reply(goodbye("4.3.2", "Server is stopping"))
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.reply(goodbye("4.4.2", "Nothing came in time"))
	case errors.Is(err, errEndlessLine):
		c.reply(reply{code: 500, status: "5.5.2", text: "Line does not end"})
	case errors.Is(err, errTLSBytes):
		c.reply(reply{code: 554, status: "5.5.1", text: "TLS begins with STARTTLS here"})
	case errors.Is(err, io.EOF), errors.Is(err, net.ErrClosed):
	default:
		c.log.Debug("connection lost", "err", err)
	}
	c.linger = errors.Is(err, errEndlessLine) || errors.Is(err, errTLSBytes)
	c.flush() // nothing can be done about an error now
}

// answer sends r, keeps the counts and reports whether to go on.
func (c *conn) answer(r reply) bool {
	if r.code == 0 {
		return !r.close && !c.over
	}
	r.close = r.close || c.over
	if r.bad() {
		c.srv.metrics.replies.WithLabelValues(c.door.name, r.class()).Inc()
		c.pause()
	}
	c.reply(r)
	if r.close {
		c.linger = r.bad()
		c.flush()
		return false
	}
	lim := c.srv.cfg
	switch {
	case c.errors >= lim.MaxErrors:
		r = goodbye("4.7.0", "Too many errors")
	case c.refused >= lim.MaxRefused:
		r = goodbye("4.7.0", "Too many refused recipients")
	case c.authFailures >= lim.MaxAuthFailures:
		r = goodbye("4.7.0", "Too many wrong passwords")
	case c.idle >= lim.MaxIdleCommands:
		r = goodbye("4.7.0", "Too many commands without mail")
	default:
		return true
	}
	c.srv.metrics.replies.WithLabelValues(c.door.name, r.class()).Inc()
	c.reply(r)
	c.linger = true
	c.flush()
	return false
}

// freeRefusals is how many refusals a connection gets without a pause.
const freeRefusals = 3

// pause slows a client down that is refused again and again.
func (c *conn) pause() {
	if c.errors+c.refused+c.authFailures <= freeRefusals || c.srv.cfg.ErrorDelay == 0 {
		return
	}
	t := time.NewTimer(c.srv.cfg.ErrorDelay.Std())
	defer t.Stop()
	select {
	case <-t.C:
	case <-c.srv.stopping:
	}
}

// command runs one command line.
func (c *conn) command(line []byte) reply {
	text, bad := commandText(line)
	if bad.code != 0 {
		c.wrong()
		return bad
	}
	verb, arg, _ := strings.Cut(text, " ")
	verb = strings.ToUpper(verb)
	if c.shut && verb != "QUIT" {
		c.errors++
		return badSequence("Nothing is taken from you")
	}
	f := verbs[verb]
	if f == nil {
		if foreign(verb, text) {
			return reply{code: 500, status: "5.5.2", text: "This is SMTP"}.closing()
		}
		c.wrong()
		return reply{code: 500, status: "5.5.2", text: "Command not known"}
	}
	if verb != "RCPT" && verb != "BDAT" {
		c.idle++
	}
	r := f(c, strings.Trim(arg, " "))
	if r.code == 500 || r.code == 501 || r.code == 502 || r.code == 503 || r.code == 555 {
		c.wrong()
	}
	return r
}

// wrong counts a wrong command.
func (c *conn) wrong() {
	c.errors++
	c.failed(failedCommand)
}

// commandText checks the bytes of a command line and takes its end off. Bare
// line ends are refused here too: one rule everywhere.
func commandText(line []byte) (string, reply) {
	if len(line) == 0 {
		return "", reply{code: 500, status: "5.5.2", text: "Line is too long"}
	}
	text, crlf := strings.CutSuffix(string(line), "\r\n")
	if !crlf {
		return "", reply{code: 500, status: "5.5.2", text: "Lines end with CR LF"}
	}
	for i := range len(text) {
		if text[i] < ' ' && text[i] != '\t' || text[i] == 0x7f {
			return "", reply{code: 500, status: "5.5.2", text: "Control characters are not allowed"}
		}
	}
	if !utf8.ValidString(text) {
		return "", reply{code: 500, status: "5.5.2", text: "Not UTF-8"}
	}
	return strings.ReplaceAll(text, "\t", " "), reply{}
}

// foreign tells a browser or a proxy that found the wrong port. A request is
// cut off at its first line, so that nothing in its body is taken for mail.
func foreign(verb, text string) bool {
	switch verb {
	case "GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PRI", "PROXY", "HOST:", "SSH-2.0":
		return true
	}
	return strings.Contains(text, " HTTP/")
}

// readLine waits for a command line.
func (c *conn) readLine() ([]byte, error) {
	c.in.narrow(&c.srv.blocks)
	if err := c.beginWait(); err != nil {
		return nil, err
	}
	line, err := c.in.line(c.more)
	if derr := c.endWait(); derr != nil && err != nil {
		return nil, derr
	}
	if errors.Is(err, errLongLine) {
		return nil, nil // commandText refuses it
	}
	return line, err
}

// more reads on within a command line.
func (c *conn) more() error {
	if err := c.flush(); err != nil {
		return err
	}
	if err := c.in.fill(); err != nil {
		return err
	}
	if c.tls == nil && c.in.buf[c.in.r] == 0x16 { // TLS handshake record
		return errTLSBytes
	}
	return nil
}

// beginWait lets drain end the waiting.
func (c *conn) beginWait() error {
	limit := c.srv.cfg.CommandTimeout.Std()
	if c.shut {
		limit = min(limit, shutTimeout)
	}
	return c.beginWaitFor(limit)
}

func (c *conn) beginWaitFor(d time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.within = c.tx != nil
	if c.mustEnd() {
		return errDraining
	}
	c.waiting = true
	return c.raw.SetReadDeadline(time.Now().Add(d))
}

func (c *conn) endWait() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting = false
	if c.mustEnd() {
		return errDraining
	}
	return nil
}

// mustEnd tells whether the connection ends here; the caller holds mu.
func (c *conn) mustEnd() bool { return c.draining || c.leaving && !c.within }

// drain makes the connection end at its next wait for a command.
func (c *conn) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.draining = true
	if c.waiting {
		// The only error is a closed connection, which is what we want.
		_ = c.raw.SetReadDeadline(time.Unix(1, 0))
	}
}

// leave makes the connection end at its next wait outside of a transaction: a
// message that was begun is still taken.
func (c *conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.leaving = true
	if c.waiting && !c.within {
		_ = c.raw.SetReadDeadline(time.Unix(1, 0)) // as in drain
	}
}

// reply queues an answer; it is written before we wait for the client, so
// that pipelined commands are answered together (RFC 2920).
func (c *conn) reply(r reply) {
	c.out = r.append(c.out)
	if len(c.out) > 8<<10 {
		c.flush() // an error comes again at the next one
	}
}

func (c *conn) flush() error {
	if len(c.out) == 0 {
		return nil
	}
	if err := c.nc.SetWriteDeadline(time.Now().Add(c.srv.cfg.WriteTimeout.Std())); err != nil {
		return err
	}
	_, err := c.nc.Write(c.out)
	c.out = c.out[:0]
	return err
}

// reset forgets the transaction, and with it the connector that its sender
// was proven by.
func (c *conn) reset() {
	if c.tx != nil && c.tx.body != nil {
		c.tx.body.release()
	}
	c.tx = nil
	c.peer.Connector, c.peer.Organization = "", ""
	if c.account != nil {
		c.peer.Account, c.peer.Organization = accountKey(*c.account), c.account.Organization
	}
}
