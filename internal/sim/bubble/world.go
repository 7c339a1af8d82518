package bubble

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/org"
)

// Broken names a promise that a world breaks on purpose, to show that the
// checks see it. The rooms are the product's in any case.
type Broken string

// What can be broken.
const (
	NothingBroken Broken = ""
	LyingDisks    Broken = "disks say that they have synced and have not"
	BlindSwaps    Broken = "the agreed state swaps without comparing"
	FreshKeys     Broken = "clients repeat a change under another key"
)

// Options of a run.
type Options struct {
	Broken Broken
	Log    io.Writer // where the servers log to, nil for nowhere
	Notes  io.Writer // where what happens is written as it does, nil for nowhere
}

// Report is what became of a run.
type Report struct {
	Schedule  Schedule
	Wrong     []string // promises that were not kept
	Confirmed int      // changes
	Repeats   int      // tries that were not answered, or refused for the moment
	Reads     int      // that were compared with what was confirmed
	Terms     int      // of all databases
	Mended    time.Duration
	Took      time.Duration // virtual
}

func (r Report) String() string {
	return fmt.Sprintf("seed %d: %d changes confirmed, %d repeats, %d reads, %d terms, mended in %s of %s, %d wrong",
		r.Schedule.Seed, r.Confirmed, r.Repeats, r.Reads, r.Terms, r.Mended.Round(time.Millisecond), r.Took.Round(time.Millisecond), len(r.Wrong))
}

// world is a group in the bubble.
type world struct {
	plan    Schedule
	broken  Broken
	begin   time.Time
	rnd     *random
	links   *links
	agreed  *agreed
	servers map[org.ServerName]*server
	order   []*server
	ledger  *ledger
	log     *slog.Logger
	notes   io.Writer

	ctx    context.Context // of all
	end    func()          // of ctx
	faulty context.Context // ends when everything is mended
	wg     sync.WaitGroup  // processes
	faults sync.WaitGroup

	mu      sync.Mutex // guards the rest
	wrong   []string
	wiped   bool // a disk was replaced, at wipedAt
	wipedAt time.Time
	led     map[term]org.ServerName // who was ready to confirm changes
	without time.Time               // when a server last found that it has no quorum
	stirred time.Time               // when a fault last began or ended
}

// Clients do less in calm stretches: a change there costs as much as one among
// faults and finds nothing.
const (
	calmAfter = 4 * time.Second
	calmer    = 6
)

// stir notes that a fault begins or ends.
func (w *world) stir() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stirred = time.Now()
}

// pace is how long a client pauses that would pause for d among faults.
func (w *world) pace(d time.Duration) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if time.Since(w.stirred) > calmAfter {
		return calmer * d
	}
	return d
}

// maxWrong bounds what a report lists.
const maxWrong = 20

// violate notes that a promise was not kept.
func (w *world) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.note("WRONG: %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.wrong) < maxWrong {
		w.wrong = append(w.wrong, fmt.Sprintf("%.3fs: %s", time.Since(w.begin).Seconds(), text))
	}
}

// note writes what happens.
func (w *world) note(format string, args ...any) {
	if w.notes != nil {
		fmt.Fprintf(w.notes, "%9.3f "+format+"\n", append([]any{time.Since(w.begin).Seconds()}, args...)...)
	}
}

func (w *world) noQuorum() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.without = time.Now()
}

// quorumSince tells whether no server was without quorum since then.
func (w *world) quorumSince(t time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.without.Before(t)
}

// mounted looks at what a server says when its copy is ready to confirm
// changes: in each term one server may be, and that the row of the term names
// (G3).
func (w *world) mounted(e event.Event) {
	var t term
	var s org.ServerName
	if e.Name != "database_mounted" {
		return
	}
	if n, err := fmt.Sscanf(strings.ReplaceAll(e.Sentence, ",", " "), "%s is active on %s term %d", &t.db, &s, &t.n); n != 3 {
		w.violate("who is active? %q: %v", e.Sentence, err)
		return
	}
	w.mu.Lock()
	was, again := w.led[t]
	w.led[t] = s
	w.mu.Unlock()
	if again && was != s {
		w.violate("G3: %s and %s both lead term %d of %s", was, s, t.n, t.db)
	}
	if row := w.agreed.active(t); row != s {
		w.violate("G3: %s leads term %d of %s, by its row that is %s", s, t.n, t.db, row)
	}
}

