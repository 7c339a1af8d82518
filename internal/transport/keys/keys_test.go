package keys

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/sign"
)

// world is a group with its key, and a DNS that has what a test puts there.
type world struct {
	*settings.Memory
	*Keys
	events *event.Log

	mu   sync.Mutex // guards all below
	txt  map[string][]string
	down bool
	asks int
	now  time.Time
}

func newWorld() *world {
	w := &world{Memory: settings.NewMemory(), events: event.NewLog(slog.New(slog.DiscardHandler)), txt: map[string][]string{}, now: noon}
	w.Keys = New(Deps{Group: w.Memory, Book: settings.New(w.Memory, nil), Resolver: w, Events: w.events, Now: w.clock})
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func (w *world) publish(keys ...settings.DKIMKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range keys {
		w.txt[RecordName(k)] = []string{"something else", k.Public}
	}
}

func (w *world) TXT(_ context.Context, name string) ([]string, dns.Info, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asks++
	if w.down {
		return nil, dns.Info{}, kind.Errorf(kind.Busy, "no answer")
	}
	if t, ok := w.txt[name]; ok {
		return t, dns.Info{}, nil
	}
	return nil, dns.Info{}, kind.Errorf(kind.NotFound, "no such name")
}

func (w *world) selectors(domain string) string {
	var out []string
	for _, k := range w.Signers(domain) {
		out = append(out, k.Selector)
	}
	return strings.Join(out, " ")
}

const message = "From: a@a.example\r\nTo: b@b.example\r\nSubject: hello\r\nDate: Sun, 01 Mar 2026 12:00:00 +0000\r\nMessage-ID: <1@a.example>\r\n\r\nhello\r\n"

func TestLifeOfAKey(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	first, err := w.Create(ctx, "a.example", "")
	if err != nil || len(first) != 2 || first[0].Selector != "p20260301r" || first[1].Selector != "p20260301e" {
		t.Fatalf("%+v, %v", first, err)
	}
	w.Turn(ctx)
	if got := w.selectors("a.example"); got != "" {
		t.Fatalf("%s signs before its record is there", got)
	}
	w.publish(first...)
	w.Turn(ctx)
	w.pass(59 * time.Minute)
	w.Turn(ctx)
	if got := w.selectors("a.example"); got != "" {
		t.Fatalf("%s signs too early", got)
	}
	w.pass(time.Minute)
	w.Turn(ctx)
	if got := w.selectors("a.example"); got != "p20260301e p20260301r" {
		t.Fatalf("%q signs", got)
	}
	head, err := sign.Sign([]byte(message), w.Signers("a.example"), sign.SignOptions{Now: w.clock()})
	if err != nil {
		t.Fatal(err)
	}
	txt := func(ctx context.Context, name string) ([]string, error) {
		s, _, err := w.TXT(ctx, name)
		return s[1:], err
	}
	got, _ := sign.VerifyAll(ctx, append(head, message...), txt, sign.VerifyOptions{Now: w.clock()})
	if len(got) != 2 || got[0].Result != sign.Pass || got[1].Result != sign.Pass {
		t.Fatalf("%+v", got)
	}

	second, err := w.Rotate(ctx, "a.example")
	if err != nil || len(second) != 2 {
		t.Fatal(second, err)
	}
	if _, err := w.Rotate(ctx, "a.example"); !kind.Is(err, kind.Conflict) {
		t.Error(err)
	}
	w.publish(second...)
	w.down = true // nobody answers: the old ones go on
	w.Turn(ctx)
	w.pass(2 * time.Hour)
	w.Turn(ctx)
	if got := w.selectors("a.example"); got != "p20260301e p20260301r" {
		t.Errorf("%q signs", got)
	}
	w.down = false
	w.Turn(ctx)
	w.pass(2 * time.Hour)
	w.Turn(ctx)
	if got := w.selectors("a.example"); got != "p20260301e2 p20260301r2" {
		t.Errorf("%q signs", got)
	}
	w.pass(7 * 24 * time.Hour)
	w.Turn(ctx)
	if got := w.d.Book.Keys("a.example"); len(got) != 2 {
		t.Errorf("%d keys", len(got))
	}
	asked := w.asks
	w.Turn(ctx)
	if w.asks != asked {
		t.Error("DNS is asked about keys that wait for nothing")
	}
	if n := len(w.events.Recent(100)); n != 8 { // 4 begin, 2 stop, 2 go
		t.Errorf("%d events", n)
	}
}

func TestCreateRefuses(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	for range settings.MaxKeys {
		if _, err := w.Create(ctx, "a.example", "", Ed25519); err != nil {
			t.Fatal(err)
		}
	}
	for what, c := range map[string]struct {
		domain, selector string
		algorithms       []string
		want             kind.Kind
	}{
		"too many":           {"a.example", "", []string{Ed25519}, kind.Full},
		"another algorithm":  {"b.example", "", []string{"rsa-512"}, kind.Invalid},
		"one name for two":   {"b.example", "s", nil, kind.Invalid},
		"a path":             {"../x", "", []string{Ed25519}, kind.Invalid},
		"a selector of dots": {"b.example", "a/b", []string{Ed25519}, kind.Invalid},
	} {
		if _, err := w.Create(ctx, c.domain, c.selector, c.algorithms...); !kind.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := w.Create(ctx, "b.example", "s1", Ed25519); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Create(ctx, "b.example", "s1", Ed25519); !kind.Is(err, kind.Exists) {
		t.Error(err)
	}
	if _, err := w.Rotate(ctx, "c.example"); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	if err := w.Remove(ctx, "b.example", "s1"); err != nil || len(w.d.Book.Keys("b.example")) != 0 {
		t.Error(err)
	}
	if err := w.Remove(ctx, "b.example", "s1"); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
}

// A key that was moved to another domain, or sealed by another group, signs nothing.
func TestForeignKeysSignNothing(t *testing.T) {
	w := newWorld()
	made, err := w.Create(t.Context(), "a.example", "s1", Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	stolen := made[0]
	stolen.Domain, stolen.State = "b.example", settings.DKIMSigning
	var x settings.Txn
	if err := x.Put(settings.KeyOf("b.example", "s1"), 0, stolen); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(t.Context(), x.Txn); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := w.Signers("b.example"); len(got) != 0 {
			t.Fatalf("%+v", got)
		}
	}
	if n := len(w.events.Recent(10)); n != 1 {
		t.Errorf("said %d times", n)
	}
}

func TestSignersCostNothing(t *testing.T) {
	w := newWorld()
	made, err := w.Create(t.Context(), "a.example", "s1", Ed25519)
	if err != nil {
		t.Fatal(err)
	}
	w.publish(made...)
	w.Check(t.Context(), "a.example")
	w.pass(time.Hour)
	w.Check(t.Context(), "a.example")
	if len(w.Signers("a.example")) != 1 {
		t.Fatal("it does not sign")
	}
	// The key of the list in the book is the one allocation: a joined string.
	if n := testing.AllocsPerRun(100, func() { w.Signers("a.example") }); n > 1 {
		t.Errorf("%v allocations", n)
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.d.Now = time.Now
		made, err := w.Create(t.Context(), "a.example", "s1", Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		w.publish(made...)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		if len(w.Signers("a.example")) != 0 {
			t.Error("it signs at once")
		}
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		if len(w.Signers("a.example")) != 1 {
			t.Error("it does not sign")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// A key that was made is looked at soon, and signs after the time that is set.
func TestRunSoonAfterCreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.d.Now = time.Now
		var g settings.Group
		var x settings.Txn
		if err := g.Set("dkim_wait", "5m"); err != nil {
			t.Fatal(err)
		}
		if err := x.Put(settings.GroupKey, 0, g); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(t.Context(), x.Txn); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		time.Sleep(90 * time.Minute)
		made, err := w.Create(t.Context(), "a.example", "s1", Ed25519)
		if err != nil {
			t.Fatal(err)
		}
		w.publish(made...)
		for _, c := range []struct {
			wait time.Duration
			want int
		}{{4 * time.Minute, 0}, {9 * time.Minute, 1}} {
			time.Sleep(c.wait)
			synctest.Wait()
			if n := len(w.Signers("a.example")); n != c.want {
				t.Errorf("%d keys sign after %s, want %d", n, c.wait, c.want)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
