package report

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRun: a day is reported once, some time after it is over, and what cannot
// be sent is tried again for a day.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		start := time.Now()
		w.deps.Now = func() time.Time { return noon.Add(time.Since(start)) }
		w.r = New(w.deps)
		w.zone.txt["_dmarc.a.example"] = []string{"v=DMARC1; p=none; rua=mailto:r@a.example"}
		w.zone.txt["_dmarc.b.example"] = []string{"v=DMARC1; p=none; rua=mailto:r@b.example"}
		w.zone.fault["_dmarc.b.example"] = true
		w.zone.fault["_dmarc.c.example"] = true
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.r.Run(ctx) }()
		for _, d := range []string{"a.example", "b.example", "c.example"} {
			w.r.NoteDMARC(seen(d, record))
		}
		at := func(after time.Duration, want int) {
			t.Helper()
			time.Sleep(after - time.Since(start)) // in the bubble's time
			synctest.Wait()
			w.mu.Lock()
			defer w.mu.Unlock()
			if len(w.sent) != want {
				t.Errorf("after %v: %d sent, want %d", after, len(w.sent), want)
			}
		}
		at(12*time.Hour, 0)
		at(16*time.Hour+time.Minute, 1)
		w.zone.mu.Lock()
		w.zone.fault["_dmarc.b.example"] = false
		w.zone.mu.Unlock()
		at(17*time.Hour, 2)
		at(37*time.Hour, 2)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(w.r.done) != 0 {
			t.Error("a domain whose DNS never answers stays for ever")
		}
	})
}

// TestRestart (promises 4 and 5): counters go on after a restart, and a report
// that is sent again is the same.
func TestRestart(t *testing.T) {
	w := newWorld(t)
	w.zone.txt["_dmarc.example.com"] = []string{record}
	w.zone.txt["_smtp._tls.example.com"] = []string{"v=TLSRPTv1; rua=mailto:tls@example.com"}
	w.r.NoteDMARC(seen("example.com", record))
	someSessions(w)
	w.r.save()
	w.disk = w.disk.CrashImage(1)
	w.deps.FS = w.disk
	w.r = New(w.deps)
	w.r.NoteDMARC(seen("example.com", record))
	w.set(noon.Add(aDay))
	w.r.rotate(w.clock())
	w.r.save()
	first := w.reported()
	w.sent = nil
	w.r = New(w.deps) // the server died before it could say that it had reported
	second := w.reported()
	if len(first) != 2 || !slices.Equal(slices.Sorted(maps.Keys(first)), slices.Sorted(maps.Keys(second))) {
		t.Fatalf("first %d, then %d", len(first), len(second))
	}
	for to, a := range first {
		b := second[to]
		_, afile, adoc := opened(t, a.Body)
		_, bfile, bdoc := opened(t, b.Body)
		if a.Identity != b.Identity || afile != bfile || string(adoc) != string(bdoc) {
			t.Errorf("%s: another report: %s, %s", to, adoc, bdoc)
		}
	}
	_, _, doc := opened(t, first["rua@example.com"].Body)
	if n := feedbackOf(t, doc).Records[0].Count; n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
	w.r.save()
	if w.r = New(w.deps); len(w.r.done) != 0 {
		t.Error("what was reported is kept")
	}
	other := w.deps
	other.Server = "MBX2"
	if w.r.identity("dmarc", noon, "x") == New(other).identity("dmarc", noon, "x") {
		t.Error("two servers give one identity")
	}
}

// TestDamage (promise 5): a file that is not whole is none, and a full disk
// loses nothing that is in memory.
func TestDamage(t *testing.T) {
	w := newWorld(t)
	w.r.NoteDMARC(seen("example.com", record))
	w.r.save()
	if err := w.disk.Flip("q/"+stateFile, 80, 1); err != nil {
		t.Fatal(err)
	}
	if r := New(w.deps); !r.today.empty() {
		t.Error("a damaged file is believed")
	}
	w.r.NoteDMARC(seen("example.com", record))
	w.disk.FailNth(fsx.OpSync, 1, kind.Errorf(kind.Full, "no space"))
	w.r.save()
	if w.r.today.empty() {
		t.Error("the counters are gone")
	}
}

// TestQueueFull: reports wait for the queue.
func TestQueueFull(t *testing.T) {
	w := newWorld(t)
	w.zone.txt["_dmarc.example.com"] = []string{record}
	w.r.NoteDMARC(seen("example.com", record))
	w.full = true
	if all := w.reported(); len(all) != 0 || len(w.r.done) != 1 {
		t.Fatalf("%d sent, %d days wait", len(all), len(w.r.done))
	}
	w.full = false
	w.r.send(t.Context(), w.clock())
	if len(w.sent) != 1 || len(w.r.done) != 0 {
		t.Errorf("%d sent, %d days wait", len(w.sent), len(w.r.done))
	}
}

// FuzzState reads the file; what it gives can be written again.
func FuzzState(f *testing.F) {
	t := newTally(dayOf(noon))
	t.addDMARC(t.domainDMARC("example.com"), dmarcRow{From: "example.com", Disposition: "none"}, 3)
	p := t.policyTLS("example.com", "sts")
	t.addTLS(p, tlsFailure{Result: "certificate-expired"}, 2)
	b, err := encode([]savedDay{t.saved()})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b[len(magic)+9:])
	f.Fuzz(func(t *testing.T, in []byte) {
		sum := fmt.Appendf(nil, "%s%08x\n", magic, checksum(in))
		days, err := decode(append(sum, in...))
		if err != nil {
			return
		}
		for _, d := range days {
			if d.rows > maxRows || d.bytes > maxBytes || len(d.dmarc) > maxDomains || len(d.tls) > maxDomains {
				t.Errorf("beyond the limits: %d rows, %d bytes", d.rows, d.bytes)
			}
			if _, err := encode([]savedDay{d.saved()}); err != nil {
				t.Error(err)
			}
		}
	})
}
