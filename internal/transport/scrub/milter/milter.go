package milter

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"time"

	wire "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

const (
	maxAnswers = 1 << 20 // octets of all answers of a session
	maxWord    = 1000    // of a value that is told
	// What the filter may do. All of it is of version 2 of the protocol, so that
	// old filters can be asked, too. Many say that they change bodies and do not.
	actions = wire.OptAddHeader | wire.OptChangeBody | wire.OptAddRcpt | wire.OptRemoveRcpt | wire.OptChangeHeader | wire.OptQuarantine
	// What it need not be told if it does not care.
	steps = wire.OptNoConnect | wire.OptNoHelo | wire.OptNoMailFrom | wire.OptNoRcptTo | wire.OptNoBody | wire.OptNoHeaders | wire.OptNoEOH
)

// Config says where the filter is.
type Config struct {
	Address  string        // path of its socket, or host:port
	Timeout  time.Duration // of a whole scan
	Hostname string        // of this server, as filters are told
	Log      *slog.Logger
}

// Client asks one filter. Its methods may be called by many at once.
type Client struct {
	cfg  Config
	dial func(ctx context.Context, network, address string) (net.Conn, error)

	envelope sync.Once // told that it cannot change one
}

// New makes a Client; nothing is dialled before the first Scan.
func New(cfg Config) (*Client, error) {
	if cfg.Address == "" || cfg.Timeout <= 0 || cfg.Log == nil {
		return nil, kind.Errorf(kind.Invalid, "milter: needs an address, a timeout above 0 and a log")
	}
	return &Client{cfg: cfg, dial: (&net.Dialer{}).DialContext}, nil
}

// Name is the filter's name in logs and metrics.
func (c *Client) Name() string { return "milter " + c.cfg.Address }

// Scan implements scrub.Scanner. Errors are of kind Busy if another try may
// help, else Internal.
func (c *Client) Scan(ctx context.Context, m scrub.Mail) (scrub.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	f, err := c.session(ctx, m)
	if err == nil {
		return f, nil
	}
	k := kind.Internal
	var network net.Error
	switch {
	case ctx.Err() != nil:
		k, err = kind.Busy, ctx.Err() // the connection was closed for that
	case errors.As(err, &network), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		k = kind.Busy
	}
	return scrub.Finding{}, kind.Errorf(k, "%s: %w", c.Name(), err)
}

func (c *Client) session(ctx context.Context, m scrub.Mail) (scrub.Finding, error) {
	d := &dialer{ctx: ctx, dial: c.dial}
	defer d.close()
	network := "tcp"
	if strings.Contains(c.cfg.Address, "/") {
		network = "unix"
	}
	s, err := wire.NewClientWithOptions(network, c.cfg.Address, wire.ClientOptions{
		Dialer: d, ReadTimeout: c.cfg.Timeout, WriteTimeout: c.cfg.Timeout, ActionMask: actions, ProtocolMask: steps,
	}).Session()
	if err != nil {
		return scrub.Finding{}, err
	}
	t := talk{ClientSession: s, m: m, hostname: c.cfg.Hostname}
	edits, last, err := t.run()
	if err != nil {
		return scrub.Finding{}, err
	}
	_ = s.Close() // QUIT; what it had to say is said
	f, err := verdict(last)
	if err != nil {
		return scrub.Finding{}, err
	}
	f.Scanner = c.Name()
	envelope, err := modify(&f, edits, m.Body)
	if envelope {
		c.envelope.Do(func() {
			c.cfg.Log.Warn("a milter asks for another sender or other recipients, which is not done", "milter", c.cfg.Address, "trace", m.Trace)
		})
	}
	return f, err
}

// talk is one session: each step tells something and hears whether to go on.
type talk struct {
	*wire.ClientSession
	m        scrub.Mail
	hostname string
	end      message.Ending // of the header, once it was told
}

