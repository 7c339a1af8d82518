package imapserver

import (
	"bufio"
	"crypto/tls"
	"io"
	"sync"
	"time"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
)

// writeBuffer is the size of the writers connections borrow: a TLS record.
const writeBuffer = 16 << 10

// Options are a server's settings; all but TLSConfig and InsecureAuth are required.
type Options struct {
	// NewSession is called for each connection before the greeting. An error
	// is told to the client with BYE.
	NewSession func(*Conn) (Session, error)
	// Caps are the capabilities that need a backend: they are offered after login.
	Caps imap.CapSet
	// TLSConfig is for STARTTLS and implicit TLS; nil offers neither.
	TLSConfig *tls.Config
	// InsecureAuth allows passwords without TLS.
	InsecureAuth bool

	// OnCommand is called after each command with its name ("" for one that is
	// unknown) and the result: "OK", "NO", "BAD" or "end"; nil for none.
	OnCommand func(name, result string, took time.Duration)
	// OnPanic is called with a bug that ended a connection; nil for none.
	OnPanic func(v any, stack []byte)

	PreAuthTimeout time.Duration // from the connection to the login
	CommandTimeout time.Duration // from the first byte of a command to its last
	IdleTimeout    time.Duration // between commands, and in IDLE
	WriteTimeout   time.Duration // for a client to take some output

	// PreAuth and PostAuth bound a command before and after login.
	PreAuth, PostAuth imapwire.Limits
	// PreAuthErrors and PostAuthErrors are how many BAD answers in a row end
	// the connection.
	PreAuthErrors, PostAuthErrors int
}

// Server holds what the connections share. It listens to nothing.
type Server struct {
	options Options
	writers sync.Pool // of *bufio.Writer
}

// New creates a server.
func New(options Options) *Server {
	return &Server{
		options: options,
		writers: sync.Pool{New: func() any { return bufio.NewWriterSize(io.Discard, writeBuffer) }},
	}
}
