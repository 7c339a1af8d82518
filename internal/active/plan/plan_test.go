package plan

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

	"github.com/postern-mail/postern/internal/active/plan/plantest"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// works is a kind whose steps write a wish and wait for the fact that follows.
type works struct {
	w *world
}

func (works) Name() string { return "works" }

func (k works) Step(_ org.Plan, s org.PlanStep) (Step, bool) {
	name := s.Name
	late, ok := map[string]Late{"one": Fail, "two": GoOn, "three": Fail, "four": Hold, "asks": Ask}[name]
	if !ok {
		return Step{}, false
	}
	st := Step{Late: late,
		Check: func(context.Context) Finding {
			if why := k.w.cannot(name); why != "" {
				return Finding{Stop: why}
			}
			_, done := k.w.state.View().Get("fact/" + name)
			return Finding{Done: done, Wait: "for the fact " + name}
		},
		Do: func(ctx context.Context, p *Pen) error {
			return p.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: "wish/" + name, Value: []byte(p.Plan.Owner)}}})
		},
		Undo: func(ctx context.Context, p *Pen) error {
			return p.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: "wish/" + name, Delete: true}}})
		}}
	if name == "three" {
		st.Undo = nil // as moves are
	}
	return st, true
}

// world is a group of servers that carry out plans and obey their wishes.
type world struct {
	t      *testing.T
	state  *plantest.State
	mu     sync.Mutex // guards the rest
	stops  map[string]string
	deaf   map[string]bool // wishes that nobody obeys
	told   []string
	cancel map[org.ServerName]context.CancelFunc
	wg     sync.WaitGroup
}

func (w *world) cannot(step string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stops[step]
}

func (w *world) set(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	f()
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, state: plantest.New(), stops: map[string]string{}, deaf: map[string]bool{}, cancel: map[org.ServerName]context.CancelFunc{}}
	w.state.Put(plantest.RoleKey, "A")
	w.state.Obey(func(s *plantest.State) {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, n := range []string{"one", "two", "three", "four", "asks"} {
			if s.Has("wish/"+n) && !w.deaf[n] {
				s.Set("fact/"+n, "x")
			} else {
				s.Drop("fact/" + n)
			}
		}
	})
	return w
}

func (w *world) engine(name org.ServerName) *Engine {
	return New(Deps{Group: w.state.Server(name), RoleKey: plantest.RoleKey, Primary: w.state.Primary, Log: slog.New(slog.DiscardHandler),
		Tell: func(p org.Plan, what string) {
			w.set(func() { w.told = append(w.told, fmt.Sprintf("%s: %s", name, what)) })
		}}, works{w})
}

func (w *world) run(names ...org.ServerName) {
	for _, n := range names {
		ctx, cancel := context.WithCancel(context.Background())
		w.set(func() { w.cancel[n] = cancel })
		e := w.engine(n)
		w.wg.Go(func() {
			if err := e.Run(ctx); err != nil {
				w.t.Error(err)
			}
		})
	}
}

func (w *world) stop() {
	for _, c := range w.cancel {
		c()
	}
	w.wg.Wait()
}

func steps(names ...string) []org.PlanStep {
	var out []org.PlanStep
	for _, n := range names {
		out = append(out, org.PlanStep{Name: n, Deadline: 10 * time.Second})
	}
	return out
}

// after lets time pass and returns the plan.
func (w *world) after(d time.Duration, id string) org.Plan {
	w.t.Helper()
	<-time.After(d)
	synctest.Wait()
	p, err := w.engine("Z").Get(id)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func states(p org.Plan) string {
	var out []string
	for _, s := range p.Steps {
		out = append(out, string(s.State))
	}
	return string(p.State) + ": " + strings.Join(out, " ")
}

// TestInterrupted has the server that carries a plan out die before and after
// each single write it makes, and once go on as if nothing was (a zombie), while
// another takes the role.
func TestInterrupted(t *testing.T) {
	for _, how := range []string{"before", "after", "zombie"} {
		points := 0
		for n := 1; ; n++ {
			reached := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				writes := 0
				w.state.Hook(func(by org.ServerName, done bool) bool {
					if by != "A" || done != (how == "after") {
						return by != "A" || how == "zombie" || writes < n
					}
					if writes++; writes < n {
						return true
					}
					if writes == n {
						reached = true
						w.state.Set(plantest.RoleKey, "B")
						if how != "zombie" {
							w.cancel["A"]()
						}
					}
					return how == "zombie"
				})
				w.run("A", "B")
				defer w.stop()
				p, err := w.engine("Z").Start(t.Context(), org.Plan{Kind: "works", Title: "test", Steps: steps("one", "two", "three")})
				if err != nil {
					t.Fatal(err)
				}
				p = w.after(30*time.Second, p.ID)
				if got := states(p); got != "Done: done done done" {
					t.Errorf("%s write %d: %s (%s)", how, n, got, p.Held)
				}
				if reached && p.Owner != "B" && p.Steps[2].Ended.IsZero() {
					t.Errorf("%s write %d: owner %s", how, n, p.Owner)
				}
			})
			if !reached {
				break
			}
			points++
		}
		t.Logf("%s: %d points", how, points)
		if points < 10 {
			t.Errorf("%s: only %d points", how, points)
		}
	}
}

