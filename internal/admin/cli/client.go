package cli

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

// Times of the client.
const (
	dialTime = 4 * time.Second  // for connecting and TLS with one server
	callTime = 3 * time.Minute  // for a command that is no stream
	lineTime = 45 * time.Second // between two lines of a stream; servers write one each 10 s
)

// maxAnswer bounds an answer or one line of a stream, in bytes.
const maxAnswer = 256 << 20

// endpoint is one way to one server.
type endpoint struct {
	socket string // path, or
	addr   string // host:port
	host   string // as the certificate has it
}

func (e endpoint) String() string {
	if e.socket != "" {
		return e.socket
	}
	return e.addr
}

// client speaks to the admin API of the first of its servers that answers.
type client struct {
	endpoints      []endpoint
	roots          *x509.CertPool
	user, password string
	// localHint tells what to do if the socket cannot be reached.
	localHint string
	http      *http.Client
}

func (c *client) init() {
	tr := &http.Transport{DisableCompression: true, MaxIdleConns: 1, DialContext: c.dial}
	c.http = &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

func (c *client) close() { c.http.CloseIdleConnections() }

// dial tries one server after the other. Nothing has been asked of any by
// then, so going on to the next repeats nothing.
func (c *client) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	var errs []error
	for _, e := range c.endpoints {
		conn, err := c.dialOne(ctx, e)
		if err == nil {
			return conn, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", e, err))
		var bad *tls.CertificateVerificationError
		if errors.As(err, &bad) {
			return nil, errors.Join(errs...)
		}
	}
	return nil, errors.Join(errs...)
}

func (c *client) dialOne(ctx context.Context, e endpoint) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	if e.socket != "" {
		return sock.Dial(ctx, e.socket)
	}
	d := tls.Dialer{Config: &tls.Config{
		ServerName: e.host, RootCAs: c.roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"},
	}}
	return d.DialContext(ctx, "tcp", e.addr)
}

// call runs a command on the server and returns its answer. Progress lines go
// to progress.
func (c *client) call(ctx context.Context, cmd command.Command, values url.Values, body map[string]any, progress func(string)) (json.RawMessage, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := callTime
	if cmd.Stream {
		limit = lineTime
	}
	idle := time.AfterFunc(limit, func() {
		cancel(kind.Errorf(kind.Busy, "no answer from the server for %s", limit))
	})
	defer idle.Stop()
	req, err := c.request(ctx, cmd, values, body)
	if err != nil {
		return nil, err
	}
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, readProblem(res)
	}
	if strings.HasPrefix(res.Header.Get("Content-Type"), wire.NDJSON) {
		return readLines(ctx, res.Body, func() { idle.Reset(limit) }, progress)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	if err != nil {
		return nil, c.unreachable(ctx, err)
	}
	if len(b) > maxAnswer {
		return nil, fmt.Errorf("the answer is over %d bytes", maxAnswer)
	}
	return b, nil
}

func (c *client) request(ctx context.Context, cmd command.Command, values url.Values, body map[string]any) (*http.Request, error) {
	// The host is a name for the header only; dial knows where to go.
	target := "http://postern.local" + wire.Path(cmd)
	var content io.Reader
	if cmd.Changes {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	} else if len(values) > 0 {
		target += "?" + values.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, wire.Method(cmd), target, content)
	if err != nil {
		return nil, err
	}
	if content != nil {
		req.Header.Set("Content-Type", wire.JSON)
	}
	if c.user != "" {
		req.SetBasicAuth(c.user, c.password)
	}
	return req, nil
}

func readProblem(res *http.Response) error {
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
	var p wire.Problem
	if err != nil || json.Unmarshal(b, &p) != nil || p.Status == 0 {
		return wire.New(res.StatusCode, "unknown", "the server answered "+res.Status, "")
	}
	return &p
}

func readLines(ctx context.Context, r io.Reader, alive func(), progress func(string)) (json.RawMessage, error) {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 64<<10), maxAnswer)
	for sc.Scan() {
		alive()
		var line wire.Line
		if err := json.Unmarshal(sc.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("read answer: %w", err)
		}
		switch {
		case line.Error != nil:
			return nil, line.Error
		case line.Result != nil:
			return line.Result, nil
		case line.Progress != "":
			progress(line.Progress)
		}
	}
	if cause := context.Cause(ctx); cause != nil {
		return nil, cause
	}
	return nil, kind.WithHint(kind.Errorf(kind.Busy, "the server went away before it was done: %w", cmpOr(sc.Err(), io.ErrUnexpectedEOF)),
		"see how far it came, and run the command again")
}

func cmpOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// unreachable explains why there was no answer.
func (c *client) unreachable(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && kind.Of(cause) == kind.Busy {
		return cause
	}
	var u *url.Error
	if errors.As(err, &u) {
		err = u.Err
	}
	hint := "is a server running there?"
	var bad *tls.CertificateVerificationError
	switch {
	case errors.As(err, &bad):
		hint = "give the group's authority with --ca"
	case c.localHint != "":
		hint = c.localHint
	}
	return kind.WithHint(kind.Errorf(kind.Busy, "no server reached: %w", err), hint)
}
