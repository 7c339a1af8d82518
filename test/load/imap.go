package load

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"
	"github.com/emersion/go-imap/v2/imapclient"
)

// patience is how long a client waits for one answer before it hangs up.
const patience = 90 * time.Second

// conn is an IMAP connection of a load client.
type conn struct {
	client *imapclient.Client
	server string
	heard  *listener
}

// listener notes whether the server said BYE: a command that was on its way then
// was not read by it, which the library tells as a broken connection.
type listener struct {
	net.Conn
	tail []byte // the end of what was read
	bye  atomic.Bool
}

var byeLine = []byte("\r\n* BYE")

// Read implements net.Conn.
func (l *listener) Read(b []byte) (int, error) {
	n, err := l.Conn.Read(b)
	if n > 0 {
		l.tail = append(l.tail, b[:n]...)
		if bytes.Contains(l.tail, byeLine) {
			l.bye.Store(true)
		}
		l.tail = append(l.tail[:0], l.tail[max(0, len(l.tail)-len(byeLine)):]...)
	}
	return n, err
}

func dialIMAP(addr string, conf *tls.Config, h *imapclient.UnilateralDataHandler) (*imapclient.Client, *listener, error) {
	c, err := dial(addr)
	if err != nil {
		return nil, nil, err
	}
	if conf != nil {
		t := tls.Client(c, conf)
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := t.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, nil, err
		}
		c = t
	}
	l := &listener{Conn: c}
	return imapclient.New(l, &imapclient.Options{UnilateralDataHandler: h}), l, nil
}

// login connects a user to the n-th server that is up.
func (t *Target) login(n int, u User, h *imapclient.UnilateralDataHandler) (*conn, error) {
	out := &conn{}
	srv, err := t.reach(n, func(srv *Server) error {
		c, l, err := dialIMAP(srv.IMAP, t.TLS, h)
		if err != nil {
			return err
		}
		out.client, out.heard = c, l
		if err := out.wait(func() error { return c.Login(u.Address, u.Password).Wait() }); err != nil {
			c.Close()
			out.client = nil
			return fmt.Errorf("login: %w", err)
		}
		return nil
	})
	out.server = srv.Name
	return out, err
}

// wait runs one command and hangs up when it takes too long.
func (c *conn) wait(f func() error) error {
	t := time.AfterFunc(patience, func() { c.client.Close() })
	defer t.Stop()
	return f()
}

func (c *conn) close() {
	if c != nil && c.client != nil {
		c.client.Close()
	}
}

// answered tells whether err is the server's own NO or BAD, so that the
// connection is still good.
func answered(err error) bool {
	var e *imap.Error
	return errors.As(err, &e) && e.Type != imap.StatusResponseTypeBye
}

// saidBye tells whether the server closed the connection with a word.
func (c *conn) saidBye(err error) bool {
	var e *imap.Error
	return errors.As(err, &e) && e.Type == imap.StatusResponseTypeBye || c.heard != nil && c.heard.bye.Load()
}

// messages is how many messages the open mailbox has, as last told. The
// library knows the mailbox a moment after SELECT was answered.
func (c *conn) messages() uint32 {
	if m := c.client.Mailbox(); m != nil {
		return m.NumMessages
	}
	return 0
}
