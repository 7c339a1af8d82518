package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/event"
)

// Pace of the health worker.
const (
	probeEvery   = 5 * time.Second
	probeTimeout = 5 * time.Second
)

// probe tries one door as a user would; nil is well.
type probe struct {
	name string
	try  func(context.Context) error
}

// prober runs probes in turn and tells of changes only.
type prober struct {
	probes []probe
	events *event.Log
	down   map[string]time.Time // since when a door does not answer
}

// RunHealth is the health worker: it tries the doors of the server until ctx
// ends. It starts to judge once all doors were open, so that a start is no alarm.
func RunHealth(ctx context.Context, cfg Config, log *slog.Logger) error {
	p := &prober{probes: probesOf(cfg), events: event.NewLog(log), down: map[string]time.Time{}}
	defer forwardFrom(p.events, cfg.Dir)()
	t := time.NewTicker(probeEvery)
	defer t.Stop()
	seen := false
	for {
		if seen = seen || readyOnce(cfg); seen {
			p.turn(ctx, time.Now())
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

func readyOnce(cfg Config) bool {
	s, err := ReadHostState(cfg.Dir)
	return err == nil && s.Ready
}

// turn tries every door once and emits what changed.
func (p *prober) turn(ctx context.Context, now time.Time) {
	for _, x := range p.probes {
		ctx, cancel := context.WithTimeout(ctx, probeTimeout)
		err := x.try(ctx)
		stopped := ctx.Err() != nil && context.Cause(ctx) == context.Canceled
		cancel()
		if stopped {
			return // told to stop in the middle of a probe: that says nothing
		}
		since, was := p.down[x.name]
		switch {
		case err != nil && !was:
			p.down[x.name] = now
			p.events.Emit(EventDoorDown, "%s does not answer: %v", x.name, err)
		case err == nil && was:
			delete(p.down, x.name)
			p.events.Emit(EventDoorUp, "%s answers again after %s", x.name, now.Sub(since).Round(time.Second))
		}
	}
}

// probesOf lists the doors of a configuration.
func probesOf(c Config) []probe {
	var out []probe
	add := func(name string, addrs []string, try func(context.Context, string) error) {
		for _, a := range addrs {
			at := dialable(a)
			out = append(out, probe{name + " at " + a, func(ctx context.Context) error { return try(ctx, at) }})
		}
	}
	// A door behind a load balancer wants the PROXY protocol and is left to it.
	if len(c.SMTP.Receive.ProxyFrom) == 0 {
		add("SMTP", c.SMTP.Receive.Listen, greeting(plain(), "220 ", "QUIT\r\n"))
	}
	if len(c.SMTP.Submission.ProxyFrom) == 0 {
		add("submission", c.SMTP.Submission.Listen, greeting(plain(), "220 ", "QUIT\r\n"))
	}
	if len(c.IMAP.StartTLS.ProxyFrom) == 0 {
		add("IMAP", c.IMAP.StartTLS.Listen, greeting(plain(), "* OK", "x LOGOUT\r\n"))
	}
	if len(c.IMAP.TLS.ProxyFrom) == 0 {
		add("IMAP over TLS", c.IMAP.TLS.Listen, greeting(overTLS(), "* OK", "x LOGOUT\r\n"))
	}
	return append(out, probe{"admin socket", func(ctx context.Context) error { return healthz(ctx, sock.Path(c.Dir)) }})
}

// dialable is where a listener can be reached from this machine.
func dialable(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return listen
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	return net.JoinHostPort(host, port)
}

// dialer connects to a door.
type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

func plain() dialer { return (&net.Dialer{}).DialContext }

// overTLS does not judge the certificate: that it is there and answers is
// enough here.
func overTLS() dialer {
	return (&tls.Dialer{Config: &tls.Config{InsecureSkipVerify: true}}).DialContext
}

// greeting connects, wants a greeting that begins with want, and says goodbye.
func greeting(dial dialer, want, bye string) func(context.Context, string) error {
	return func(ctx context.Context, addr string) error {
		c, err := dial(ctx, "tcp", addr)
		if err != nil {
			return err
		}
		defer c.Close()
		if end, ok := ctx.Deadline(); ok {
			if err := c.SetDeadline(end); err != nil {
				return err
			}
		}
		line, err := bufio.NewReader(io.LimitReader(c, 4096)).ReadString('\n')
		if err != nil {
			return fmt.Errorf("no greeting: %w", err)
		}
		if !strings.HasPrefix(line, want) {
			return fmt.Errorf("greeting is %q", strings.TrimSpace(line))
		}
		_, err = io.WriteString(c, bye)
		return err
	}
}

// healthz asks the admin socket.
func healthz(ctx context.Context, path string) error {
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return sock.Dial(ctx, path)
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://postern/healthz", nil)
	if err != nil {
		return err
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("answers %s", res.Status)
	}
	return nil
}
