package smtpd

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// ehlo answers with the extensions of this door (RFC 5321 section 4.1.1.1).
func (c *conn) ehlo(arg string) reply {
	if r := c.greet(arg, true); r.code != 0 {
		return r
	}
	lines := []string{c.srv.cfg.Hostname, "PIPELINING", "8BITMIME", "SMTPUTF8", "CHUNKING", "ENHANCEDSTATUSCODES", "DSN",
		fmt.Sprintf("SIZE %d", c.srv.cfg.MaxMessageBytes),
		fmt.Sprintf("LIMITS RCPTMAX=%d", c.srv.cfg.MaxRecipients)} // RFC 9422
	if c.tls == nil && c.srv.tls != nil {
		lines = append(lines, "STARTTLS")
	}
	if c.tls != nil {
		lines = append(lines, "REQUIRETLS") // RFC 8689: announced under TLS only
	}
	if c.tls != nil && c.door.users {
		lines = append(lines, "AUTH PLAIN LOGIN")
	}
	for _, l := range lines[:len(lines)-1] {
		c.out = append(c.out, "250-"+l+"\r\n"...)
	}
	return reply{code: 250, text: lines[len(lines)-1]}
}

func (c *conn) heloOld(arg string) reply {
	if r := c.greet(arg, false); r.code != 0 {
		return r
	}
	return reply{code: 250, text: c.srv.cfg.Hostname}
}

func (c *conn) greet(arg string, extended bool) reply {
	if !validHelo(arg) {
		return badSyntax("Say which host you are: a domain or an address literal")
	}
	c.reset() // RFC 5321 section 4.1.4
	c.helo, c.esmtp, c.peer.Helo = arg, extended, arg
	r := c.hello()
	if r.code != 0 {
		c.helo, c.esmtp, c.peer.Helo = "", false, ""
	}
	return r
}

func (c *conn) noop(string) reply { return ok("Fine") }

func (c *conn) rset(arg string) reply {
	if arg != "" {
		return badSyntax("RSET takes no argument")
	}
	c.reset()
	return ok("Forgotten")
}

func (c *conn) quit(arg string) reply {
	if arg != "" {
		return badSyntax("QUIT takes no argument")
	}
	return reply{code: 221, status: "2.0.0", text: "Goodbye", close: true}
}

// vrfy says the same for everybody (RFC 5321 section 7.3).
func (c *conn) vrfy(arg string) reply {
	if arg == "" {
		return badSyntax("VRFY wants an address")
	}
	return reply{code: 252, status: "2.0.0", text: "Cannot tell, but RCPT will"}
}

func (c *conn) help(string) reply {
	return reply{code: 214, status: "2.0.0", text: "See RFC 5321"}
}

func (c *conn) refuse(string) reply {
	return reply{code: 502, status: "5.5.1", text: "Command is not offered here"}
}

// startTLS is RFC 3207. A client that has sent more than the command is cut
// off: what stands behind it came from anybody on the way.
func (c *conn) startTLS(arg string) reply {
	switch {
	case arg != "":
		return badSyntax("STARTTLS takes no argument")
	case c.tls != nil:
		return badSequence("TLS is on already")
	case c.srv.tls == nil:
		return reply{code: 502, status: "5.5.1", text: "TLS is not offered here"}
	case len(c.in.unread()) > 0:
		return badSequence("Nothing may be sent behind STARTTLS before the handshake").closing()
	}
	c.reply(reply{code: 220, status: "2.0.0", text: "Go ahead"})
	if err := c.flush(); err != nil {
		return silent.closing()
	}
	if err := c.handshake(); err != nil {
		return silent.closing()
	}
	// RFC 3207 section 4.2: all knowledge from before is discarded.
	c.reset()
	c.helo, c.esmtp, c.peer.Helo = "", false, ""
	return silent
}

// handshake turns the connection into TLS.
func (c *conn) handshake() error {
	t := tls.Server(c.raw, c.door.tls)
	limit := c.srv.cfg.HandshakeTimeout.Std()
	if err := c.beginWaitFor(limit); err != nil {
		return err
	}
	if err := c.raw.SetWriteDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	err := t.HandshakeContext(c.ctx)
	if derr := c.endWait(); err == nil {
		err = derr
	}
	if err != nil {
		c.srv.metrics.handshakes.WithLabelValues(c.door.name, "failed").Inc()
		if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
			c.log.Debug("TLS handshake", "err", err)
		}
		return err
	}
	c.srv.metrics.handshakes.WithLabelValues(c.door.name, "ok").Inc()
	state := t.ConnectionState()
	c.tls = &tls.ConnectionState{Version: state.Version, HandshakeComplete: true, CipherSuite: state.CipherSuite,
		ServerName: state.ServerName, PeerCertificates: state.PeerCertificates}
	c.peer.TLS = c.tls
	c.nc = t
	c.in = newInput(t)
	return nil
}

// maxClientCertificates bounds the bytes of certificates that a client shows;
// they stay in memory as long as the connection.
const maxClientCertificates = 32 << 10

// askForCertificate is base for a door where clients may show a certificate,
// by which a connector can be proven. Nobody has to, and any is taken: it is
// judged where it is used.
func askForCertificate(base *tls.Config) *tls.Config {
	if base == nil {
		return nil
	}
	t := base.Clone()
	t.ClientAuth = tls.RequestClientCert
	t.VerifyPeerCertificate = func(raw [][]byte, _ [][]*x509.Certificate) error {
		n := 0
		for _, r := range raw {
			n += len(r)
		}
		if n > maxClientCertificates {
			return fmt.Errorf("client shows %d bytes of certificates, more than %d", n, maxClientCertificates)
		}
		return nil
	}
	return t
}

// protocol is the "with" of a Received line (RFC 3848, RFC 6531).
func (c *conn) protocol() string {
	if !c.esmtp {
		return "SMTP"
	}
	var b strings.Builder
	if c.tx != nil && c.tx.envelope.UTF8 {
		b.WriteString("UTF8SMTP")
	} else {
		b.WriteString("ESMTP")
	}
	if c.tls != nil {
		b.WriteByte('S')
	}
	if c.account != nil {
		b.WriteByte('A')
	}
	return b.String()
}
