package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"

	"github.com/postern-mail/postern/test/rig"
)

// told is what a webhook got.
type told struct {
	Reason   string `json:"reason"`
	Server   string `json:"server"`
	Subject  string `json:"subject"`
	NoQuorum bool   `json:"no_quorum"`
	Alerts   []struct {
		ID       string `json:"id"`
		State    string `json:"state"`
		Sentence string `json:"sentence"`
	} `json:"alerts"`
}

// pager is an endpoint that keeps what it is told.
type pager struct {
	*httptest.Server
	mu  sync.Mutex // guards got
	got []told
}

func newPager(t *testing.T) *pager {
	p := &pager{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		var x told
		if err != nil || json.Unmarshal(b, &x) != nil || !strings.HasPrefix(r.Header.Get("X-Postern-Signature"), "sha256=") {
			http.Error(rw, "what?", http.StatusBadRequest)
			return
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.got = append(p.got, x)
	}))
	t.Cleanup(p.Close)
	return p
}

// hears waits for a message and returns it.
func (p *pager) hears(t *testing.T, patience time.Duration, what string, is func(told) bool) (found told) {
	t.Helper()
	eventually(t, patience, "somebody is told "+what, func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		i := slices.IndexFunc(p.got, is)
		if i < 0 {
			return fmt.Errorf("not among %d messages: %+v", len(p.got), p.got)
		}
		found = p.got[i]
		return nil
	})
	return found
}

// about tells whether a message holds an alert whose sentence has the words.
func about(words string) func(told) bool {
	return func(x told) bool {
		return slices.ContainsFunc(x.Alerts, func(a struct {
			ID       string `json:"id"`
			State    string `json:"state"`
			Sentence string `json:"sentence"`
		}) bool {
			return a.State == "open" && strings.Contains(a.Sentence, words)
		})
	}
}

// TestTellsPeople: the loss of a server is told through a webhook; the server that
// tells is killed and another goes on; without quorum the last one tells, and says
// so. Meanwhile a DNS door of its own leaves out who is gone.
func TestTellsPeople(t *testing.T) {
	t.Parallel()
	g := startLab(t, 18600, "--databases", "1", "--users", "1")
	p := newPager(t)
	secret := filepath.Join(t.TempDir(), "secret")
	must(t, os.WriteFile(secret, []byte("key\n"), 0o600))
	do := func(args ...string) { t.Helper(); must(t, g.command(t.Context(), nil, args...)) }
	do("notify", "channel", "add", "pager", "--kind", "webhook", "--address", p.URL, "--tls", "none", "--secret-file", secret)
	do("notify", "channel", "test", "pager")
	p.hears(t, 5*time.Second, "that it is a test", func(x told) bool { return x.Reason == "test" })
	do("notify", "rule", "add", "all", "--channels", "pager", "--repeat", "1h")
	names := startDNS(t, g)
	names(3)

	g.order("kill", "MBX3")
	first := p.hears(t, 30*time.Second, "that MBX3 is gone", about("MBX3"))
	names(2)
	var alerts []struct{ ID string }
	must(t, g.at("MBX1", &alerts, "alert", "ack", first.Alerts[0].ID, "--comment", "on it"))
	g.back("MBX3")
	names(3)

	g.order("kill", first.Server)
	second := p.hears(t, 60*time.Second, "by another that "+first.Server+" is gone", func(x told) bool {
		return x.Server != first.Server && about(first.Server)(x)
	})
	g.order("kill", second.Server)
	last := p.hears(t, 60*time.Second, "without quorum", func(x told) bool { return x.NoQuorum })
	if last.Server == first.Server || last.Server == second.Server {
		t.Errorf("%s tells, which is dead", last.Server)
	}
	g.order("start", first.Server)
	g.order("start", second.Server)
	g.inSync(time.Minute)
}

// startDNS runs `postern dns serve` beside MBX2 and returns a wait for a number of
// servers in its answers.
func startDNS(t *testing.T, g *group) func(want int) {
	t.Helper()
	const addr = "127.0.0.1:18599"
	config := filepath.Join(t.TempDir(), "dns.toml")
	must(t, os.WriteFile(config, []byte("[dns]\nlisten = [\""+addr+"\"]\nzone = \"mail.lab.example\"\n"), 0o600))
	cmd := exec.Command(postern.Exe, "dns", "serve", "--dir", filepath.Join(g.dir, "MBX2"), "--config", config)
	var out rig.Output
	cmd.Env, cmd.Stdout, cmd.Stderr = rig.CleanEnv(), &out, &out
	must(t, postern.start(cmd))
	done := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its words are in out
		close(done)
	}()
	t.Cleanup(func() {
		rig.Stop(cmd, done)
		if t.Failed() {
			t.Logf("dns serve said:\n%s", out.String())
		}
	})
	return func(want int) {
		t.Helper()
		began := time.Now()
		eventually(t, 30*time.Second, fmt.Sprintf("DNS answers with %d servers", want), func() error {
			q := new(dns.Msg)
			q.SetQuestion("_imaps._tcp.mail.lab.example.", dns.TypeSRV)
			m, _, err := (&dns.Client{Net: "tcp", Timeout: time.Second}).Exchange(q, addr)
			if err == nil && len(m.Answer) != want {
				err = errors.New(m.String())
			}
			return err
		})
		t.Logf("DNS answers with %d servers after %s", want, time.Since(began).Round(100*time.Millisecond))
	}
}
