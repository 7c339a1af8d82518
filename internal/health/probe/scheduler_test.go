package probe

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/monitor"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// results collects what a scheduler says.
type results struct {
	mu  sync.Mutex // guards all
	all []Result
}

func (r *results) take(x Result) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, x)
}

// outcomes are the results about a target, in order.
func (r *results) outcomes(probe, target string) (out []monitor.Outcome) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, x := range r.all {
		if x.Probe == probe && x.Target == target {
			out = append(out, x.Outcome)
		}
	}
	return out
}

func recurrent(name string, run func(context.Context, string) (Reading, error)) Probe {
	return Probe{Set: "S", Name: name, Kind: Recurrent, Where: Inside, Every: 5 * time.Second, Timeout: 2 * time.Second, Run: run}
}

// start runs a scheduler in the test's bubble and returns what stops it.
func start(t *testing.T, probes ...Probe) (*Scheduler, *results, func()) {
	r := &results{}
	s := New(Deps{Probes: probes, Sink: r.take, Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	return s, r, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func pass(d time.Duration) {
	time.Sleep(d) // in a bubble: virtual
	synctest.Wait()
}

func TestOutcomes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, r, stop := start(t,
			recurrent("good", func(context.Context, string) (Reading, error) { return Reading{Value: 7, Text: "fine"}, nil }),
			recurrent("bad", func(context.Context, string) (Reading, error) {
				return Reading{}, errors.New(strings.Repeat("é", 500))
			}),
			recurrent("slow", func(ctx context.Context, _ string) (Reading, error) { <-ctx.Done(); return Reading{}, ctx.Err() }),
			recurrent("broken", func(context.Context, string) (Reading, error) { panic("oh") }),
			Probe{Set: "S", Name: "told", Kind: Notification})
		pass(time.Minute)
		stop()
		for name, want := range map[string]monitor.Outcome{"good": monitor.Passed, "bad": monitor.Failed, "slow": monitor.TimedOut, "broken": monitor.Failed} {
			got := r.outcomes(name, "")
			if len(got) < 10 || len(got) > 13 || slices.ContainsFunc(got, func(o monitor.Outcome) bool { return o != want }) {
				t.Errorf("%s: %v", name, got)
			}
		}
		if monitor.TimedOut != 1 || monitor.Passed != 3 || monitor.Failed != 4 {
			t.Error("these are the values that Exchange has")
		}
		for _, x := range r.all {
			if len(x.Text) > maxText || x.At.IsZero() || x.Probe == "good" && (x.Value != 7 || x.Text != "fine") || x.Probe == "slow" && x.Took < 2*time.Second {
				t.Errorf("%+v", x)
			}
		}
	})
}

// TestHungProbe is started once, says "timed out" once, and is listed; the others
// go on. When it comes back it runs again.
func TestHungProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free, runs := make(chan struct{}), 0
		hang := recurrent("hang", func(context.Context, string) (Reading, error) { runs++; <-free; return Reading{}, nil })
		s, r, stop := start(t, hang, recurrent("good", func(context.Context, string) (Reading, error) { return Reading{}, nil }))
		pass(10 * time.Minute)
		if got := r.outcomes("hang", ""); runs != 1 || !slices.Equal(got, []monitor.Outcome{monitor.TimedOut}) {
			t.Errorf("%d runs, %v", runs, got)
		}
		if h := s.Hung(); len(h) != 1 || h[0].Item != `S\hang` {
			t.Errorf("hung: %v", h)
		}
		if n := len(r.outcomes("good", "")); n < 115 {
			t.Errorf("the other probe ran %d times in ten minutes", n)
		}
		if _, err := s.Once(t.Context(), hang, ""); !kind.Is(err, kind.Busy) {
			t.Errorf("by hand, while it hangs: %v", err)
		}
		close(free)
		pass(time.Minute)
		if got := r.outcomes("hang", ""); len(got) < 10 || got[1] != monitor.Passed || len(s.Hung()) != 0 {
			t.Errorf("after it came back: %v, hung %v", got, s.Hung())
		}
		stop()
	})
}

