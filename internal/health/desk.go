package health

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/probe"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// Desk is the room's part in the mail worker: it runs the inside probes, keeps
// results, does deeds, and publishes how the server is.
type Desk struct {
	cfg     Config
	deps    DeskDeps
	items   Items
	pace    pace
	sched   *probe.Scheduler
	gate    *respond.Gate
	journal *respond.Journal
	results *ring
	figures *figures
	watch   *observer
	began   time.Time
	// stopping is closed when Run is told to end.
	stopping chan struct{}

	mu       sync.Mutex // guards the rest
	rules    rules
	report   report
	reported time.Time // zero: never
	silent   bool
	last     org.ServerHealth
}

// pace are the room's own times.
type pace struct {
	report  time.Duration // between two reports of the Engine, and two publications
	silence time.Duration // until the Engine counts as silent
	first   time.Duration // for its first report
	fresh   time.Duration // how old a second opinion may be
	remote  time.Duration // until another server's health counts as silent
	stretch time.Duration // what times of chains and ladders are divided by
}

func paceOf(c Config) pace {
	p := pace{report: 5 * time.Second, silence: 30 * time.Second, first: time.Minute, fresh: 90 * time.Second, remote: 15 * time.Second, stretch: 1}
	if c.Fast {
		p = pace{report: time.Second, silence: 6 * time.Second, first: 20 * time.Second, fresh: 15 * time.Second, remote: 6 * time.Second, stretch: 10}
	}
	return p
}

// systemClock is the Clock of a Desk that got none.
type systemClock struct{}

func (systemClock) Now() time.Time          { return time.Now() }
func (systemClock) Trusted() (bool, string) { return true, "" }

// NewDesk makes the Desk; nothing runs until Run. Errors: Invalid where the
// items make no sense.
func NewDesk(cfg Config, deps DeskDeps) (*Desk, error) {
	if deps.Clock == nil {
		deps.Clock = systemClock{}
	}
	if deps.Notes == nil {
		deps.Notes = NewNotes(deps.Log, cfg.Fast)
	}
	d := &Desk{cfg: cfg, deps: deps, pace: paceOf(cfg), began: time.Now(), stopping: make(chan struct{})}
	d.items = Join(builtIn(d.hungProbes), deps.Items)
	if err := d.items.Check(); err != nil {
		return nil, err
	}
	d.items = hasten(d.items, cfg)
	var boot [8]byte
	rand.Read(boot[:]) // never fails (crypto/rand)
	d.results = newRing(binary.LittleEndian.Uint64(boot[:]))
	var err error
	if d.journal, err = respond.OpenJournal(filepath.Join(deps.Dir, folder, "recovery.json")); err != nil {
		return nil, err
	}
	inside := slices.DeleteFunc(slices.Clone(d.items.Probes), func(p Probe) bool { return p.Where != Inside })
	d.sched = probe.New(probe.Deps{Probes: inside, Sink: d.take, Adjust: d.adjust, Log: deps.Log})
	d.gate = respond.NewGate(respond.GateDeps{Server: deps.Server, Rows: deps.Rows, Actor: deps.Actor, Clock: deps.Clock, Local: d.journal,
		Fast: cfg.Fast, Mode: d.modeFor, Held: d.recoveryHeld, Spare: d.spare, Size: d.size, Second: d.second, Said: d.said})
	d.watch = newObserver(d)
	if deps.Metrics != nil {
		d.figures = newFigures(deps.Metrics, d)
	}
	d.readRules()
	return d, nil
}

// folder is the room's folder in the data folder.
const folder = "health"

// Run runs the inside probes and publishes until ctx ends; once only.
func (d *Desk) Run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { close(d.stopping) })()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.sched.Run(ctx) })
	g.Go(func() error { d.loop(ctx); return nil })
	g.Go(func() error { d.writeNotes(ctx); return nil })
	return g.Wait()
}

