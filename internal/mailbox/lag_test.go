package mailbox

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/mailbox/summary"
	"github.com/postern-mail/postern/internal/org"
)

const lagChild = "MAILBOX_LAG_CHILD"

// sentences are those of events, in their order.
type sentences struct {
	mu  sync.Mutex
	got []string
}

func (s *sentences) add(one string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.got = append(s.got, one)
}

func (s *sentences) all() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.got)
}

// TestLagOverEightDays lives in a process of its own: libraries keep pools of
// things that belong to one bubble.
func TestLagOverEightDays(t *testing.T) {
	if os.Getenv(lagChild) != "" {
		// Files are opened outside of the bubble: the index's library looks around
		// ten times a second, which are many times in eight days.
		told := &sentences{}
		events := event.NewLog(slog.New(slog.DiscardHandler))
		events.Subscribe(func(e event.Event) { told.add(fmt.Sprintf("%d %s", e.Code, e.Sentence)) })
		p := newPair(t, lagSet, events)
		p.noFlush = true
		synctest.Test(t, func(t *testing.T) {
			p.t, p.late.late = t, newLateness()
			p.late.late.late.Store(true)
			p.eightDays(t, told)
		})
		return // they belong to the bubble now: the process ends with them
	}
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestLagOverEightDays$", "-test.v")
	cmd.Env = append(os.Environ(), lagChild+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestLagOverEightDays") {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Log(string(out))
}

// instant is the active copy's index after one of its records.
type instant struct {
	at   time.Time
	pos  journal.Position
	sum  [32]byte
	body org.LSN // of the message that was there then
}

// pair is an active and a lagged copy of a database, without a group: the test
// ships the log.
type pair struct {
	t            *testing.T
	def          org.Database
	active, late *dbCopy
	planner      *store.Planner
	others       *alone
	history      []instant
	notes        *sentences // for the recovery log
	noFlush      bool       // the indexes stay in memory: a flush begins work that would belong to the bubble
}

const lagSet = 7 * 24 * time.Hour

// newPair makes a pair of which the second copy lags, or keeps what it removed.
func newPair(t *testing.T, replay time.Duration, events *event.Log) *pair {
	g := newAgreed()
	g.heard = true
	def := org.Database{Name: "DB01", Identity: "db-1", SegmentSize: 64 << 10, Copies: []org.Copy{
		{Server: "MBX1", Volume: "vol1"}, {Server: "MBX3", Volume: "vol1", ReplayLag: replay}}}
	p := &pair{t: t, def: def, others: g.server("MBX1"), notes: &sentences{}}
	noted := func(n org.Note) {
		p.notes.add(fmt.Sprintf("%s %s: %s (%s), %d seen", n.Action, n.Target, cmp.Or(n.Result, "not done: "+n.Refused), n.Cause, len(n.Evidence)))
	}
	open := func(s org.ServerName) *dbCopy {
		d := newDisks()
		group := p.others
		if s != "MBX1" {
			group = g.server(s)
		}
		k, err := New(testConfig(), Deps{Group: group, FS: d.fs, IndexFS: d.ix, Log: slog.New(slog.DiscardHandler), Events: events, Noted: noted})
		if err != nil {
			t.Fatal(err)
		}
		c := newCopy(k, def, k.volumes["vol1"])
		c.update(def, org.Mount{Database: def.Name, Term: 1, Active: "MBX1", InSync: []org.ServerName{"MBX1", "MBX3"}})
		if err := c.open(); err != nil {
			t.Fatal(err)
		}
		return c
	}
	p.active, p.late = open("MBX1"), open("MBX3")
	p.planner = store.NewPlanner(p.active.index(), time.Hour)
	p.say(org.CopyMounted)
	return p
}

// change changes the row of the second copy.
func (p *pair) change(f func(*org.Copy)) {
	p.def.Copies = slices.Clone(p.def.Copies)
	f(&p.def.Copies[1])
	p.late.update(p.def, org.Mount{})
}

// say publishes the state of the active copy.
func (p *pair) say(s org.CopyState) {
	p.others.Publish(statusSection, codec.MustMarshal([]org.CopyStatus{{Database: "DB01", Server: "MBX1", State: s}}))
}

// do plans a request, writes it on both copies and applies it on the active one.
func (p *pair) do(req any) any {
	p.t.Helper()
	from := p.active.jn.End()
	pl, err := p.planner.Plan(req, from.LSN, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	data, to := journal.AppendRecord(nil, from, journal.KindChange, 1, time.Now().UnixNano(), pl.Ops, pl.Body)
	for _, c := range []*dbCopy{p.active, p.late} {
		if err := c.jn.Write(data, from, to); err != nil {
			p.t.Fatal(err)
		}
		c.noteCommit(to.LSN)
	}
	p.late.late.noteCopied(data)
	if err := p.active.applyTo(p.t.Context(), to.LSN); err != nil {
		p.t.Fatal(err)
	}
	p.planner.Settled(to.LSN)
	m := instant{at: time.Now(), pos: p.active.index().Applied(), sum: digestOf(p.t, p.active)}
	if len(pl.Body) > 0 {
		m.body = from.LSN
	}
	p.history = append(p.history, m)
	return pl.Result
}

func digestOf(t *testing.T, c *dbCopy) [32]byte {
	t.Helper()
	r := c.index().Reader()
	defer r.Close()
	sum, _, err := c.index().Digest(context.Background(), r)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// hours appends a message and removes the one before it.
func (p *pair) hours(i int) {
	raw := append(body(i), make([]byte, 16<<10)...) // with whole blocks that can be holes
	p.do(prepared(&store.AppendReq{Mailbox: at.ID, Append: mail.Append{Folder: "INBOX", Body: raw}, Summary: summary.Parse(raw)}))
	r := p.active.index().Reader()
	fs, err := r.Folders(at.ID)
	r.Close()
	if err != nil {
		p.t.Fatal(err)
	}
	if uid := fs[0].UIDNext - 1; uid > 1 {
		p.do(&store.ExpungeReq{Mailbox: at.ID, Expunge: mail.Expunge{Folder: fs[0].ID, UIDs: []mail.UIDRange{{First: uid - 1, Last: uid - 1}}}})
	}
	for _, c := range []*dbCopy{p.active, p.late} {
		if !p.noFlush {
			c.settleForTest(p.t)
		}
	}
}

// check compares the lagged index with the active one as it was a lag ago.
func (p *pair) check(ago time.Duration) {
	p.t.Helper()
	want := instant{sum: sha256.Sum256(nil)}
	for _, m := range p.history {
		if !m.at.After(time.Now().Add(-ago)) {
			want = m
		}
	}
	if got := p.late.index().Applied(); got != want.pos {
		p.t.Fatalf("%s: the lagged copy is at %v, %s ago the active one was at %v", time.Now(), got, ago, want.pos)
	}
	if want.pos.LSN > 0 && digestOf(p.t, p.late) != want.sum {
		p.t.Fatalf("%s: the index differs from what it was %s ago", time.Now(), ago)
	}
}

// eightDays lets a copy lag seven days behind one on which every two hours a
// message comes and the one before goes.
func (p *pair) eightDays(t *testing.T, told *sentences) {
	const set = lagSet
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.late.replayLate(ctx) }()
	defer func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	p.do(&store.SetupReq{Mailbox: at.ID})
	for i := range 8 * 12 {
		p.hours(i)
		time.Sleep(time.Hour)
		synctest.Wait()
		p.check(set)
		time.Sleep(time.Hour)
	}
	st := p.late.status()
	if st.ReplayLag != set || st.ReplayLagNow < set-time.Minute || st.ReplayLagWhy != "" || lagText(st) != "7d" || st.Copied != p.active.jn.End().LSN {
		t.Errorf("after eight days: %+v, %q", st, lagText(st))
	}
	if age := time.Since(time.Unix(0, st.LastTime)); age > 121*time.Minute {
		t.Errorf("the newest record that was copied is %s old", age)
	}
	// What is removed on the active copy, and still shown by the lagged one, is
	// there with its bytes.
	r := p.late.index().Reader()
	shown, err := r.Messages(at.ID, mail.MessagesRequest{Folder: 1})
	r.Close()
	if err != nil || len(shown.Messages) != 1 {
		t.Fatalf("%+v, %v", shown, err)
	}
	lsn := org.LSN(shown.Messages[0].Blob)
	if _, err := p.late.jn.Body(lsn, 0, 0); err != nil {
		t.Errorf("the lagged copy does not have what it shows: %v", err)
	}
	if d := p.late.overdue(); d > 0 {
		t.Errorf("it should have replayed more since %s", d)
	}
	// Nobody replayed for an hour.
	p.late.late.setHead(time.Now().Add(-set - time.Hour).UnixNano())
	if d := p.late.overdue(); d < lagTolerance {
		t.Errorf("an hour too late counts as %s", d)
	}
	// The only copy without a lag is gone for a day: the log is played down, and
	// the lag builds up again when it is back.
	p.say(org.CopyFailed)
	time.Sleep(23 * time.Hour)
	synctest.Wait()
	if got := told.all(); len(got) != 0 {
		t.Errorf("told too early: %q", got)
	}
	time.Sleep(2 * time.Hour)
	synctest.Wait()
	p.check(0)
	if st := p.late.status(); st.ReplayLagNow > 3*24*time.Hour || !strings.HasPrefix(st.ReplayLagWhy, "played down: 0 of 1 copies") {
		t.Errorf("played down: %+v", st)
	}
	p.say(org.CopyMounted)
	time.Sleep(2 * time.Minute)
	p.hours(999)
	time.Sleep(6 * 24 * time.Hour)
	synctest.Wait()
	if st := p.late.status(); st.ReplayLagWhy != "it builds up" && st.ReplayLagNow != set || p.late.index().Applied().LSN >= p.active.jn.End().LSN {
		t.Errorf("after six days more: %+v", st)
	}
	time.Sleep(25 * time.Hour)
	synctest.Wait()
	p.check(set)
	if got := told.all(); len(got) != 2 || !strings.HasPrefix(got[0], "1220 DB01 on MBX3 replays without its lag") || !strings.HasPrefix(got[1], "1226 DB01 on MBX3 lags again") {
		t.Errorf("told: %q", got)
	}
	if got := p.notes.all(); len(got) != 2 || !strings.HasPrefix(got[0], "PlayDownLag DB01: it replays without its lag of 168h0m0s (0 of 1 copies") || !strings.HasPrefix(got[1], "RestoreLag DB01: its lag of 168h0m0s builds up again") {
		t.Errorf("for the recovery log: %q", got)
	}
	// The lag is taken off: all is replayed, and what comes goes its usual way.
	p.change(func(c *org.Copy) { c.ReplayLag = 0 })
	time.Sleep(time.Second)
	synctest.Wait()
	p.check(0)
	if p.late.late.late.Load() {
		t.Error("it still replays late")
	}
}

// TestFutureRecords: records of a leader whose clock was years ahead
// are replayed a lag after they came.
func TestFutureRecords(t *testing.T) {
	l := newLateness()
	now := time.Now()
	l.mark(now.Add(-time.Hour), 100, time.Second)
	l.mark(now.Add(-time.Hour), 150, time.Second) // too soon after the other
	l.mark(now.Add(-time.Minute), 300, time.Second)
	future := now.Add(1000 * time.Hour).UnixNano()
	for _, c := range []struct {
		lsn  org.LSN
		time int64
		want time.Time
	}{
		{50, now.Add(-2 * time.Hour).UnixNano(), now.Add(-2 * time.Hour)},
		{50, future, now.Add(-time.Hour)},
		{100, future, now.Add(-time.Minute)},
		{200, future, now.Add(-time.Minute)},
		{400, future, now},
	} {
		if got := l.madeBy(journal.Record{LSN: c.lsn, Time: c.time}, now); got != c.want.UnixNano() {
			t.Errorf("%+v: %s", c, time.Unix(0, got))
		}
	}
	for i := range 3 * lagMarks {
		l.mark(now.Add(time.Duration(i)*time.Minute), org.LSN(1000+i), time.Minute)
	}
	if len(l.marks) > 2*lagMarks {
		t.Errorf("%d marks", len(l.marks))
	}
}

func TestParseLag(t *testing.T) {
	for s, want := range map[string]time.Duration{"7d": 7 * 24 * time.Hour, "36h": 36 * time.Hour, "1d12h": 36 * time.Hour, "0": 0, "0d": 0, "0.5d": 12 * time.Hour, "14d": lagMost} {
		if d, err := parseLag("replay-lag", s); err != nil || d != want {
			t.Errorf("%q: %s, %v", s, d, err)
		}
	}
	for _, s := range []string{"15d", "-1h", "d", "week", "1e9d", "7", "NaNd", "-1d"} {
		if d, err := parseLag("replay-lag", s); err == nil {
			t.Errorf("%q: %s", s, d)
		}
	}
}

// TestLaggedCopy: a lagged copy is in sync, keeps what the others dropped, and
// replays all when it is to be active.
func TestLaggedCopy(t *testing.T) {
	g := newAgreed()
	g.heard = true
	def := org.Database{Name: "DB01", Identity: "db-1", SegmentSize: 64 << 10, Copies: []org.Copy{
		{Server: "MBX1", Volume: "vol1", Preference: 1}, {Server: "MBX3", Volume: "vol1", Preference: 3, ReplayLag: time.Hour}}}
	g.put(t, DatabaseKey("DB01"), def)
	g.put(t, MountKey("DB01"), org.Mount{Database: "DB01", Term: 1, Active: "MBX1", InSync: []org.ServerName{"MBX1"}})
	a, b := startKeeper(t, g.server("MBX1"), newDisks()), startKeeper(t, g.server("MBX3"), newDisks())
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	eventually(t, "in sync", func() bool { return len(g.mount(t).InSync) == 2 })
	s := a.Client()
	if err := s.Setup(ctx, at, mail.MailboxSetup{}); err != nil {
		t.Fatal(err)
	}
	for i := range 100 { // more than two segments
		if _, err := s.Append(ctx, at, mail.Append{Folder: "INBOX", Body: body(i)}); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := s.Folders(ctx, at)
	if err != nil {
		t.Fatal(err)
	}
	ms, err := s.Messages(ctx, at, mail.MessagesRequest{Folder: fs[0].ID})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Expunge(ctx, at, mail.Expunge{Folder: fs[0].ID, UIDs: []mail.UIDRange{{First: 1, Last: 90}}}); err != nil {
		t.Fatal(err)
	}
	ca, cb := a.copy("DB01"), b.copy("DB01")
	eventually(t, "all is copied", func() bool { return cb.status().Copied == ca.jn.End().LSN })
	if st := cb.status(); st.State != org.CopyHealthy || st.Replayed != 0 || !st.InSync || st.ReplayLag != time.Hour {
		t.Errorf("lagged: %+v", st)
	}
	// The active copy gives its space back though the lagged one has replayed
	// nothing of it, and that one keeps it.
	if err := ca.index().Flush(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the active copy dropped its oldest log", func() bool {
		_, err := ca.reclaim(ctx, true)
		if err == nil {
			err = ca.index().Flush()
		}
		if err != nil {
			t.Fatal(err)
		}
		ca.punchFreed()
		ca.dropTrimmed()
		return ca.jn.Start() > org.LSN(ms.Messages[5].Blob)
	})
	cb.punchFreed()
	cb.dropTrimmed()
	for _, m := range ms.Messages {
		if _, err := cb.jn.Body(org.LSN(m.Blob), 0, 0); err != nil {
			t.Fatalf("the lagged copy lost what was removed: %v", err)
		}
	}
	vs := cb.jn.Start()
	want, err := picture(ctx, s)
	if err != nil {
		t.Fatal(err)
	}
	// It becomes active: all is replayed first, and space is given back then.
	m := g.mount(t)
	m.Term, m.Active = m.Term+1, "MBX3"
	g.put(t, MountKey("DB01"), m)
	eventually(t, "mounted", func() bool { ready, _ := b.Lead("DB01"); return ready })
	got, err := picture(ctx, b.Client())
	if err != nil || got != want {
		t.Errorf("after the activation: %v\n%s\nwant\n%s", err, got, want)
	}
	if err := cb.index().Flush(); err != nil {
		t.Fatal(err)
	}
	cb.punchFreed()
	cb.dropTrimmed()
	if cb.jn.Start() <= vs {
		t.Error("it still keeps the oldest log")
	}
}

// TestTruncationLag: a copy keeps what was removed for its truncation lag.
func TestTruncationLag(t *testing.T) {
	p := newPair(t, 0, event.NewLog(slog.New(slog.DiscardHandler)))
	p.change(func(c *org.Copy) { c.TruncationLag = time.Hour })
	defer p.active.close()
	defer p.late.close()
	p.do(&store.SetupReq{Mailbox: at.ID})
	p.hours(1)
	first := p.history[1].body
	p.hours(2)
	follow := func() {
		if err := p.late.applyTo(t.Context(), p.late.jn.End().LSN); err != nil {
			t.Fatal(err)
		}
		if err := p.late.index().Flush(); err != nil {
			t.Fatal(err)
		}
		p.late.punchFreed()
	}
	follow()
	if _, err := p.active.jn.Body(first, 0, 0); !kind.Is(err, kind.NotFound) {
		t.Errorf("the active copy still has it: %v", err)
	}
	if _, err := p.late.jn.Body(first, 0, 0); err != nil {
		t.Errorf("the copy that is to keep it has not: %v", err)
	}
	p.change(func(c *org.Copy) { c.TruncationLag = 0 })
	follow()
	if _, err := p.late.jn.Body(first, 0, 0); !kind.Is(err, kind.NotFound) {
		t.Errorf("it still has it: %v", err)
	}
}

// TestFreedUnlisted: bodies that were freed while the list was full are found
// in the log.
func TestFreedUnlisted(t *testing.T) {
	p := newPair(t, 0, event.NewLog(slog.New(slog.DiscardHandler)))
	defer p.active.close()
	defer p.late.close()
	p.do(&store.SetupReq{Mailbox: at.ID})
	full := p.active.jn.End().LSN
	p.active.freed = make([]freedBody, freedMost)
	for i := range p.active.freed {
		p.active.freed[i].after = keepsNothing
	}
	for i := range 3 {
		p.hours(i)
	}
	if p.active.unlisted < full || len(p.active.freed) != freedMost {
		t.Fatalf("unlisted from %d, %d listed", p.active.unlisted, len(p.active.freed))
	}
	p.active.freed = nil
	p.active.punchFreed()
	gone := 0
	for _, m := range p.history {
		if m.body == 0 {
			continue
		}
		if _, err := p.active.jn.Body(m.body, 0, 0); kind.Is(err, kind.NotFound) {
			gone++
		}
	}
	if gone != 2 || p.active.unlisted != 0 {
		t.Errorf("%d bodies are gone, want 2; unlisted %d", gone, p.active.unlisted)
	}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

// FuzzMoment: whatever is typed is a lag or a moment within its bounds, or
// refused.
func FuzzMoment(f *testing.F) {
	for _, s := range []string{"7d", "1d12h", "36h", "2026-11-21T15:04:05Z", "2026-11-21 15:04", "d", "-1d", "1e300d", "NaNd", "0x1p-2d"} {
		f.Add(s)
	}
	now := time.Date(2026, 11, 21, 16, 0, 0, 0, time.UTC)
	f.Fuzz(func(t *testing.T, s string) {
		if d, err := parseLag("replay-lag", s); err == nil && (d < 0 || d > lagMost) {
			t.Errorf("%q is a lag of %s", s, d)
		}
		if at, err := Moment(s, now); err == nil && at.After(now) {
			t.Errorf("%q is %s", s, at)
		}
		if cp, ok := parseCheckpoint(s); ok && cp.name() != s {
			t.Errorf("%q is checkpoint %q", s, cp.name())
		}
	})
}
