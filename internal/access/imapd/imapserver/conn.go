package imapserver

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

// A Conn is an IMAP connection to the server. One goroutine reads and
// answers commands; during IDLE a second one writes updates.
type Conn struct {
	server *Server
	born   time.Time
	br     *bufio.Reader

	encMutex sync.Mutex    // guards bw and who writes a response
	bw       *bufio.Writer // borrowed while it holds something, else nil

	mutex   sync.Mutex // guards conn, closing and deadlines
	conn    net.Conn
	closing string // why the server ends the connection

	implicitTLS bool
	enabled     imap.CapSet
	state       imap.ConnState
	session     Session
	errors      int // BAD answers in a row

	in, out atomic.Int64 // bytes of text
}

// NewConn takes over c. Serve has to be called.
func (s *Server) NewConn(c net.Conn, implicitTLS bool) *Conn {
	conn := &Conn{server: s, conn: c, implicitTLS: implicitTLS, born: time.Now(), state: imap.ConnStateNotAuthenticated}
	conn.br = bufio.NewReaderSize(connReader{conn}, 512)
	return conn
}

// NetConn returns the underlying connection, for its addresses.
func (c *Conn) NetConn() net.Conn {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.conn
}

// IsTLS tells whether the connection is protected.
func (c *Conn) IsTLS() bool {
	_, ok := c.NetConn().(*tls.Conn)
	return ok
}

// Traffic tells the bytes of text that went in and out.
func (c *Conn) Traffic() (in, out int64) { return c.in.Load(), c.out.Load() }

// Shutdown ends the connection with BYE and the reason, after the command that
// is being worked on, if any. It does not wait for that.
func (c *Conn) Shutdown(why string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.closing == "" {
		c.closing = why
		c.conn.SetReadDeadline(time.Unix(1, 0))
	}
}

// Close ends the connection at once.
func (c *Conn) Close() error { return c.NetConn().Close() }

// Serve answers commands until the connection ends.
func (c *Conn) Serve() {
	defer func() { c.NetConn().Close() }()
	defer func() {
		if v := recover(); v != nil {
			c.panicked(v)
		}
	}()
	if c.implicitTLS {
		if err := c.handshake(); err != nil {
			return
		}
	}
	session, err := c.server.options.NewSession(c)
	if err != nil {
		var refused *imap.Error
		if !errors.As(err, &refused) {
			refused = &imap.Error{Text: "Service not available"}
		}
		c.bye(refused.Code, refused.Text)
		return
	}
	c.session = session
	defer session.Close()
	if err := c.writeCapabilityStatus("", "IMAP server ready"); err != nil {
		return
	}
	err = c.serve()
	c.farewell(err)
}

func (c *Conn) serve() error {
	o := &c.server.options
	for c.state != imap.ConnStateLogout {
		c.setReadTimeout(o.IdleTimeout)
		if _, err := c.br.Peek(1); err != nil {
			return err
		}
		c.setReadTimeout(o.CommandTimeout)
		if err := c.readCommand(); err != nil {
			return err
		}
	}
	return c.flush()
}

// farewell tells the client why the connection ends, where it can still hear it.
func (c *Conn) farewell(err error) {
	c.mutex.Lock()
	why := c.closing
	c.mutex.Unlock()
	switch {
	case why != "":
		c.bye("", why)
	case errors.Is(err, os.ErrDeadlineExceeded):
		c.bye("", "Too slow or idle for too long")
	case errors.Is(err, imapwire.ErrFlood):
		c.bye(imap.ResponseCodeTooBig, "Command is too long")
		c.linger()
	case errors.Is(err, errTooManyErrors):
		c.bye("", "Too many errors")
		c.linger()
	}
}

// linger lets a client that is still sending hear BYE: closing with unread
// text would reset the connection. It reads a bounded amount for a bounded time.
func (c *Conn) linger() {
	conn := c.NetConn()
	if half, ok := conn.(interface{ CloseWrite() error }); !ok || half.CloseWrite() != nil {
		return
	}
	conn.SetReadDeadline(time.Now().Add(time.Second))
	io.CopyN(io.Discard, conn, 256<<10)
}