// TestUndoInterrupted is the same while a plan is undone.
func TestUndoInterrupted(t *testing.T) {
	for _, how := range []string{"before", "after"} {
		points := 0
		for n := 1; ; n++ {
			reached := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.deaf["three"] = true
				writes := 0
				w.state.Hook(func(by org.ServerName, done bool) bool {
					if by != "A" || done != (how == "after") {
						return by != "A" || writes < n
					}
					if writes++; writes == n {
						reached = true
						w.state.Set(plantest.RoleKey, "B")
						w.cancel["A"]()
					}
					return writes < n
				})
				w.run("A", "B")
				defer w.stop()
				p, err := w.engine("Z").Start(t.Context(), org.Plan{Kind: "works", Steps: steps("one", "two", "three")})
				if err != nil {
					t.Fatal(err)
				}
				p = w.after(time.Minute, p.ID)
				if got := states(p); got != "Undone: undone undone failed" || !strings.Contains(p.Held, "three: not within 10s") {
					t.Errorf("%s write %d: %s (%s)", how, n, got, p.Held)
				}
				v := w.state.View()
				for _, k := range []string{"wish/one", "wish/two"} {
					if _, ok := v.Get(k); ok {
						t.Errorf("%s write %d: %s is left", how, n, k)
					}
				}
			})
			if !reached {
				break
			}
			points++
		}
		if points < 8 {
			t.Errorf("%s: only %d points", how, points)
		}
	}
}

// TestLate shows what becomes of plans whose steps do not come about.
func TestLate(t *testing.T) {
	for _, c := range []struct {
		name  string
		steps []string
		set   func(*world)
		want  string
		held  string
		free  bool // the reason ends
		then  string
	}{
		{name: "fails and is undone", steps: []string{"one", "three"}, set: func(w *world) { w.deaf["three"] = true },
			want: "Undone: undone failed", held: "three: not within 10s: for the fact three"},
		{name: "goes on without it", steps: []string{"one", "two", "three"}, set: func(w *world) { w.deaf["two"] = true }, want: "Done: done skipped done"},
		{name: "is held, and comes about", steps: []string{"four", "one"}, set: func(w *world) { w.deaf["four"] = true },
			want: "Held: running waiting", held: "four: not within 10s: for the fact four", free: true, then: "Done: done done"},
		{name: "cannot", steps: []string{"one", "three"}, set: func(w *world) { w.stops["three"] = "the moon" }, want: "Undone: undone failed", held: "three: the moon"},
		{name: "cannot now", steps: []string{"four", "one"}, set: func(w *world) { w.stops["four"] = "the moon" },
			want: "Held: waiting waiting", held: "four: the moon", free: true, then: "Done: done done"},
		{name: "asks", steps: []string{"asks", "one"}, set: func(w *world) { w.stops["asks"] = "the moon" },
			want: "Held: waiting waiting", held: "asks: the moon", free: true, then: "Held: waiting waiting"},
		{name: "unknown step", steps: []string{"one", "later"}, set: func(*world) {}, want: "Held: done waiting", held: "later: this version does not know the step later"},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				c.set(w)
				w.run("A")
				defer w.stop()
				p, err := w.engine("Z").Start(t.Context(), org.Plan{Kind: "works", Steps: steps(c.steps...)})
				if err != nil {
					t.Fatal(err)
				}
				if p = w.after(30*time.Second, p.ID); states(p) != c.want || p.Held != c.held {
					t.Errorf("%s (%s), want %s (%s)", states(p), p.Held, c.want, c.held)
				}
				if !c.free {
					return
				}
				w.set(func() { clear(w.deaf); clear(w.stops) })
				w.state.Server("Z").Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "other", Value: []byte("x")}}})
				if p = w.after(30*time.Second, p.ID); states(p) != c.then {
					t.Errorf("then %s (%s), want %s", states(p), p.Held, c.then)
				}
				if c.name != "asks" {
					return
				}
				if err := w.engine("Z").Resume(t.Context(), p.ID, "ann", false); err != nil {
					t.Fatal(err)
				}
				if p = w.after(30*time.Second, p.ID); states(p) != "Done: done done" {
					t.Errorf("resumed: %s (%s)", states(p), p.Held)
				}
			})
		})
	}
}

