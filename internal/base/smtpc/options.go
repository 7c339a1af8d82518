package smtpc

import (
	"context"
	"crypto/tls"
	"net"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// TLS says what a session does about STARTTLS (RFC 3207).
type TLS uint8

const (
	// TLSNever sends in clear: the peer is known to break its own STARTTLS.
	TLSNever TLS = iota
	// TLSMay uses it when the peer offers it. A handshake that fails ends the
	// session; whether to come back in clear is the caller's choice.
	TLSMay
	// TLSMust ends the session when the peer does not offer it.
	TLSMust
)

// Options say with whom and how to speak.
type Options struct {
	// Address is host:port to connect to, best an IP address.
	Address string
	// Hello is the name this host gives itself: a domain or an address literal.
	Hello string
	// Dial opens the connection; nil is a plain net.Dialer.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	TLS TLS
	// Config is used for the handshake as it is: ServerName, roots, client
	// certificate and verification are the caller's. Nil only with TLSNever.
	Config *tls.Config

	// User and Password log in by AUTH PLAIN (RFC 4954, RFC 4616), never
	// without TLS. Empty: no log-in.
	User, Password string

	Timeouts Timeouts
}

// Timeouts of a session; a zero takes the default.
type Timeouts struct {
	Connect  time.Duration // TCP, 30 s
	Greeting time.Duration // 5 min, as are the next two
	Hello    time.Duration // each of EHLO, HELO, STARTTLS, AUTH
	Envelope time.Duration // each answer to MAIL and RCPT
	Data     time.Duration // answer to DATA, 2 min
	Block    time.Duration // each 32 KiB of the message, 3 min
	Dot      time.Duration // answer to the final dot, 10 min
	Short    time.Duration // RSET and QUIT, 20 s: nothing hangs on them
	// Overall bounds Dial, and Send together with a second for each KiB of
	// the message: 30 min.
	Overall time.Duration
}

func (o Options) withDefaults() Options {
	t := &o.Timeouts
	for _, d := range []struct {
		of  *time.Duration
		def time.Duration
	}{
		{&t.Connect, 30 * time.Second},
		{&t.Greeting, 5 * time.Minute},
		{&t.Hello, 5 * time.Minute},
		{&t.Envelope, 5 * time.Minute},
		{&t.Data, 2 * time.Minute},
		{&t.Block, 3 * time.Minute},
		{&t.Dot, 10 * time.Minute},
		{&t.Short, 20 * time.Second},
		{&t.Overall, 30 * time.Minute},
	} {
		if *d.of <= 0 {
			*d.of = d.def
		}
	}
	if o.Dial == nil {
		o.Dial = (&net.Dialer{}).DialContext
	}
	return o
}

// validate refuses what no session could be held with.
func (o Options) validate() error {
	switch {
	case o.Hello == "" || len(o.Hello) > 255 || strings.ContainsFunc(o.Hello, notHostname):
		return kind.Errorf(kind.Invalid, "smtp to %s: no usable name for HELO", o.Address)
	case o.TLS != TLSNever && o.Config == nil:
		return kind.Errorf(kind.Invalid, "smtp to %s: TLS without a configuration", o.Address)
	case o.User != "" && o.TLS != TLSMust:
		return kind.Errorf(kind.Invalid, "smtp to %s: a password may go over TLS only", o.Address)
	case len(o.User) > 255 || len(o.Password) > 255 || strings.Contains(o.User+o.Password, "\x00"):
		return kind.Errorf(kind.Invalid, "smtp to %s: user or password longer than 255 bytes or with a NUL", o.Address)
	}
	return nil
}

// notHostname holds for what can stand neither in a domain nor in an address
// literal (RFC 5321 section 4.1.3).
func notHostname(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-._[]:", r))
}
