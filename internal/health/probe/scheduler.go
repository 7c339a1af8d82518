package probe

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/monitor"
)

// Limits of a scheduler.
const (
	Limit     = 32 // runs at a time
	maxHung   = 64 // runs that have not come back; then none is started
	maxText   = 256
	maxTarget = 1000 // of one probe
	tick      = 500 * time.Millisecond
	grace     = 5 * time.Second // after the time-out, until a run counts as hung
	stopTime  = 3 * time.Second // for runs to obey their context at the end
)

// Deps are what a Scheduler is built from.
type Deps struct {
	Probes []Probe // those without Run are left alone
	// Sink takes each result, in order, from one goroutine; it must not block.
	Sink func(Result)
	// Adjust applies what overrides say to a probe about a target; false: it does
	// not run now. nil: as defined.
	Adjust func(p Probe, target string) (Probe, bool)
	Log    *slog.Logger
}

// Scheduler runs probes on their timers.
type Scheduler struct {
	deps Deps
	done chan ended

	mu   sync.Mutex // guards runs
	runs map[key]*run
}

type key struct{ set, name, target string }

func (k key) String() string {
	if k.target == "" {
		return k.set + `\` + k.name
	}
	return k.set + `\` + k.name + `\` + k.target
}

// run is one probe about one target.
type run struct {
	probe   Probe
	due     time.Time
	running bool
	begun   time.Time
	timeout time.Duration // of the run that goes on
	said    bool          // its result "timed out" was given
	hung    bool
	seen    bool // the target was listed in this turn
}

type ended struct {
	k      key
	result Result
}

// Hung is a run that has not come back.
type Hung struct {
	Item  string // Set\Name, with \Target
	Since time.Time
}

// New makes a scheduler; nothing runs yet.
func New(d Deps) *Scheduler {
	return &Scheduler{deps: d, runs: map[key]*run{}, done: make(chan ended, Limit+maxHung)}
}

// Run runs the probes until ctx ends.
func (s *Scheduler) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	t := time.NewTicker(tick)
	defer t.Stop()
	for {
		select {
		case e := <-s.done:
			s.finish(e, time.Now())
		case <-t.C:
			s.turn(ctx, time.Now())
		case <-ctx.Done():
			cancel()
			s.stop()
			return nil
		}
	}
}

// turn notices what takes too long and starts what is due.
func (s *Scheduler) turn(ctx context.Context, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list(now)
	busy, hung := 0, 0
	for k, r := range s.runs {
		if !r.running {
			continue
		}
		s.overdue(k, r, now)
		if r.hung {
			hung++
		} else {
			busy++
		}
	}
	for k, r := range s.runs {
		if r.running || now.Before(r.due) || busy >= Limit || hung >= maxHung {
			continue
		}
		p, on := s.adjust(r.probe, k.target)
		r.due = r.due.Add(p.Every)
		if r.due.Before(now) { // it waited, or the server slept: no run is made up for
			r.due = now.Add(p.Every)
		}
		if !on {
			continue
		}
		busy++
		r.running, r.begun, r.timeout, r.said, r.hung = true, now, p.Timeout, false, false
		go func() {
			s.done <- ended{k, once(ctx, p, k.target)}
		}()
	}
}

func (s *Scheduler) adjust(p Probe, target string) (Probe, bool) {
	if s.deps.Adjust == nil {
		return p, true
	}
	return s.deps.Adjust(p, target)
}

// list takes up new targets and forgets those that are gone.
func (s *Scheduler) list(now time.Time) {
	for _, r := range s.runs {
		r.seen = false
	}
	for _, p := range s.deps.Probes {
		if p.Run == nil || p.Kind == Notification {
			continue
		}
		for _, target := range TargetsOf(p) {
			k := key{p.Set, p.Name, target}
			r := s.runs[k]
			if r == nil {
				// Spread, so that the same probes about many targets do not all run at once.
				r = &run{probe: p, due: now.Add(spread(k, p.Every))}
				s.runs[k] = r
			}
			r.seen = true
		}
	}
	for k, r := range s.runs {
		if !r.seen && !r.running {
			delete(s.runs, k)
		}
	}
}

// TargetsOf lists the targets of a probe; one empty name where it has none of its own.
func TargetsOf(p Probe) []string {
	if p.Targets == nil {
		return []string{""}
	}
	all := p.Targets()
	return all[:min(len(all), maxTarget)]
}

func spread(k key, every time.Duration) time.Duration {
	h := fnv.New32a()
	h.Write([]byte(k.String()))
	return time.Duration(h.Sum32()) % max(every, 1)
}

// overdue says "timed out" of a run that has not come back in time, once.
func (s *Scheduler) overdue(k key, r *run, now time.Time) {
	late := now.Sub(r.begun) - r.timeout
	if late > 0 && !r.said && late > tick { // one that obeys its context says so itself
		r.said = true
		s.deps.Sink(Result{Set: k.set, Probe: k.name, Target: k.target, Outcome: monitor.TimedOut, At: now, Took: now.Sub(r.begun),
			Text: fmt.Sprintf("no answer within %v", r.timeout)})
	}
	if late > grace && !r.hung {
		r.hung = true
		s.deps.Log.Warn("a probe hangs; it is not started again until it comes back", "probe", k.String(), "since", r.begun)
	}
}

func (s *Scheduler) finish(e ended, now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.runs[e.k]
	if r == nil {
		return
	}
	if r.hung {
		s.deps.Log.Info("a probe that hung has come back", "probe", e.k.String(), "after", now.Sub(r.begun))
	}
	if !r.said && r.seen {
		s.deps.Sink(e.result)
	}
	r.running, r.hung, r.said = false, false, false
}

// stop waits for the runs that obey their context.
func (s *Scheduler) stop() {
	s.mu.Lock()
	left := 0
	for _, r := range s.runs {
		if r.running {
			left++
			r.said = true // to be told to stop in the middle says nothing
		}
	}
	s.mu.Unlock()
	t := time.NewTimer(stopTime)
	defer t.Stop()
	for ; left > 0; left-- {
		select {
		case e := <-s.done:
			s.finish(e, time.Now())
		case <-t.C:
			s.deps.Log.Warn("probes hang and are left behind", "probes", s.names())
			return
		}
	}
}

func (s *Scheduler) names() string {
	var all []string
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, r := range s.runs {
		if r.running {
			all = append(all, k.String())
		}
	}
	slices.Sort(all)
	return strings.Join(all, ", ")
}

// Hung lists the runs that have not come back, by name.
func (s *Scheduler) Hung() []Hung {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []Hung
	for k, r := range s.runs {
		if r.hung {
			out = append(out, Hung{k.String(), r.begun})
		}
	}
	slices.SortFunc(out, func(a, b Hung) int { return strings.Compare(a.Item, b.Item) })
	return out
}

// Once runs a probe by hand. It is not run while its last run hangs. Errors:
// Busy; whatever the probe finds is in the result.
func (s *Scheduler) Once(ctx context.Context, p Probe, target string) (Result, error) {
	k := key{p.Set, p.Name, target}
	s.mu.Lock()
	r := s.runs[k]
	hangs := r != nil && r.hung
	s.mu.Unlock()
	if hangs {
		return Result{}, kind.WithHint(kind.Errorf(kind.Busy, "probe %s hangs since %s", k, r.begun.UTC().Format(time.RFC3339)), "see postern health server --set Monitoring")
	}
	done := make(chan Result, 1)
	go func() { done <- once(ctx, p, target) }()
	t := time.NewTimer(p.Timeout + grace)
	defer t.Stop()
	select {
	case res := <-done:
		return res, nil
	case <-t.C:
		return Result{Set: p.Set, Probe: p.Name, Target: target, Outcome: monitor.TimedOut, At: time.Now(), Took: p.Timeout + grace,
			Text: "the probe does not come back"}, nil
	}
}

// once runs a probe within its time and makes its result. A panic is a failure.
func once(ctx context.Context, p Probe, target string) (res Result) {
	ctx, cancel := context.WithTimeout(ctx, p.Timeout)
	defer cancel()
	begun := time.Now()
	res = Result{Set: p.Set, Probe: p.Name, Target: target, Outcome: monitor.Failed}
	defer func() {
		if x := recover(); x != nil {
			res.Outcome, res.Text = monitor.Failed, bounded(fmt.Sprintf("the probe broke: %v", x))
		}
		res.At = time.Now()
		res.Took = res.At.Sub(begun)
	}()
	seen, err := p.Run(ctx, target)
	res.Value, res.Text = seen.Value, bounded(seen.Text)
	switch {
	case err == nil:
		res.Outcome = monitor.Passed
	case errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil:
		res.Outcome, res.Text = monitor.TimedOut, bounded(err.Error())
	default:
		res.Text = bounded(err.Error())
	}
	return res
}

// bounded keeps words short.
func bounded(s string) string {
	if len(s) <= maxText {
		return s
	}
	return strings.ToValidUTF8(s[:maxText-3], "") + "..."
}