// TestOrders shows what people may do to plans, and two of them at once.
func TestOrders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.deaf["four"] = true
		w.run("A", "B")
		defer w.stop()
		e, ctx := w.engine("Z"), t.Context()
		var ids []string
		var errs []error
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 8 { // at once
			wg.Go(func() {
				p, err := w.engine("Z").Start(ctx, org.Plan{Kind: "works", Title: "by somebody", Steps: steps("one", "four", "two")})
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					errs = append(errs, err)
				} else {
					ids = append(ids, p.ID)
				}
			})
		}
		wg.Wait()
		if len(ids) != 1 || len(errs) != 7 {
			t.Fatalf("%d plans were started, %d refused", len(ids), len(errs))
		}
		for _, err := range errs {
			if !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), ids[0]) {
				t.Errorf("refused: %v", err)
			}
		}
		if err := e.Resume(ctx, ids[0], "ann", false); !kind.Is(err, kind.Conflict) {
			t.Errorf("resume of a plan that runs: %v", err)
		}
		if p := w.after(20*time.Second, ids[0]); p.State != org.PlanHeld {
			t.Fatal(states(p))
		}
		if err := e.Resume(ctx, ids[0], "ann", true); err != nil {
			t.Fatal(err)
		}
		if p := w.after(5*time.Second, ids[0]); states(p) != "Done: done skipped done" || !strings.Contains(p.Steps[1].Error, "left out by ann") {
			t.Error(states(p), p.Steps[1].Error)
		}
		p, err := e.Start(ctx, org.Plan{Kind: "works", Steps: steps("one", "four")})
		if err != nil {
			t.Fatal(err)
		}
		w.after(5*time.Second, p.ID)
		if err := e.Abort(ctx, p.ID, "bob"); err != nil {
			t.Fatal(err)
		}
		if p = w.after(5*time.Second, p.ID); states(p) != "Aborted: done undone" && states(p) != "Aborted: undone undone" {
			t.Error(states(p))
		}
		if err := e.Abort(ctx, p.ID, "bob"); !kind.Is(err, kind.Conflict) {
			t.Errorf("abort of a plan that ended: %v", err)
		}
		if err := e.Abort(ctx, "x", "bob"); !kind.Is(err, kind.NotFound) {
			t.Errorf("abort of no plan: %v", err)
		}
		if _, err := e.Start(ctx, org.Plan{Kind: "odd"}); !kind.Is(err, kind.Invalid) {
			t.Errorf("odd kind: %v", err)
		}
		for _, want := range []string{"A: begins", "A: is held at four: not within 10s: for the fact four", "A: is done", "A: is aborted by bob"} {
			if !slices.Contains(w.told, want) {
				t.Errorf("%q was not told: %q", want, w.told)
			}
		}
	})
}

// TestKept shows that ended plans are bounded and those of a newer version stay.
func TestKept(t *testing.T) {
	w := newWorld(t)
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for i := range kept + 20 {
		id := newID(at.Add(time.Duration(i) * time.Second))
		w.state.Put(Key(id), org.Plan{ID: id, Kind: "from the future", State: org.PlanDone, Created: at.Add(time.Duration(i) * time.Second)})
	}
	e := w.engine("A")
	if _, err := e.Start(t.Context(), org.Plan{Kind: "works"}); err != nil {
		t.Fatal(err)
	}
	if n := len(e.List()); n != kept {
		t.Errorf("%d plans, want %d", n, kept)
	}
	if e.List()[0].Kind != "works" {
		t.Error("the newest is not first")
	}
}

// TestAwait tells each step once.
func TestAwait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.run("A")
		defer w.stop()
		e := w.engine("Z")
		p, err := e.Start(t.Context(), org.Plan{Kind: "works", Steps: steps("one", "two")})
		if err != nil {
			t.Fatal(err)
		}
		var said []string
		p, err = e.Await(t.Context(), p.ID, func(l string) { said = append(said, l) })
		if err != nil || p.State != org.PlanDone || !slices.Contains(said, "one: done") || !slices.Contains(said, "two: done") {
			t.Error(p.State, err, said)
		}
		if _, err := e.Await(t.Context(), "x", nil); !kind.Is(err, kind.NotFound) {
			t.Error(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		w.set(func() { w.deaf["asks"] = true })
		p, _ = e.Start(t.Context(), org.Plan{Kind: "works", Steps: steps("asks")})
		if _, err := e.Await(ctx, p.ID, func(string) {}); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
}
