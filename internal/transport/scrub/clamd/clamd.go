// Package clamd asks a ClamAV daemon whether a message holds malware, by its
// INSTREAM command (clamd(8)): the message goes over the connection, so that
// the daemon needs no access to our files.
//
// Answers are read to the letter. Only "stream: OK" is clean and only "FOUND"
// is malware; anything else, also an answer that was cut, is an error. The
// daemon says OK of what lies beyond its limits unless its AlertExceedsMax is
// on, and refuses messages above its StreamMaxLength (default 25 MB): both are
// for its configuration.
package clamd

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

const (
	chunk       = 64 << 10
	maxAnswer   = 4 << 10
	connections = 10 // the daemon's own MaxThreads by default; more would wait there
)

// Config says where the daemon is.
type Config struct {
	Address string        // path of its socket, or host:port
	Timeout time.Duration // of a whole scan, waiting for a connection included
}

// Client asks one daemon. Its methods may be called by many at once.
type Client struct {
	cfg   Config
	slots chan struct{}
}

// New makes a Client; nothing is dialled before the first Scan.
func New(cfg Config) (*Client, error) {
	if cfg.Address == "" || cfg.Timeout <= 0 {
		return nil, kind.Errorf(kind.Invalid, "clamd: needs an address and a timeout above 0")
	}
	return &Client{cfg: cfg, slots: make(chan struct{}, connections)}, nil
}

// Scan implements scrub.Scanner. Errors are of kind Busy if another try may
// help, Full if the message is larger than the daemon takes, else Internal.
func (c *Client) Scan(ctx context.Context, m scrub.Mail) (scrub.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	case <-ctx.Done():
		return scrub.Finding{}, kind.Errorf(kind.Busy, "clamd %s: all connections in use: %w", c.cfg.Address, ctx.Err())
	}
	answer, err := c.ask(ctx, m.Body)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err() // the connection was closed for that
		}
		return scrub.Finding{}, kind.Errorf(kind.Busy, "clamd %s: %w", c.cfg.Address, err)
	}
	return read(answer)
}

// ask sends the message and reads the answer. A daemon that has seen enough
// answers and hangs up while we write, so a failed write is not the end.
func (c *Client) ask(ctx context.Context, body []byte) (string, error) {
	network := "tcp"
	if strings.Contains(c.cfg.Address, "/") {
		network = "unix"
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, c.cfg.Address)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	sent := send(conn, body)
	answer, err := bufio.NewReader(io.LimitReader(conn, maxAnswer)).ReadString(0)
	switch {
	case err == nil:
		return answer[:len(answer)-1], nil
	case sent != nil:
		return "", sent
	case errors.Is(err, io.EOF) && len(answer) == maxAnswer:
		return "", errors.New("answer does not end")
	case errors.Is(err, io.EOF):
		return "", errors.New("connection closed before the end of an answer")
	}
	return "", err
}

// send writes the command, the body in chunks with their lengths in front, and
// the empty chunk that ends it.
func send(w io.Writer, body []byte) error {
	if _, err := io.WriteString(w, "zINSTREAM\x00"); err != nil {
		return err
	}
	for len(body) > 0 {
		n := min(len(body), chunk)
		bufs := net.Buffers{binary.BigEndian.AppendUint32(nil, uint32(n)), body[:n]}
		if _, err := bufs.WriteTo(w); err != nil {
			return err
		}
		body = body[n:]
	}
	_, err := w.Write([]byte{0, 0, 0, 0})
	return err
}

// limits is the name the daemon gives to what lies beyond its limits.
const limits = "Heuristics.Limits.Exceeded"

// read tells what an answer says, without its NUL.
func read(answer string) (scrub.Finding, error) {
	f := scrub.Finding{Scanner: "clamd"}
	if strings.HasPrefix(answer, "INSTREAM size limit exceeded") {
		return scrub.Finding{}, kind.WithHint(kind.Errorf(kind.Full, "clamd: message is larger than its StreamMaxLength"),
			"set StreamMaxLength of clamd.conf to max_message_bytes or more")
	}
	said, ours := strings.CutPrefix(answer, "stream: ")
	name, found := strings.CutSuffix(said, " FOUND")
	name = scrub.Line(name, 200)
	switch {
	case ours && said == "OK":
		return f, nil
	case ours && found && name != "":
		if strings.HasPrefix(name, limits) {
			f.Partial = true
			f.Symbols = []string{name}
			return f, nil
		}
		f.Virus, f.Action, f.Text = name, mail.ActionRefuse, "Message holds malware"
		return f, nil
	}
	return scrub.Finding{}, kind.Errorf(kind.Internal, "clamd: answer %q", scrub.Line(answer, 200))
}
