package rspamd

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

const (
	maxAnswer     = 1 << 20
	maxValue      = 1024 // octets of one header value of a request
	maxRecipients = 100  // that are told; more make no difference to a score
	connections   = 64
)

// Config says where the server is.
type Config struct {
	URL     string        // such as http://127.0.0.1:11333
	Timeout time.Duration // of a whole scan
}

// Client asks one server. Its methods may be called by many at once.
type Client struct {
	url     string
	timeout time.Duration
	http    *http.Client
}

// New makes a Client; nothing is dialled before the first Scan.
func New(cfg Config) (*Client, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.RawQuery != "" || u.User != nil || cfg.Timeout <= 0 {
		return nil, kind.Errorf(kind.Invalid, "rspamd: needs an http or https address and a timeout above 0")
	}
	return &Client{url: u.JoinPath("checkv2").String(), timeout: cfg.Timeout, http: &http.Client{
		Transport: &http.Transport{
			MaxConnsPerHost: connections, MaxIdleConnsPerHost: connections, IdleConnTimeout: 30 * time.Second,
			MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// Close lets go of idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Scan implements scrub.Scanner. Errors are of kind Busy if another try may
// help, else Internal.
func (c *Client) Scan(ctx context.Context, m scrub.Mail) (scrub.Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(m.Body))
	if err != nil {
		return scrub.Finding{}, kind.Errorf(kind.Internal, "rspamd: %w", err)
	}
	describe(req.Header, m)
	resp, err := c.http.Do(req)
	if err != nil {
		return scrub.Finding{}, kind.Errorf(kind.Busy, "rspamd: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return scrub.Finding{}, kind.Errorf(kind.Busy, "rspamd: read answer: %w", errors.Join(err, ctx.Err()))
	case resp.StatusCode != http.StatusOK:
		return scrub.Finding{}, kind.Errorf(kind.Busy, "rspamd: status %d: %s", resp.StatusCode, scrub.Line(string(body), 200))
	case len(body) > maxAnswer:
		return scrub.Finding{}, kind.Errorf(kind.Internal, "rspamd: answer of more than %d octets", maxAnswer)
	}
	return read(body)
}

// describe puts what is known of the session into the header of a request.
func describe(h http.Header, m scrub.Mail) {
	set := func(name, value string) {
		if value = clean(value); value != "" {
			h.Add(name, value)
		}
	}
	if m.Peer.Remote.IsValid() {
		set("IP", m.Peer.Remote.Unmap().WithZone("").String())
	}
	set("Helo", m.Peer.Helo)
	set("Hostname", m.Peer.Reverse)
	set("User", m.Peer.Account)
	set("Queue-Id", m.Trace.String())
	if t := m.Peer.TLS; t != nil {
		set("TLS-Version", tls.VersionName(t.Version))
		set("TLS-Cipher", tls.CipherSuiteName(t.CipherSuite))
	}
	if m.Envelope.From == "" {
		set("From", "<>")
	}
	set("From", m.Envelope.From)
	for i, r := range m.Envelope.Recipients {
		if i == maxRecipients {
			break
		}
		set("Rcpt", r.Address)
	}
	set("Pass", "all") // look at everything: the score is kept, and sent in reports
	set("Flags", "milter")
}

// clean makes a value that no header can be broken with.
func clean(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s[:min(len(s), maxValue)], ""))
	return strings.TrimSpace(s)
}
