package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/smtpc"
	"github.com/postern-mail/postern/internal/mail"
)

// maxAnswer is how much of an endpoint's answer is read.
const maxAnswer = 4 << 10

// Headers of a webhook. The signature is HMAC-SHA256 with the channel's secret
// over the time, a dot and the body, in hex behind "sha256=". The receiver should
// refuse times that are minutes away: that keeps old messages from being sent to
// it again.
const (
	HeaderTime      = "X-Postern-Time" // seconds since 1970
	HeaderSignature = "X-Postern-Signature"
)

// sender goes the ways to the endpoints. A session serves one message: alerts
// are rare, and a connection that was idle for hours is not to be trusted.
type sender struct {
	hello   string
	roots   *x509.CertPool
	outside func(context.Context, Channel) error
}

func (s *sender) send(ctx context.Context, c Channel, secret string, m Message) error {
	switch c.Kind {
	case Email:
		return s.email(ctx, c, secret, m)
	case Webhook:
		return s.webhook(ctx, c, secret, m)
	case SMS:
		return s.sms(ctx, c, secret, m)
	}
	return kind.Errorf(kind.Invalid, "channel %s: kind %q is not known to this version", c.Name, c.Kind)
}

func (s *sender) tls(c Channel) *tls.Config {
	return &tls.Config{ServerName: c.host(), RootCAs: s.roots, MinVersion: tls.VersionTLS12, InsecureSkipVerify: c.TLS == TLSEncrypt}
}

// email gives the message to the named host. It counts as told when the host took
// it for anybody.
func (s *sender) email(ctx context.Context, c Channel, secret string, m Message) error {
	if err := s.outside(ctx, c); err != nil {
		return err
	}
	body, err := m.mail(c)
	if err != nil {
		return fmt.Errorf("write the message: %w", err)
	}
	o := smtpc.Options{Address: c.Address, Hello: s.hello, TLS: smtpc.TLSMust, Config: s.tls(c), User: c.User, Password: secret}
	if c.TLS == TLSNone {
		o.TLS, o.Config, o.User, o.Password = smtpc.TLSNever, nil, "", ""
	}
	t := c.Timeout
	o.Timeouts = smtpc.Timeouts{Connect: t, Greeting: t, Hello: t, Envelope: t, Data: t, Block: t, Dot: t, Short: time.Second, Overall: t}
	conn, err := smtpc.Dial(ctx, o)
	if err != nil {
		return tlsHint(c, err)
	}
	defer conn.Quit(ctx)
	e := mail.Envelope{From: c.From}
	for _, to := range c.To {
		e.Recipients = append(e.Recipients, mail.EnvelopeRecipient{Address: to})
	}
	sent, err := conn.Send(ctx, e, body, func() error { return nil })
	switch {
	case err != nil:
		return fmt.Errorf("mail to %s: %w", c.Address, err)
	case sent.Outcome == smtpc.Taken:
		return nil
	}
	return kind.Errorf(kind.Denied, "mail to %s: no receiver was accepted: %s", c.Address, sent.Recipients[0].Reply)
}

// tlsHint names the way out where a mail host and the channel do not agree on
// TLS.
func tlsHint(c Channel, err error) error {
	wrapped := kind.Errorf(kind.Of(err), "mail to %s: %w", c.Address, err)
	var f *smtpc.Failure
	if !errors.As(err, &f) || c.TLS == TLSNone {
		return wrapped
	}
	set := "postern notify channel set " + c.Name + " --tls "
	switch {
	case f.Stage == smtpc.StageSTARTTLS:
		return kind.WithHint(wrapped, "if the mail goes a way that nobody else can read, "+set+"none sends it in clear")
	case f.Stage == smtpc.StageTLS && c.TLS == TLSVerify:
		return kind.WithHint(wrapped, "if the host is right and only its certificate is not, "+set+"encrypt takes any")
	}
	return wrapped
}

// webhook posts the message as JSON.
func (s *sender) webhook(ctx context.Context, c Channel, secret string, m Message) error {
	body, err := json.Marshal(m.payload())
	if err != nil {
		return fmt.Errorf("write the message: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Address, bytes.NewReader(body))
	if err != nil {
		return bad("channel %s: %w", c.Name, err)
	}
	req.Header.Set("Content-Type", "application/json")
	if secret != "" {
		now := strconv.FormatInt(m.Time.Unix(), 10)
		req.Header.Set(HeaderTime, now)
		req.Header.Set(HeaderSignature, Sign(secret, now, body))
	}
	return s.post(c, req)
}

// Sign makes the signature of a webhook's body.
func Sign(secret, at string, body []byte) string {
	h := hmac.New(sha256.New, []byte(secret))
	h.Write([]byte(at + "."))
	h.Write(body)
	return "sha256=" + hex.EncodeToString(h.Sum(nil))
}

// sms posts a form for each receiver. It counts as told when the gateway took one.
func (s *sender) sms(ctx context.Context, c Channel, secret string, m Message) error {
	var errs []error
	for _, to := range c.To {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.Address, strings.NewReader(c.form(to, secret, m)))
		if err != nil {
			return bad("channel %s: %w", c.Name, err)
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		if err := s.post(c, req); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", to, err))
		}
	}
	if len(errs) == len(c.To) {
		return errors.Join(errs...)
	}
	return nil
}

// form fills the fields of an SMS channel.
func (c Channel) form(to, secret string, m Message) string {
	fill := strings.NewReplacer("{to}", to, "{from}", c.From, "{user}", c.User, "{secret}", secret, "{text}", m.Short())
	v := url.Values{}
	for _, f := range c.Form {
		name, value, _ := strings.Cut(f, "=")
		v.Add(name, fill.Replace(value))
	}
	return v.Encode()
}

// post sends a request. Anything but 2xx is a failure, a redirect too: where a
// message goes is said by an administrator, not by whoever answers.
func (s *sender) post(c Channel, req *http.Request) error {
	tr := &http.Transport{TLSClientConfig: s.tls(c), DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10,
		DialContext: (&net.Dialer{Timeout: c.Timeout}).DialContext, TLSHandshakeTimeout: c.Timeout, ForceAttemptHTTP2: true}
	defer tr.CloseIdleConnections()
	req.Header.Set("User-Agent", "Postern")
	client := &http.Client{Transport: tr, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the URL may hold a key
		}
		return fmt.Errorf("post to %s: %w", c.host(), err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	switch {
	case resp.StatusCode >= 300 && resp.StatusCode < 400:
		return kind.WithHint(kind.Errorf(kind.Denied, "post to %s: it answers %s; redirects are not followed", c.host(), resp.Status), "set the channel's address to where it leads")
	case resp.StatusCode < 200 || resp.StatusCode > 299:
		why := strings.TrimSpace(clip(string(answer), 200))
		if why != "" {
			why = ": " + why
		}
		return kind.Errorf(kind.Denied, "post to %s: it answers %s%s", c.host(), resp.Status, why)
	case err != nil:
		return fmt.Errorf("post to %s: its answer breaks off: %w", c.host(), err)
	}
	return nil
}

// outside refuses a mail server of the group; see Channel.outside.
func (n *Notifier) outside(ctx context.Context, c Channel) error {
	if n.cfg.Local {
		return nil
	}
	var own []string
	if n.d.Own != nil {
		own = n.d.Own()
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", c.host())
	if err != nil {
		return fmt.Errorf("channel %s: look up %s: %w", c.Name, c.host(), err)
	}
	for i := range ips {
		ips[i] = ips[i].Unmap()
	}
	return c.outside(ips, own)
}