func (c *Conn) bye(code imap.ResponseCode, text string) {
	c.writeStatusResp("", &imap.StatusResponse{Type: imap.StatusResponseTypeBye, Code: code, Text: text})
	c.flush()
}

// panicked ends the connection after a bug was met. A response that was under
// way cannot be finished, so nothing is written then.
func (c *Conn) panicked(v any) {
	if f := c.server.options.OnPanic; f != nil {
		f(v, debug.Stack())
	}
	if c.encMutex.TryLock() {
		c.encMutex.Unlock()
		c.bye(imap.ResponseCodeServerBug, "Internal server error")
	}
}

func (c *Conn) handshake() error {
	if c.server.options.TLSConfig == nil {
		return errors.New("no TLS configuration")
	}
	raw := c.NetConn()
	conn := tls.Server(raw, c.server.options.TLSConfig)
	c.setReadTimeout(c.server.options.CommandTimeout)
	raw.SetWriteDeadline(time.Now().Add(c.server.options.WriteTimeout))
	if err := conn.Handshake(); err != nil {
		return err
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	c.conn = conn
	return nil
}

func (c *Conn) setReadTimeout(d time.Duration) {
	at := time.Now().Add(d)
	if c.state == imap.ConnStateNotAuthenticated {
		if last := c.born.Add(c.server.options.PreAuthTimeout); last.Before(at) {
			at = last
		}
	}
	c.mutex.Lock()
	defer c.mutex.Unlock()
	if c.closing == "" {
		c.conn.SetReadDeadline(at)
	}
}

// limits are those of a command in the present state.
func (c *Conn) limits() imapwire.Limits {
	if c.state == imap.ConnStateNotAuthenticated {
		return c.server.options.PreAuth
	}
	return c.server.options.PostAuth
}

// connReader reads from the connection after it has sent what the client may
// be waiting for.
type connReader struct{ c *Conn }

func (r connReader) Read(p []byte) (int, error) {
	if err := r.c.flush(); err != nil {
		return 0, err
	}
	n, err := r.c.NetConn().Read(p)
	r.c.in.Add(int64(n))
	return n, err
}

// connWriter writes to the connection; each write has its own deadline.
type connWriter struct{ c *Conn }

func (w connWriter) Write(p []byte) (int, error) {
	conn := w.c.NetConn()
	conn.SetWriteDeadline(time.Now().Add(w.c.server.options.WriteTimeout))
	n, err := conn.Write(p)
	w.c.out.Add(int64(n))
	return n, err
}

// flush sends what was written and gives the writer back.
func (c *Conn) flush() error {
	c.encMutex.Lock()
	defer c.encMutex.Unlock()
	if c.bw == nil {
		return nil
	}
	err := c.bw.Flush()
	c.bw.Reset(nil)
	c.server.writers.Put(c.bw)
	c.bw = nil
	return err
}

// responseEncoder writes one response; it holds encMutex until end.
type responseEncoder struct {
	*imapwire.Encoder
	conn *Conn
}

func newResponseEncoder(c *Conn) *responseEncoder {
	c.encMutex.Lock() // released by end
	if c.bw == nil {
		c.bw = c.server.writers.Get().(*bufio.Writer)
		c.bw.Reset(connWriter{c})
	}
	enc := imapwire.NewEncoder(c.bw)
	enc.QuotedUTF8 = c.enabled.Has(imap.CapIMAP4rev2) || c.enabled.Has(imap.CapUTF8Accept)
	return &responseEncoder{Encoder: enc, conn: c}
}

func (enc *responseEncoder) end() {
	if enc.Encoder == nil {
		panic("imapserver: responseEncoder.end called twice")
	}
	enc.Encoder = nil
	enc.conn.encMutex.Unlock()
}
