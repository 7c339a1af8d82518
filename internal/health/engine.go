package health

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/monitor"
	"github.com/postern-mail/postern/internal/health/probe"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// Engine is the room's part in the health worker: outside probes, monitors and
// responders. One goroutine owns the monitors; what waits for others (asking the
// Desk, a deed) has its own.
type Engine struct {
	cfg     Config
	deps    EngineDeps
	items   Items
	pace    pace
	sched   *probe.Scheduler
	gate    *respond.Gate // for what the Desk cannot do: its own restart
	journal *respond.Journal
	desk    deskClient
	began   time.Time

	outside chan Result          // from the scheduler
	readers map[string][]Monitor // of each probe, by Set\Name
	probes  map[string]Probe

	rulesMu sync.Mutex // guards rules, which the scheduler reads too
	rules   rules

	// The rest belongs to the turn.
	machines map[itemKey]*watched
	boot     uint64         // of the Desk
	booted   monitor.Moment // when that was ready first, as far as is known
	seen     map[sightKey]sighted
	events   []wireEvent
	deed     *deed   // under way
	tells    []order // escalations that wait
	telling  bool
	told     chan bool // what became of the one under way
	sending  bool
	sent     int       // events in the report under way
	arrived  chan bool // whether the report under way arrived
	reported time.Time
	saved    time.Time
	kept     []byte // the bookmarks in the file
	stalled  time.Time
	dirty    bool // something changed that the Desk should hear of at once
}

// itemKey names a monitor or probe, and what it looks at.
type itemKey struct{ set, probe, target string }

// watched is one monitor about one target.
type watched struct {
	key      itemKey
	monitor  Monitor
	machine  *monitor.Machine
	progress respond.Progress
	shown    org.HealthState
	since    time.Duration // shown since that moment
	held     bool          // disabled or in repair
}

type sightKey struct {
	server    org.ServerName
	component org.Component
}

type sighted struct {
	at   time.Time
	ok   bool
	text string
}

// deed is one that is under way.
type deed struct {
	key  itemKey
	step Responder
	done chan answer
}

// Limits of the Engine.
const (
	turnEvery    = time.Second
	saveEvery    = 10 * time.Second
	stalledAfter = 5 * time.Minute
	stalledEvery = 30 * time.Second
	maxMachines  = 4000
	maxOutside   = 256
	maxTold      = 100 // escalations that wait
	forgetAfter  = 24 * time.Hour
)

