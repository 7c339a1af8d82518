package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/kind"
)

func controlPath(dir string) string { return filepath.Join(dir, "run", "lab.sock") }

// Order is what `postern lab <verb>` asks the running lab to do.
type Order struct {
	Verb     string `json:"verb"`
	Server   string `json:"server,omitempty"`   // of cut-site and heal-site: the site
	Volume   string `json:"volume,omitempty"`   // fill-disk
	Database string `json:"database,omitempty"` // corrupt
	Bytes    int    `json:"bytes,omitempty"`    // corrupt
	Wait     bool   `json:"wait,omitempty"`     // start: until it is ready
}

// Answer says what was done.
type Answer struct {
	Said  string `json:"said,omitempty"`
	Error string `json:"error,omitempty"`
}

// serveControl answers orders until ctx ends.
func (l *Lab) serveControl(ctx context.Context) error {
	lis, err := sock.Listen(ctx, controlPath(l.dir))
	if err != nil {
		return fmt.Errorf("lab control: %w", err)
	}
	srv := &http.Server{ReadHeaderTimeout: 5 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			var o Order
			if err := json.NewDecoder(io.LimitReader(r.Body, 1<<16)).Decode(&o); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			var a Answer
			said, err := l.obey(r.Context(), o)
			a.Said = said
			if err != nil {
				a.Error = err.Error()
			}
			// lab.json is true before the caller goes on.
			if err := l.writeFile(); err != nil && a.Error == "" {
				a.Error = err.Error()
			}
			_ = json.NewEncoder(w).Encode(a) // a caller that left does not want it
		})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(lis) }()
	select {
	case <-ctx.Done():
		srv.Close()
		<-done
		return nil
	case err := <-done:
		return fmt.Errorf("lab control: %w", err)
	}
}

// obey carries out one order.
func (l *Lab) obey(ctx context.Context, o Order) (string, error) {
	if o.Verb == "cut-site" || o.Verb == "heal-site" {
		return l.cutSite(ctx, o.Server, o.Verb == "cut-site")
	}
	p, err := l.find(o.Server)
	if err != nil {
		return "", err
	}
	name := p.plan.Name
	switch o.Verb {
	case "kill":
		if err := p.kill(); err != nil {
			return "", err
		}
		return name + " is dead: host and workers got SIGKILL; it comes back with: postern lab start " + name, nil
	case "pause":
		return name + " is stopped with SIGSTOP; it goes on with: postern lab resume " + name, p.signal(syscall.SIGSTOP)
	case "resume":
		return name + " goes on", p.signal(syscall.SIGCONT)
	case "start":
		if err := p.start(); err != nil {
			return "", err
		}
		if o.Wait {
			if err := p.waitReady(ctx); err != nil {
				return "", err
			}
			return name + " serves again", nil
		}
		return name + " was started", nil
	case "partition", "heal":
		return l.cutOff(ctx, name, o.Verb == "partition")
	case "fill-disk":
		return fillDisk(p.plan, l.spec, o.Volume)
	case "free-disk":
		return freeDisk(p.plan, l.spec, o.Volume)
	case "corrupt":
		return corrupt(p.plan, o.Database, o.Bytes)
	}
	return "", kind.Errorf(kind.Invalid, "no fault %q", o.Verb)
}

// cutSite cuts the servers of a site off from those of all others.
func (l *Lab) cutSite(ctx context.Context, site string, cut bool) (string, error) {
	if err := l.net.usable(); err != nil {
		return "", err
	}
	if !slices.ContainsFunc(l.plans, func(p ServerPlan) bool { return p.Site == site }) {
		return "", kind.Errorf(kind.NotFound, "no site %q in this lab", site)
	}
	l.mu.Lock()
	l.net.away[site] = cut
	err := l.net.apply(ctx)
	l.mu.Unlock()
	if err != nil {
		return "", err
	}
	if cut {
		return site + " is cut off from all other sites; heal with: postern lab heal-site " + site, nil
	}
	return site + " reaches the others again", nil
}

func (l *Lab) cutOff(ctx context.Context, name string, cut bool) (string, error) {
	if err := l.net.usable(); err != nil {
		return "", err
	}
	l.mu.Lock()
	l.net.cut[name] = cut
	err := l.net.apply(ctx)
	l.mu.Unlock()
	if err != nil {
		return "", err
	}
	if cut {
		return name + " is cut off from all other servers, its doors stay open; heal with: postern lab heal " + name, nil
	}
	return name + " reaches the others again", nil
}

// Do sends an order to the lab that runs in dir.
func Do(ctx context.Context, dir string, o Order) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("lab: %w", err)
	}
	body, err := json.Marshal(o)
	if err != nil {
		return "", fmt.Errorf("lab: %w", err)
	}
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return sock.Dial(ctx, controlPath(dir))
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://lab/order", bytes.NewReader(body))
	if err != nil {
		return "", fmt.Errorf("lab: %w", err)
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return "", kind.WithHint(fmt.Errorf("no lab runs in %s: %w", dir, err), "start one with: postern lab --dir "+dir)
	}
	defer res.Body.Close()
	var a Answer
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&a); err != nil {
		return "", fmt.Errorf("lab: %w", err)
	}
	if a.Error != "" {
		return a.Said, errors.New(a.Error)
	}
	return a.Said, nil
}
