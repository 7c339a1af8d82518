package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/health"
)

// RunHealth is the health worker: it tries the doors of this server and of the
// others as a client, judges what all probes saw and asks the mail worker, or the
// host, for what has to be done, until ctx ends.
func RunHealth(ctx context.Context, cfg Config, log *slog.Logger, link HostLink) error {
	// It may never cost what it is there to protect.
	runtime.GOMAXPROCS(1)
	debug.SetMemoryLimit(healthMemory)
	if err := unix.Setpriority(unix.PRIO_PROCESS, 0, healthNice); err != nil {
		log.Debug("priority of the health worker", "error", err)
	}
	name, err := cluster.ServerOf(cfg.clusterDir())
	if err != nil {
		return err
	}
	events := event.NewLog(log)
	defer forwardFrom(events, cfg.Dir)()
	client := deskClient(cfg.Dir)
	defer client.CloseIdleConnections()
	a := &atlas{desk: client}
	e, err := health.NewEngine(cfg.healthConfig(), health.EngineDeps{Server: name, Dir: cfg.Dir,
		Items: items(probed{}, cfg, a), Desk: client, Host: hostActor{link}, Ready: func() bool { return readyOnce(cfg) },
		Log: log, Events: events})
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	wg.Go(func() { a.follow(ctx) })
	if cfg.Faults.Enabled {
		wg.Go(func() { spinWhenTold(ctx, cfg.Dir) })
	}
	return e.Run(ctx)
}

// Limits of the health worker.
const (
	healthMemory = 256 << 20 // bytes, a soft limit
	healthNice   = 5
)

// hostActor does what is possible without the mail worker.
type hostActor struct{ link HostLink }

// Act implements health.Actor.
func (h hostActor) Act(_ context.Context, d health.Deed) (string, error) {
	if d.Action != health.RestartWorker {
		return "", kind.Errorf(kind.Invalid, "%s is not possible while the mail worker does not answer", d.Action)
	}
	if err := h.link.Order(d.Target); err != nil {
		return "", err
	}
	return "the host was asked to restart the " + d.Target + " worker", nil
}

func readyOnce(cfg Config) bool {
	s, err := ReadHostState(cfg.Dir)
	return err == nil && s.Ready
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