// spread tells everybody of a revision of the agreed state, each a little late.
func (w *world) spread(rev int64) {
	for _, s := range w.order {
		p := w.links.running(s.name)
		if p == nil {
			continue
		}
		p.group.mu.Lock()
		late := p.group.late
		p.group.mu.Unlock()
		time.AfterFunc(late+w.rnd.between(200*time.Microsecond, 9*time.Millisecond), func() {
			if !p.over() {
				p.group.catchUp(time.Now())
			}
		})
	}
}

// pulse is the heart of the models: heartbeats, leases, elections.
func (w *world) pulse(ctx context.Context) {
	const step = meshInterval / 2
	for n := 0; rest(ctx, step); n++ {
		now := time.Now()
		w.agreed.turn(now)
		for _, s := range w.order {
			p := w.links.answers(s.name)
			if p == nil {
				continue
			}
			p.group.keepLease(now)
			p.group.catchUp(now)
			if n%2 == 0 {
				p.group.listen(now)
			}
		}
	}
}

// Run plays the schedule in the bubble it is called in and checks the promises.
func Run(ctx context.Context, plan Schedule, o Options) Report {
	ctx, cancel := context.WithCancel(ctx)
	w := &world{plan: plan, broken: o.Broken, begin: time.Now(), rnd: newRandom(plan.Seed, 2), servers: map[org.ServerName]*server{}, led: map[term]org.ServerName{},
		log: logger(o.Log), notes: o.Notes, ctx: ctx, end: cancel}
	w.links = newLinks(newRandom(plan.Seed, 3))
	var names []org.ServerName
	for i := range plan.Servers {
		s := &server{name: serverName(i), w: w, disk: newDisk(newRandom(plan.Seed, 100+uint64(i)))}
		s.disk.lies = o.Broken == LyingDisks
		w.servers[s.name], w.order, names = s, append(w.order, s), append(names, s.name)
		w.links.hosts[s.name] = &host{}
	}
	w.agreed = newAgreed(w.links, w.rnd, names, w.violate)
	w.agreed.blind = o.Broken == BlindSwaps
	w.ledger = newLedger(w)
	r := w.live()
	cancel()
	w.wg.Wait()
	return r
}

// live is the life of a world, from its definition to the checks.
func (w *world) live() Report {
	r := Report{Schedule: w.plan}
	if err := w.plan.define(w.agreed); err != nil {
		w.violate("define: %v", err)
	}
	pctx, stopPulse := context.WithCancel(w.ctx)
	var pulse sync.WaitGroup
	pulse.Go(func() { w.pulse(pctx) })
	for _, s := range w.order {
		w.up(s)
	}
	var mended context.CancelFunc
	w.faulty, mended = context.WithCancel(w.ctx)
	if w.settled(time.Minute) && w.ledger.prepare() {
		work, stop := context.WithCancel(w.ctx)
		var clients sync.WaitGroup
		w.ledger.begin(work, &clients)
		w.play()
		mended()
		w.faults.Wait()
		w.stir()
		w.note("everything is mended")
		since := time.Now()
		w.mend()
		ok := w.settled(2 * time.Minute)
		r.Mended = time.Since(since)
		stop()
		if !ok {
			w.end() // who waits for it waits in vain
		}
		clients.Wait()
		if ok && rest(w.ctx, 3*time.Second) { // what was set aside is offered again
			w.check()
		}
	}
	mended()
	for _, s := range w.order {
		s.stop()
	}
	stopPulse()
	pulse.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	r.Wrong = w.wrong
	r.Confirmed, r.Repeats, r.Reads = w.ledger.counts()
	r.Terms, r.Took = len(w.agreed.terms), time.Since(w.begin)
	return r
}