// loop follows the rows, publishes, watches the Engine and other servers.
func (d *Desk) loop(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	var published, observed, tidied time.Time
	closed := false                  // what an earlier process of this server left open
	orders := make(chan struct{}, 1) // one order to the host at a time
	defer func() { orders <- struct{}{} }()
	for {
		d.readRules()
		now := time.Now()
		d.checkSilence(ctx, now, orders)
		if d.publish(now.Sub(published) >= d.pace.report) {
			published = now
		}
		if now.Sub(observed) >= d.pace.report {
			observed = now
			d.watch.turn(now)
		}
		if now.Sub(tidied) >= tidyEvery {
			tidied = now
			d.tidy(ctx)
			closed = closed || d.closeOpen(ctx)
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// Notify takes a result that a part of the program tells by itself; a nil err is
// a good one. It never blocks.
func (d *Desk) Notify(set, name, target string, r Reading, err error) {
	res := Result{Set: set, Probe: name, Target: target, Outcome: Passed, Value: r.Value, Text: r.Text, At: time.Now()}
	if err != nil {
		res.Outcome, res.Text = Failed, err.Error()
	}
	d.take(res)
}

// take keeps a result for the Engine.
func (d *Desk) take(r Result) {
	if len(r.Text) > maxResultText {
		r.Text = r.Text[:maxResultText]
	}
	d.results.add(r)
	d.figures.probed(r)
}

const maxResultText = 256

func (d *Desk) adjust(p Probe, target string) (Probe, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rules.probe(p, target)
}

func (d *Desk) readRules() {
	r := readRules(d.deps.Rows, d.deps.Server, d.deps.Version, d.deps.Clock.Now())
	r.Modes = append(r.Modes, d.cfg.rules().Modes...) // the last of a kind counts least
	d.mu.Lock()
	d.rules = r
	d.mu.Unlock()
}

func (d *Desk) modeFor(set string) respond.Mode {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rules.modeFor(set)
}

func (d *Desk) recoveryHeld() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rules.Recovery
}

func (d *Desk) size() (servers, databases int) {
	return len(d.deps.Mesh.Members()), len(d.deps.Spares.Databases())
}

// hungProbes counts the probes of this server that have not come back.
func (d *Desk) hungProbes(context.Context, string) (Reading, error) {
	names := d.hung()
	r := Reading{Value: float64(len(names))}
	if len(names) > 0 {
		r.Text = fmt.Sprintf("%d hang, such as %s", len(names), names[0])
	}
	return r, nil
}

// hung names the probes that have not come back, inside and outside.
func (d *Desk) hung() []string {
	var names []string
	for _, h := range d.sched.Hung() {
		names = append(names, h.Item)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return append(names, d.report.Hung...)
}

// spare is what the group has beside this server, as the view shows it.
func (d *Desk) spare() respond.Spare {
	s := respond.Spare{Held: d.deps.Spares.Held(), Serving: map[org.Component][]org.ServerName{}, Databases: d.deps.Spares.Databases()}
	now := d.deps.Clock.Now()
	for _, m := range d.deps.Mesh.Members() {
		if m == d.deps.Server || !d.deps.Mesh.Up(m) {
			continue
		}
		h, ok := d.healthOf(m)
		if !ok || h.Silent {
			continue
		}
		entries := org.ComponentEntries(d.deps.Rows.Prefix(org.ComponentPrefix(m)))
		for _, c := range org.Components() {
			if state, _ := org.Combine(entries, c, now); state == org.Active && serves(h, c) {
				s.Serving[c] = append(s.Serving[c], m)
			}
		}
	}
	return s
}

// serves tells whether all sets of a component are Healthy.
func serves(h org.ServerHealth, c org.Component) bool {
	for _, s := range h.Sets {
		if s.Component == c && s.Monitors > 0 && s.State != org.HealthOK {
			return false
		}
	}
	return true
}

// healthOf is what a server publishes of itself.
func (d *Desk) healthOf(s org.ServerName) (org.ServerHealth, bool) {
	if s == d.deps.Server {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.last, d.last.Seq > 0
	}
	raw, _, ok := d.deps.Mesh.Published(s, org.HealthSection)
	var h org.ServerHealth
	if !ok || codec.Unmarshal(raw, &h) != nil {
		return org.ServerHealth{}, false
	}
	return h, true
}

// second asks what other servers last saw of a component of this one. The newest
// sight decides.
func (d *Desk) second(c org.Component) (who string, agrees bool) {
	best, found := time.Duration(0), false
	who = "no other server has looked at " + string(c) + " lately"
	for _, m := range d.deps.Mesh.Members() {
		if m == d.deps.Server || !d.deps.Mesh.Up(m) {
			continue
		}
		raw, heard, ok := d.deps.Mesh.Published(m, seenSection)
		var s sights
		if !ok || codec.Unmarshal(raw, &s) != nil {
			continue
		}
		for _, x := range s.Seen {
			age := x.Age + time.Since(heard)
			if x.Server != d.deps.Server || x.Component != c || age > d.pace.fresh || found && age >= best {
				continue
			}
			best, found, agrees = age, true, !x.OK
			who = fmt.Sprintf("%s saw %s work %v ago", m, c, age.Round(time.Second))
			if agrees {
				who = fmt.Sprintf("%s saw %s fail %v ago: %s", m, c, age.Round(time.Second), x.Text)
			}
		}
	}
	return who, agrees
}

func (d *Desk) silentSince() time.Time {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.reported.IsZero() {
		return d.began
	}
	return d.reported
}

// checkSilence orders the health worker's restart when it has not reported.
func (d *Desk) checkSilence(ctx context.Context, now time.Time, orders chan struct{}) {
	patience := d.pace.silence
	d.mu.Lock()
	since := d.reported
	if since.IsZero() {
		since, patience = d.began, d.pace.first
	}
	silent := now.Sub(since) > patience
	was := d.silent
	d.silent = silent
	d.mu.Unlock()
	switch {
	case silent && !was:
		d.deps.Events.Emit(evSilent, "the health worker of %s has not reported for %v", d.deps.Server, now.Sub(since).Round(time.Second))
	case was && !silent:
		d.deps.Events.Emit(evBack, "the health worker of %s reports again", d.deps.Server)
	}
	if !silent || was && now.Sub(since)%time.Minute >= time.Second {
		return // ordered when it falls silent, and again each minute: the throttle judges
	}
	select {
	case orders <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-orders }()
		_, err := d.gate.Do(ctx, respond.Order{Action: RestartWorker, Target: HealthWorker, Set: setMonitoring, Monitor: setMonitoring + `\Worker`,
			Responder: "RestartWorker", State: org.Unhealthy, Cause: fmt.Sprintf("the health worker has not reported for %v", now.Sub(since).Round(time.Second))})
		if err != nil && !kind.Is(err, kind.Busy) {
			d.deps.Log.Warn("the recovery log was not written", "error", err)
		}
	}()
}

// Record writes a row of the recovery log about what a part of this server did
// because it had to, such as a door that ended and is built anew.
func (d *Desk) Record(ctx context.Context, r org.Recovery) error { return d.gate.Record(ctx, r) }

// said is told of every row of the recovery log that this server writes.
func (d *Desk) said(r org.Recovery) {
	d.figures.deed(r)
	emitRecovery(d.deps.Events, r)
}
