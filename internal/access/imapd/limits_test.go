package imapd

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/prometheus/client_golang/prometheus"
)

// eventually waits for a condition.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	deadline := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal("not reached: " + what)
		}
	}
}

func TestCutAppendStoresNothing(t *testing.T) {
	w := newWorld(t, nil)
	for _, cut := range []string{"APPEND INBOX {100+}\r\nA: b", "APPEND INBOX {4+}\r\nA: b", "APPEND INBOX {400000+}\r\n" + strings.Repeat("x", 300000)} {
		c := w.login()
		c.send("a %s", cut)
		c.conn.Close()
	}
	eventually(t, "all appends ended", func() bool {
		w.srv.mu.Lock()
		defer w.srv.mu.Unlock()
		return len(w.srv.conns) == 0
	})
	if n := w.store.calls["append"]; n != 0 {
		t.Errorf("%d appends reached the store", n)
	}
	if !w.srv.appendMemory.TryAcquire(w.srv.cfg.AppendMemory) {
		t.Error("append memory was not given back")
	}
}

func TestConnectionLimits(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.MaxConnections, c.MaxConnectionsPerAddress, c.MaxSessionsPerAccount = 4, 3, 1 })
	a := w.login()
	b := w.tls()
	b.line()
	if _, s := b.do("LOGIN ann secret"); !strings.HasPrefix(s, "NO [LIMIT]") {
		t.Error(s)
	}
	w.plain().line()
	w.plain().eof() // the fourth of this address
	b.ok("LOGOUT")
	a.ok("LOGOUT")
	eventually(t, "a place for ann", func() bool {
		w.srv.mu.Lock()
		defer w.srv.mu.Unlock()
		return len(w.srv.sessions) == 0 && len(w.srv.conns) == 1
	})
	w.login()
}

func TestSlowLogin(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.PreAuthTimeout = conf.Duration(50 * time.Millisecond) })
	c := w.plain()
	c.line()
	c.send("a NOO")
	if got := c.eof(); got != "* BYE Too slow or idle for too long" {
		t.Error(got)
	}
	silent := w.tlsRaw() // never shakes hands
	if got := silent.eof(); got != "" {
		t.Error(got)
	}
}

// tlsRaw connects to the TLS door without speaking TLS.
func (w *world) tlsRaw() *client {
	c, err := net.Dial("tcp", w.srv.Addrs("tls")[0].String())
	return w.client(c, err)
}

func TestIdleTimeout(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.IdleTimeout = conf.Duration(200 * time.Millisecond) })
	c := w.selected()
	if got := c.eof(); got != "* BYE Too slow or idle for too long" {
		t.Error(got)
	}
	c = w.selected()
	c.send("i IDLE\r\n")
	if got := c.eof(); got != "+ idling\n* BYE Too slow or idle for too long" {
		t.Error(got)
	}
}

// TestReaderThatNeverReads: output is bounded by what the kernel takes, then the
// client is dropped (faults.md B49).
func TestReaderThatNeverReads(t *testing.T) {
	w := newWorld(t, func(c *Config) { c.WriteTimeout = conf.Duration(100 * time.Millisecond) })
	w.append("INBOX", "Subject: x\n\n"+strings.Repeat("0123456789\n", 200_000))
	c := w.selected()
	for range 50 {
		c.send("a FETCH 1 BODY.PEEK[]\r\n")
	}
	eventually(t, "the client is dropped", func() bool {
		w.srv.mu.Lock()
		defer w.srv.mu.Unlock()
		return len(w.srv.conns) == 0
	})
	w.selected() // others are served
}

// TestPipelinedCommands answers what came in one packet in order.
func TestPipelinedCommands(t *testing.T) {
	w := newWorld(t, nil)
	w.append("INBOX", hello)
	c := w.login()
	c.send("a SELECT INBOX\r\nb UID FETCH 1 FLAGS\r\nc STORE 1 FLAGS.SILENT (\\Seen)\r\nd LOGOUT\r\n")
	got := c.eof()
	for _, want := range []string{"a OK [READ-WRITE]", "* 1 FETCH (UID 1 FLAGS ())\nb OK", "c OK", "* BYE Logging out\nd OK"} {
		if !strings.Contains(got, want) {
			t.Errorf("%q is missing in\n%s", want, got)
		}
	}
}

func TestQuota(t *testing.T) {
	w := newWorld(t, nil)
	if err := w.store.Setup(t.Context(), w.ann, mail.MailboxSetup{QuotaBytes: 3}); err != nil {
		t.Fatal(err)
	}
	w.login().want("APPEND INBOX {4+}\r\nA: b", "NO [OVERQUOTA]")
}

func TestConfig(t *testing.T) {
	if err := (Config{}).Validate(); err != nil {
		t.Error("an empty file:", err)
	}
	for want, c := range map[string]Config{
		"starttls.listen":     {StartTLS: Door{Listen: []string{"143"}}},
		"tls.proxy_from":      {TLS: Door{ProxyFrom: []string{"balancer"}}},
		"append_memory":       {MaxMessageBytes: 1 << 30, AppendMemory: 1 << 20},
		"max_message_bytes":   {MaxMessageBytes: 1 << 32, AppendMemory: 1 << 33},
		"max_connections":     {MaxConnections: -1},
		"without TLS":         {TLS: Door{Listen: []string{"127.0.0.1:0"}}},
		"idle_timeout: must ": {IdleTimeout: -1},
	} {
		if _, err := New(c, Deps{Store: newMemStore(), Directory: memDirectory{}}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q, got %v", want, err)
		}
	}
}

func TestMetrics(t *testing.T) {
	r := prometheus.NewRegistry()
	if _, err := New(Config{}, Deps{Metrics: r}); err != nil {
		t.Fatal(err)
	}
	if all, err := r.Gather(); err != nil || len(all) == 0 {
		t.Error(len(all), err)
	}
}