// mend undoes everything that is left of the faults.
func (w *world) mend() {
	w.links.heal()
	for _, s := range w.order {
		w.setLate(s.name, 0)
		s.disk.mend()
		if s.disk.spoiled() {
			s.kill(false) // its administrator has changed the controller and starts it again
		}
		w.up(s)
	}
}

// settled waits until every database is mounted and all its copies are in sync
// and healthy, and helps as an administrator would.
func (w *world) settled(atMost time.Duration) bool {
	end := time.Now().Add(atMost)
	why := ""
	for n := 1; time.Now().Before(end); n++ {
		if why = w.unsettled(); why == "" {
			return true
		}
		if n%20 == 0 {
			w.help(time.Until(end) < atMost/2)
		}
		if !rest(w.ctx, 100*time.Millisecond) {
			return false
		}
	}
	w.violate("G1: not whole after %s: %s", atMost, why)
	return false
}

// unsettled says what is missing.
func (w *world) unsettled() string {
	if why := w.unplanned(); why != "" {
		return why
	}
	for i := range w.plan.Databases {
		db := databaseName(i)
		m := w.agreed.mount(db)
		def, _ := w.agreed.newest(time.Now()).Database(db)
		if def.Dismounted || slices.ContainsFunc(def.Copies, func(c org.Copy) bool { return c.Suspended || c.ActivationSuspended }) {
			return fmt.Sprintf("%s is held: %+v", db, def)
		}
		if len(m.InSync) != w.plan.Copies {
			return fmt.Sprintf("%s is active on %q, term %d, in sync: %v; %s", db, m.Active, m.Term, m.InSync, w.states(db))
		}
		if m.Lossy != nil {
			return fmt.Sprintf("%s was mounted with loss", db)
		}
		for _, s := range m.InSync {
			if st := w.state(s, db); st.State != org.CopyHealthy && (st.State != org.CopyMounted || s != m.Active) {
				return w.states(db)
			}
		}
	}
	return ""
}

func (w *world) state(s org.ServerName, db org.DatabaseName) org.CopyStatus {
	if p := w.links.answers(s); p != nil {
		for _, st := range p.keeper.Statuses() {
			if st.Database == db {
				return st
			}
		}
	}
	return org.CopyStatus{State: org.CopyServiceDown}
}

func (w *world) states(db org.DatabaseName) string {
	out := string(db) + ":"
	for _, s := range w.order {
		if st := w.state(s.name, db); st.Database != "" {
			out += fmt.Sprintf(" [%s %s term %d log %d %s]", s.name, st.State, st.Term, st.Copied, st.Reason)
		}
	}
	return out
}

// help does what an administrator would by now: ends plans, mounts what was dismounted,
// resumes what was suspended, and, where AutoReseed has no spare or had its
// time, accepts disks that were replaced and seeds copies anew that have failed
// and are not needed.
func (w *world) help(late bool) {
	w.finish(w.order[w.rnd.intN(len(w.order))].name)
	for i := range w.plan.Databases {
		db := databaseName(i)
		m := w.agreed.mount(db)
		def, _ := w.agreed.newest(time.Now()).Database(db)
		at := w.order[w.rnd.intN(len(w.order))].name
		if def.Dismounted {
			w.give("database mount", fmt.Sprintf(`{"database":%q}`, db), at)
		}
		for _, c := range def.Copies {
			if c.Suspended || c.ActivationSuspended {
				w.give("copy resume", fmt.Sprintf(`{"database":%q,"server":%q}`, db, c.Server), at)
			}
			st := w.state(c.Server, db)
			if w.plan.Spare && !late || m.Active == c.Server || m.IsInSync(c.Server) {
				continue
			}
			switch st.State {
			case org.CopyFailed:
				if !strings.HasPrefix(st.Reason, "volume ") {
					w.give("copy reseed", fmt.Sprintf(`{"database":%q,"server":%q}`, db, c.Server), at)
					continue
				}
				w.give("volume reset", fmt.Sprintf(`{"server":%q,"volume":%q}`, c.Server, c.Volume), at)
			case org.CopyFailedAndSuspended:
				w.give("copy reseed", fmt.Sprintf(`{"database":%q,"server":%q}`, db, c.Server), at)
			}
		}
	}
}