// NewEngine makes the Engine; nothing runs until Run. It goes on from its
// bookmarks, if there are any. Errors: Invalid where the items make no sense.
func NewEngine(cfg Config, deps EngineDeps) (*Engine, error) {
	e := &Engine{cfg: cfg, deps: deps, pace: paceOf(cfg), began: time.Now(), rules: cfg.rules(), desk: deskClient{deps.Desk}, outside: make(chan Result, maxOutside),
		machines: map[itemKey]*watched{}, seen: map[sightKey]sighted{}, told: make(chan bool, 1), arrived: make(chan bool, 1)}
	e.items = Join(builtIn(nil), deps.Items)
	if err := e.items.Check(); err != nil {
		return nil, err
	}
	e.items = hasten(e.items, cfg)
	e.readers, e.probes = map[string][]Monitor{}, map[string]Probe{}
	for _, m := range e.items.Monitors {
		e.readers[m.probe()] = append(e.readers[m.probe()], m)
	}
	for _, p := range e.items.Probes {
		e.probes[p.Set+`\`+p.Name] = p
	}
	var err error
	if e.journal, err = respond.OpenJournal(filepath.Join(deps.Dir, folder, "recovery-host.json")); err != nil {
		return nil, err
	}
	out := slices.DeleteFunc(slices.Clone(e.items.Probes), func(p Probe) bool { return p.Where != Outside })
	e.sched = probe.New(probe.Deps{Probes: out, Sink: e.take, Adjust: e.adjust, Log: deps.Log})
	e.gate = respond.NewGate(respond.GateDeps{Server: deps.Server, Actor: deps.Host, Clock: systemClock{}, Local: e.journal, Fast: cfg.Fast,
		Mode: e.modeFor, Held: e.recoveryHeld, Spare: func() respond.Spare { return respond.Spare{} }, Size: func() (int, int) { return 1, 0 },
		Second: func(org.Component) (string, bool) { return "the mail worker does not answer", false },
		Said:   func(r org.Recovery) { emitRecovery(deps.Events, r) }})
	e.restore()
	return e, nil
}

// Run runs the outside probes and judges until ctx ends.
func (e *Engine) Run(ctx context.Context) error {
	polled := make(chan polled, 1)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return e.sched.Run(ctx) })
	g.Go(func() error { e.poll(ctx, polled); return nil })
	g.Go(func() error { return e.loop(ctx, polled) })
	return g.Wait()
}

// take hands a result to the turn; while the turn is held up the oldest are lost.
func (e *Engine) take(r Result) {
	for {
		select {
		case e.outside <- r:
			return
		default:
		}
		select {
		case <-e.outside:
		default:
		}
	}
}

func (e *Engine) adjust(p Probe, target string) (Probe, bool) {
	e.rulesMu.Lock()
	defer e.rulesMu.Unlock()
	return e.rules.probe(p, target)
}

func (e *Engine) modeFor(set string) respond.Mode {
	e.rulesMu.Lock()
	defer e.rulesMu.Unlock()
	return e.rules.modeFor(set)
}

func (e *Engine) recoveryHeld() string {
	e.rulesMu.Lock()
	defer e.rulesMu.Unlock()
	return e.rules.Recovery
}

// now is the present moment.
func (e *Engine) now() monitor.Moment { return time.Since(e.began) }

// moment is that of a time which this process has read.
func (e *Engine) moment(t time.Time) monitor.Moment { return t.Sub(e.began) }

// polled is what one question to the Desk brought.
type polled struct {
	news news
	err  error
	at   time.Time
}

// poll asks the Desk for results, again and again.
func (e *Engine) poll(ctx context.Context, to chan<- polled) {
	t := time.NewTicker(turnEvery)
	defer t.Stop()
	var boot, after uint64
	for {
		p := polled{}
		p.news, p.err = e.desk.results(ctx, boot, after)
		p.at = time.Now()
		if ctx.Err() != nil {
			return
		}
		select {
		case to <- p:
			if p.err == nil {
				boot, after = p.news.Boot, p.news.Next
			}
		case <-ctx.Done():
			return
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// loop is the turn: results in, states, deeds and reports out.
func (e *Engine) loop(ctx context.Context, from <-chan polled) error {
	t := time.NewTicker(turnEvery)
	defer t.Stop()
	for {
		var done chan answer
		if e.deed != nil {
			done = e.deed.done
		}
		select {
		case p := <-from:
			e.heard(p)
		case r := <-e.outside:
			e.result(r, r.At)
		case a := <-done:
			e.acted(a)
		case ok := <-e.told:
			e.wasTold(ok)
		case ok := <-e.arrived:
			e.hasArrived(ok)
		case <-t.C:
			e.turn(ctx)
			e.tell(ctx)
			e.send(ctx)
			e.bookmark(false)
		case <-ctx.Done():
			e.leave()
			return nil
		}
	}
}

// leave waits for what is under way, whose context has ended, and saves the
// bookmarks.
func (e *Engine) leave() {
	if e.deed != nil {
		e.acted(<-e.deed.done)
	}
	if e.telling {
		e.wasTold(<-e.told)
	}
	if e.sending {
		e.hasArrived(<-e.arrived)
	}
	e.bookmark(true)
}

// heard takes what the Desk answered, or its silence.
func (e *Engine) heard(p polled) {
	if p.news.Targets == nil {
		p.news.Targets = map[string][]string{}
	}
	ready := e.deps.Ready == nil || e.deps.Ready()
	if ready {
		r := Result{Set: setWorker, Probe: probeSocket, Outcome: Passed, At: p.at}
		if p.err != nil {
			r.Outcome, r.Text = Failed, p.err.Error()
		}
		e.result(r, p.at)
	}
	if p.err != nil {
		return
	}
	if p.news.Boot != e.boot || !ready {
		e.boot, e.booted = p.news.Boot, e.now()
	}
	e.rulesMu.Lock()
	e.rules = p.news.Rules
	e.rulesMu.Unlock()
	for _, w := range p.news.Results {
		at := p.at.Add(-max(w.Age, 0))
		e.result(Result{Set: w.Set, Probe: w.Probe, Target: w.Target, Outcome: w.Outcome, Value: w.Value, Text: w.Text, At: at, Took: w.Took}, at)
	}
	e.forget(p.news.Targets)
}

// result gives a result to the monitors that read it.
func (e *Engine) result(r Result, at time.Time) {
	if r.Set == setUserPath {
		e.sight(r, at)
	}
	for _, m := range e.readers[r.Set+`\`+r.Probe] {
		w := e.watchedOf(m, r.Target)
		if w == nil {
			continue
		}
		d, _ := e.definition(w)
		text := r.Text
		if m.Whole && r.Target != "" {
			text = r.Target + ": " + text
		}
		w.machine.Take(d, monitor.Sample{At: e.moment(at), Outcome: r.Outcome, Value: r.Value, Target: r.Target, Text: text})
	}
}

// watchedOf finds or makes what is kept of a monitor about a target.
func (e *Engine) watchedOf(m Monitor, target string) *watched {
	if m.Whole {
		target = ""
	}
	k := itemKey{m.Set, m.Name, target}
	w := e.machines[k]
	if w == nil && len(e.machines) < maxMachines {
		w = &watched{key: k, monitor: m, machine: monitor.New(e.now()), shown: org.UnInitialized, since: e.now()}
		e.machines[k] = w
	}
	return w
}

// definition is what a monitor is now, with overrides, and whether it is on.
func (e *Engine) definition(w *watched) (monitor.Definition, bool) {
	e.rulesMu.Lock()
	defer e.rulesMu.Unlock()
	m, on := e.rules.monitor(w.monitor, w.key.target)
	d := monitor.Definition{Rule: m.Rule, Timeline: m.Timeline, Calm: calm / e.pace.stretch, Stretch: e.pace.stretch}
	if p := e.probes[m.probe()]; p.Kind != Notification {
		p, probed := e.rules.probe(p, w.key.target)
		d.Interval, on = p.Every, on && probed
	}
	return d, on
}

// bootGrace is how long after the mail worker was ready what is seen from outside
// says nothing of it: a look may have begun before.
const bootGrace = 2 * time.Second

// outdated tells whether all that a monitor has seen from outside was of a mail
// worker before the present one. No deed may follow from that.
func (e *Engine) outdated(w *watched) bool {
	return e.probes[w.monitor.probe()].Where == Outside && w.key.set != setWorker && w.machine.Heard() < e.booted+bootGrace
}

// calm is how long a monitor has to be green until what was is forgotten.
const calm = 10 * time.Minute

// sight keeps what was last seen of another server as a user; targets of the set
// UserPath are <server>/<component>.
func (e *Engine) sight(r Result, at time.Time) {
	server, component, ok := cutLast(r.Target)
	if !ok || len(e.seen) >= maxSights {
		return
	}
	e.seen[sightKey{org.ServerName(server), org.Component(component)}] = sighted{at: at, ok: r.Outcome == Passed, text: r.Text}
}

// forget drops monitors whose target is gone.
func (e *Engine) forget(targets map[string][]string) {
	for id, p := range e.probes {
		if p.Where == Outside && p.Targets != nil {
			targets[id] = probe.TargetsOf(p)
		}
	}
	for k, w := range e.machines {
		all, listed := targets[w.monitor.probe()]
		if listed && !w.monitor.Whole && !slices.Contains(all, k.target) {
			delete(e.machines, k)
			e.dirty = true
		}
	}
}

// order is the deed that a step asks for, with its evidence.
func (e *Engine) order(k itemKey, w *watched, r Responder) order {
	state, _ := w.machine.State()
	target := r.Target
	if target == "" {
		target = k.target
	}
	o := order{Action: r.Action, Target: target, Set: k.set, Monitor: monitorID(k), Responder: w.monitor.Chain.Name + "." + r.Name, State: state,
		Cause: w.machine.Why(), WantSecond: r.Second, Lossless: r.Lossless}
	if r.Action == Online {
		o.Cause = "healthy again"
	}
	for _, s := range e.items.Sets {
		if s.Name == k.set {
			o.Component = s.Component
		}
	}
	now := e.now()
	for _, s := range w.machine.Recent() {
		o.Evidence = append(o.Evidence, org.RecoveryEvidence{At: time.Now().Add(s.At - now).UTC(), Item: w.monitor.probe(), Target: s.Target,
			Result: s.Outcome.String(), Text: s.Text})
	}
	return o
}

func monitorID(k itemKey) string {
	if k.target == "" {
		return k.set + `\` + k.probe
	}
	return k.set + `\` + k.probe + `\` + k.target
}

// do has an order carried out: by the Desk, or, for the mail worker's restart
// while it does not answer, by the host.
func (e *Engine) do(ctx context.Context, o order) answer {
	if o.Action == RestartWorker && o.Target == MailWorker && o.Set == setWorker {
		row, err := e.gate.Do(ctx, o)
		return answerOf(row, err)
	}
	a, err := e.desk.act(ctx, o)
	if err != nil {
		return answer{Error: fmt.Sprintf("ask the mail worker: %v", err), Busy: kind.Is(err, kind.Busy)}
	}
	return a
}

func answerOf(row org.Recovery, err error) answer {
	a := answer{Row: row}
	if err != nil {
		a.Error, a.Busy = err.Error(), kind.Is(err, kind.Busy)
	}
	return a
}