// run tells everything and returns the last answer, with the changes the filter
// wants.
func (t *talk) run() ([]wire.ModifyAction, *wire.Action, error) {
	for _, step := range []func() (*wire.Action, error){t.connect, t.helo, t.sender, t.recipients, t.header} {
		if act, err := step(); err != nil || act.Code != wire.ActContinue {
			return nil, act, err
		}
	}
	if err := t.macros(wire.CodeEOB, "i", t.m.Trace.String()); err != nil {
		return nil, nil, err
	}
	return t.BodyReadFrom(bytes.NewReader(t.m.Body[t.end.At:]))
}

func (t *talk) connect() (*wire.Action, error) {
	p := t.m.Peer
	a := p.Remote.Unmap().WithZone("")
	name, address, family := word(p.Reverse), a.String(), wire.FamilyInet
	switch {
	case !a.IsValid():
		family, address = wire.FamilyUnknown, ""
	case a.Is6():
		family = wire.FamilyInet6
	}
	if name == "" {
		name = "[" + address + "]"
	}
	if err := t.macros(wire.CodeConn, "j", t.hostname, "{daemon_name}", p.Door, "v", "Postern", "{client_addr}", address, "{client_name}", name, "{client_ptr}", p.Reverse); err != nil {
		return nil, err
	}
	return t.Conn(name, family, 0, address)
}

func (t *talk) helo() (*wire.Action, error) {
	if s := t.m.Peer.TLS; s != nil {
		if err := t.macros(wire.CodeHelo, "{tls_version}", strings.ReplaceAll(tls.VersionName(s.Version), " ", "v"), "{cipher}", tls.CipherSuiteName(s.CipherSuite)); err != nil {
			return nil, err
		}
	}
	return t.Helo(word(t.m.Peer.Helo))
}

func (t *talk) sender() (*wire.Action, error) {
	e := t.m.Envelope
	authType := ""
	if t.m.Peer.Account != "" {
		authType = "AUTH" // filters ask whether there is one, not which
	}
	if err := t.macros(wire.CodeMail, "i", t.m.Trace.String(), "{mail_addr}", e.From, "{auth_type}", authType, "{auth_authen}", t.m.Peer.Account); err != nil {
		return nil, err
	}
	var args []string
	if e.EightBit {
		args = append(args, "BODY=8BITMIME")
	}
	if e.UTF8 {
		args = append(args, "SMTPUTF8")
	}
	return t.Mail(word(e.From), args)
}

func (t *talk) recipients() (*wire.Action, error) {
	for _, r := range t.m.Envelope.Recipients {
		if err := t.macros(wire.CodeRcpt, "i", t.m.Trace.String(), "{rcpt_addr}", r.Address); err != nil {
			return nil, err
		}
		if act, err := t.Rcpt(word(r.Address), nil); err != nil || act.Code != wire.ActContinue {
			return act, err
		}
	}
	return &wire.Action{Code: wire.ActContinue}, nil
}

// header tells the fields as Sendmail does: without the blank behind the colon,
// folded with bare line feeds.
func (t *talk) header() (*wire.Action, error) {
	for f := range message.Fields(t.m.Body, &t.end) {
		value := bytes.TrimRight(t.m.Body[f.Colon+1:f.End], "\r\n")
		value = bytes.ReplaceAll(bytes.TrimPrefix(value, []byte(" ")), []byte("\r\n"), []byte("\n"))
		value = bytes.ReplaceAll(value, []byte{0}, []byte(" ")) // it would end there
		if act, err := t.HeaderField(f.Name, string(value)); err != nil || act.Code != wire.ActContinue {
			return act, err
		}
	}
	if err := t.macros(wire.CodeEOH, "i", t.m.Trace.String()); err != nil {
		return nil, err
	}
	return t.HeaderEnd()
}

// macros tells names and values; a macro without value is left out.
func (t *talk) macros(at wire.Code, pairs ...string) error {
	var told []string
	for i := 0; i < len(pairs); i += 2 {
		if v := word(pairs[i+1]); v != "" {
			told = append(told, pairs[i], v)
		}
	}
	return t.Macros(at, told...)
}

// word makes a value that cannot end early.
func word(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), maxWord)], ""))
}