// TestLimits: no more runs at a time than allowed, hung or not; what waits is not
// failed for it.
func TestLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		var mu sync.Mutex
		runs := 0
		p := recurrent("hang", func(context.Context, string) (Reading, error) {
			mu.Lock()
			runs++
			mu.Unlock()
			<-free
			return Reading{}, nil
		})
		p.Targets = func() (out []string) {
			for i := range 3 * maxTarget {
				out = append(out, fmt.Sprint(i))
			}
			return out
		}
		s, r, stop := start(t, p)
		pass(6 * time.Second)
		mu.Lock()
		if runs != Limit {
			t.Errorf("%d runs at a time", runs)
		}
		mu.Unlock()
		pass(10 * time.Minute)
		mu.Lock()
		if runs > Limit+maxHung || len(s.Hung()) > Limit+maxHung {
			t.Errorf("%d runs, %d hang", runs, len(s.Hung()))
		}
		mu.Unlock()
		r.mu.Lock()
		if len(r.all) != runs {
			t.Errorf("%d results of %d runs", len(r.all), runs)
		}
		r.mu.Unlock()
		stop()
		close(free)
		synctest.Wait()
	})
}

func TestTargetsComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now := []string{"DB01", "DB02"}
		p := recurrent("read", func(context.Context, string) (Reading, error) { return Reading{}, nil })
		p.Targets = func() []string { mu.Lock(); defer mu.Unlock(); return now }
		_, r, stop := start(t, p)
		pass(20 * time.Second)
		mu.Lock()
		now = []string{"DB02", "DB03"}
		mu.Unlock()
		pass(time.Second)
		before := len(r.outcomes("read", "DB01"))
		pass(20 * time.Second)
		stop()
		if after := len(r.outcomes("read", "DB01")); before < 3 || after != before || len(r.outcomes("read", "DB03")) < 3 {
			t.Errorf("DB01 %d, then %d; DB03 %d", before, after, len(r.outcomes("read", "DB03")))
		}
	})
}

// TestStopSaysNothing: a run in the middle of which the scheduler stops is no result.
func TestStopSaysNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := recurrent("slow", func(ctx context.Context, _ string) (Reading, error) { <-ctx.Done(); return Reading{}, ctx.Err() })
		p.Timeout = time.Hour
		_, r, stop := start(t, p)
		pass(time.Minute)
		stop()
		if len(r.all) != 0 {
			t.Errorf("%+v", r.all)
		}
	})
}

func TestOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		s, _, stop := start(t)
		defer stop()
		res, err := s.Once(t.Context(), recurrent("x", func(context.Context, string) (Reading, error) { return Reading{Value: 3}, nil }), "DB01")
		if err != nil || res.Outcome != monitor.Passed || res.Value != 3 || res.Target != "DB01" {
			t.Errorf("%+v, %v", res, err)
		}
		res, err = s.Once(t.Context(), recurrent("y", func(context.Context, string) (Reading, error) { <-free; return Reading{}, nil }), "")
		if err != nil || res.Outcome != monitor.TimedOut {
			t.Errorf("one that does not come back: %+v, %v", res, err)
		}
		close(free)
		synctest.Wait()
	})
}

func TestOverrideOfAProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &results{}
		p := recurrent("x", func(context.Context, string) (Reading, error) { return Reading{}, nil })
		p.Targets = func() []string { return []string{"on", "off", "often"} }
		s := New(Deps{Probes: []Probe{p}, Sink: r.take, Log: slog.New(slog.DiscardHandler), Adjust: func(p Probe, target string) (Probe, bool) {
			if target == "often" {
				p.Every = time.Second
			}
			return p, target != "off"
		}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx) }()
		pass(time.Minute)
		cancel()
		<-done
		if on, off, often := len(r.outcomes("x", "on")), len(r.outcomes("x", "off")), len(r.outcomes("x", "often")); on < 10 || on > 13 || off != 0 || often < 50 {
			t.Errorf("%d, %d, %d results", on, off, often)
		}
	})
}
