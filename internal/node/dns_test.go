package node

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/access/dnsd"
	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/event"
)

// TestDNSRow reads what a server tells of itself from its configuration.
func TestDNSRow(t *testing.T) {
	c := DefaultConfig()
	c.Address = "10.0.0.1:7443"
	c.IMAP.TLS.Listen = []string{":993"}
	c.DNS.Listen = []string{":53"}
	if r := c.dnsRow(); len(r.Addresses) != 1 || r.Addresses[0].String() != "10.0.0.1" || r.Ports["_imaps"] != 993 || r.Ports["_imap"] != 0 || !r.DNS {
		t.Errorf("%+v", r)
	}
	c.DNS.Addresses = []string{"192.0.2.1", "2001:db8::1"}
	if r := c.dnsRow(); len(r.Addresses) != 2 {
		t.Errorf("%+v", r)
	}
}

// socketServer answers at a data folder's socket.
func socketServer(t *testing.T, dir string, mux *http.ServeMux) (stop func()) {
	t.Helper()
	l, err := sock.Listen(t.Context(), sock.Path(dir))
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l) // it ends by Close
	}()
	return func() { srv.Close(); <-done }
}

// TestDNSOfItsOwn asks a member's socket; when the member is silent for a minute all
// addresses are answered.
func TestDNSOfItsOwn(t *testing.T) {
	dir := t.TempDir()
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+dnsPath, func(rw http.ResponseWriter, _ *http.Request) {
		_ = json.NewEncoder(rw).Encode([]dnsd.Server{{Name: "MBX1", Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Good: map[dnsd.Service]bool{dnsd.IMAP: true}}})
	})
	stop := socketServer(t, dir, mux)
	a := &asker{path: sock.Path(dir)}
	list, err := a.ask(t.Context())
	if err != nil || len(list) != 1 || !list[0].Good[dnsd.IMAP] {
		t.Fatalf("%+v, %v", list, err)
	}
	a.last, a.heard = list, time.Now()
	if s := a.servers(); !s[0].Good[dnsd.IMAP] {
		t.Error("what was just heard does not count")
	}
	stop()
	if _, err := a.ask(t.Context()); err == nil {
		t.Error("a socket that is gone answers")
	}
	a.heard = time.Now().Add(-2 * dnsPatience)
	if s := a.servers(); len(s) != 1 || s[0].Good[dnsd.IMAP] || s[0].Why == "" {
		t.Errorf("after a minute: %+v", s)
	}
}

// TestEventsAreForwarded: what the host emits while the mail worker is down
// reaches the mail worker's log when it is back, once.
func TestEventsAreForwarded(t *testing.T) {
	dir := t.TempDir()
	quiet := slog.New(slog.DiscardHandler)
	host, worker := event.NewLog(quiet), event.NewLog(quiet)
	got := make(chan event.Event, 10)
	worker.Subscribe(func(e event.Event) { got <- e })
	stop := forwardFrom(host, dir)
	defer stop()
	host.Emit(EventWorkerDied, "mail worker ended")
	mux := http.NewServeMux()
	mux.Handle(forwardPath, forwarded(worker))
	defer socketServer(t, dir, mux)()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	host.Emit(EventWorkerStarted, "mail worker is process 7")
	for _, want := range []int{1004, 1002} {
		select {
		case e := <-got:
			if e.Code != want {
				t.Errorf("event %d, want %d", e.Code, want)
			}
		case <-ctx.Done():
			t.Fatal("nothing was forwarded")
		}
	}
	if n := len(worker.Recent(10)); n != 2 {
		t.Errorf("%d events", n)
	}
}

// TestForwardRefuses takes no nonsense at the socket.
func TestForwardRefuses(t *testing.T) {
	dir := t.TempDir()
	mux := http.NewServeMux()
	mux.Handle(forwardPath, forwarded(event.NewLog(slog.New(slog.DiscardHandler))))
	defer socketServer(t, dir, mux)()
	c, err := net.Dial("unix", filepath.Clean(sock.Path(dir)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("POST /events/forward HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\n{{{")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 64)
	n, err := c.Read(b)
	if err != nil || string(b[:12]) != "HTTP/1.1 400" {
		t.Errorf("answers %q, %v", b[:n], err)
	}
}
