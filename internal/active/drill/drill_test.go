package drill

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/big"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/active/plan/plantest"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// identity is a certificate with its key, signed by the authority or by itself.
type identity struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func issue(t *testing.T, by *identity, from, to time.Time) *identity {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotBefore: from, NotAfter: to, BasicConstraintsValid: true}
	parent, signer := tmpl, key
	if by == nil {
		tmpl.IsCA, tmpl.KeyUsage = true, x509.KeyUsageCertSign
	} else {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &identity{cert, key}
}

// TestVerify: what was changed, removed, put in or signed by a stranger is found.
func TestVerify(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	ca := issue(t, nil, at.Add(-time.Hour), at.Add(time.Hour))
	server := issue(t, ca, at.Add(-time.Hour), at.Add(time.Hour))
	stranger := issue(t, issue(t, nil, at.Add(-time.Hour), at.Add(time.Hour)), at.Add(-time.Hour), at.Add(time.Hour))
	old := issue(t, ca, at.Add(-2*time.Hour), at.Add(-time.Hour))
	chain := func(by *identity) []Report {
		var out []Report
		last := ""
		for _, id := range []string{"1", "2", "3"} {
			r := Report{ID: id, Exercise: Move, Ended: at, Versions: map[org.ServerName]string{"MBX1": "v1"}, Allowed: time.Second,
				Measures: []Measure{{Server: "MBX2", Database: "DB01", Operations: 10, Longest: 300 * time.Millisecond}}, Previous: last}
			r.conclude()
			who := server
			if id == "2" && by != nil {
				who = by
			}
			if err := r.sign("MBX1", who.cert.Raw, who.key); err != nil {
				t.Fatal(err)
			}
			var err error
			if last, err = r.Sum(); err != nil {
				t.Fatal(err)
			}
			// As it is read back from its row.
			b, err := json.Marshal(r)
			if err != nil {
				t.Fatal(err)
			}
			var read Report
			if err := json.Unmarshal(b, &read); err != nil {
				t.Fatal(err)
			}
			out = append(out, read)
		}
		return out
	}
	good := chain(nil)
	if said, err := Verify([]Report{good[2], good[0], good[1]}, ca.cert); err != nil || len(said) != 1 {
		t.Fatalf("%v %q", err, said)
	}
	if said, err := Verify(good[1:], ca.cert); err != nil || !strings.Contains(said[0], "not kept") {
		t.Errorf("the oldest is gone: %v %q", err, said)
	}
	for _, c := range []struct {
		name   string
		change func([]Report) []Report
		want   string
	}{
		{"a figure", func(r []Report) []Report { r[1].Lost = 0; r[1].Measures[0].Longest = 1; return r }, "drill 2: its signature does not fit"},
		{"the verdict", func(r []Report) []Report { r[0].Verdict = "well"; return r }, "drill 1: its signature"},
		{"removed", func(r []Report) []Report { return slices.Delete(r, 1, 2) }, "drill 3 does not follow"},
		{"no certificate", func(r []Report) []Report { r[2].Certificate = nil; return r }, "cannot be read"},
		{"a stranger", func([]Report) []Report { return chain(stranger) }, "not of this group"},
		{"an old certificate", func([]Report) []Report { return chain(old) }, "was not good"},
	} {
		if _, err := Verify(c.change(chain(nil)), ca.cert); !kind.Is(err, kind.Corrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestConclude(t *testing.T) {
	for _, c := range []struct {
		ms   []Measure
		want string
	}{
		{nil, "nothing was measured"},
		{[]Measure{{Longest: 900 * time.Millisecond}}, "passed: nobody waited longer than 900ms"},
		{[]Measure{{Longest: 2 * time.Second}}, "a client waited 2s, 1s were allowed"},
		{[]Measure{{Lost: 2}, {Doubled: 1}}, "2 messages were lost; 1 messages are there twice"},
		{[]Measure{{Server: "A", Database: "D", Error: "gone"}}, "A in D: gone"},
	} {
		r := Report{Measures: c.ms, Allowed: time.Second}
		r.conclude()
		if !strings.Contains(r.Verdict, c.want) || r.Passed != strings.HasPrefix(c.want, "passed") {
			t.Errorf("%v %q, want %q", r.Passed, r.Verdict, c.want)
		}
	}
}

func TestTally(t *testing.T) {
	yes := func(uids ...mail.UID) map[mail.UID]bool {
		out := map[mail.UID]bool{}
		for _, u := range uids {
			out[u] = true
		}
		return out
	}
	for _, c := range []struct {
		confirmed     map[mail.UID]bool
		there         map[mail.UID]int
		open          bool
		lost, doubled int
	}{
		{yes(1, 2), map[mail.UID]int{1: 1, 2: 1}, false, 0, 0},
		{yes(1, 2), map[mail.UID]int{1: 1}, false, 1, 0},
		{yes(1), map[mail.UID]int{1: 1, 2: 1}, true, 0, 0},
		{yes(1), map[mail.UID]int{1: 1, 2: 1}, false, 0, 1},
		{yes(1), map[mail.UID]int{1: 1, 2: 1, 3: 1}, true, 0, 1},
		{yes(), map[mail.UID]int{}, true, 0, 0},
	} {
		if lost, doubled := tally(c.confirmed, c.there, c.open); lost != c.lost || doubled != c.doubled {
			t.Errorf("%+v: lost %d, doubled %d", c, lost, doubled)
		}
	}
}

// store is mailboxes in memory that cannot be used for a while.
type store struct {
	mu      sync.Mutex // guards the rest
	down    bool
	next    mail.UID
	keys    map[mail.Key]mail.UID
	there   []mail.UID
	removed bool
}

func (s *store) set(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

func (s *store) up() error {
	if s.down {
		return kind.Errorf(kind.Busy, "no active copy")
	}
	return nil
}

func (s *store) Setup(_ context.Context, _ org.MailboxRef, r mail.MailboxSetup) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.removed = r.Remove
	return s.up()
}

func (s *store) Folders(context.Context, org.MailboxRef) ([]mail.Folder, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []mail.Folder{{ID: 1, Name: "INBOX"}}, s.up()
}

func (s *store) Append(_ context.Context, _ org.MailboxRef, r mail.Append) (mail.Appended, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.up(); err != nil {
		return mail.Appended{}, err
	}
	uid, ok := s.keys[r.Key]
	if !ok {
		s.next++
		uid = s.next
		s.keys[r.Key], s.there = uid, append(s.there, uid)
	}
	return mail.Appended{UID: uid}, nil
}

func (s *store) Messages(_ context.Context, _ org.MailboxRef, r mail.MessagesRequest) (out mail.Messages, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.up(); err != nil {
		return out, err
	}
	for _, u := range s.there {
		if u < r.UIDs[0].First || u > r.UIDs[0].Last {
			continue
		}
		if len(out.Messages) == 7 { // a page
			out.More = true
			break
		}
		out.Messages = append(out.Messages, mail.Message{UID: u})
	}
	return out, nil
}

// TestMeter measures a database that cannot be used for 1.5 s.
func TestMeter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{keys: map[mail.Key]mail.UID{}}
		over := 0
		m := &Meter{Store: s, Server: "MBX2", Database: "DB01", Drill: "x", Limit: time.Second, Over: func(time.Duration) { over++ }}
		if err := m.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan Measure, 1)
		go func() { done <- m.Run(ctx) }()
		<-time.After(2 * time.Second)
		s.set(func() { s.down = true })
		<-time.After(1500 * time.Millisecond)
		s.set(func() { s.down = false })
		<-time.After(2 * time.Second)
		cancel()
		got := <-done
		if got.Operations < 30 || got.Longest < 1200*time.Millisecond || got.Longest > 1700*time.Millisecond || got.Retries < 10 || got.Lost+got.Doubled > 0 ||
			got.Error != "" || over != 1 || !s.removed {
			t.Errorf("%+v, over %d, removed %v", got, over, s.removed)
		}
	})
}

// TestMeterFindsLoss: a message that was confirmed and is gone is counted.
func TestMeterFindsLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &store{keys: map[mail.Key]mail.UID{}}
		m := &Meter{Store: s, Server: "MBX2", Database: "DB01", Drill: "x", Limit: time.Second}
		if err := m.Begin(t.Context()); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan Measure, 1)
		go func() { done <- m.Run(ctx) }()
		<-time.After(2050 * time.Millisecond)
		s.set(func() { s.there = append(s.there[:3], s.there[5:]...); s.there = append(s.there, 9999) })
		cancel()
		if got := <-done; got.Lost != 2 || got.Doubled != 1 {
			t.Errorf("%+v", got)
		}
		s.set(func() { s.down = true })
		if err := m.Begin(t.Context()); err == nil {
			t.Error("begun without a mailbox")
		}
	})
}

func group() maintain.Facts {
	all := []org.ServerName{"MBX1", "MBX2", "MBX3"}
	f := maintain.Facts{Primary: "MBX1", Leader: "MBX1"}
	for _, s := range all {
		f.Servers = append(f.Servers, maintain.Server{Name: s, Voter: true, Heard: true, HighAvailability: org.Active})
	}
	f.Databases = []maintain.Database{{Name: "DB01", Active: "MBX1", Copies: all, InSync: all, Minimum: 2}, {Name: "DB02", Active: "MBX2", Copies: all, InSync: all, Minimum: 2}}
	return f
}

// TestRefused is which drills may not begin.
func TestRefused(t *testing.T) {
	o, err := Complete(group(), Order{Exercise: Move, Database: "DB01"})
	if err != nil || o.Server != "MBX1" || o.To != "MBX2" || !slices.Equal(o.Meters, []org.ServerName{"MBX3"}) || o.Allowed != DefaultAllowed {
		t.Fatalf("%v %+v", err, o)
	}
	if no := Judge(group(), o, nil); len(no) > 0 {
		t.Errorf("%q", no)
	}
	o, err = Complete(group(), Order{Exercise: KillWorker, Server: "MBX1"})
	if err != nil || !slices.Equal(o.Databases, []org.DatabaseName{"DB01", "DB02"}) || len(o.Meters) != 2 {
		t.Fatalf("%v %+v", err, o)
	}
	for _, c := range []struct {
		name   string
		change func(*maintain.Facts)
		red    []string
		want   string
	}{
		{"a copy lags", func(f *maintain.Facts) { f.Databases[1].InSync = f.Databases[1].InSync[:2] }, nil, "DB02 is in sync on 2 servers, a drill wants 3"},
		{"a server is down", func(f *maintain.Facts) { f.Servers[2].Heard = false }, nil, "MBX3 is not heard"},
		{"one is out", func(f *maintain.Facts) { f.Servers[1].Out = true }, nil, "MBX2 is in maintenance"},
		{"red", func(*maintain.Facts) {}, []string{"IMAP on MBX1 is Unhealthy"}, "IMAP on MBX1 is Unhealthy"},
	} {
		f := group()
		c.change(&f)
		if got := strings.Join(Judge(f, o, c.red), "; "); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	for _, c := range []struct {
		o    Order
		want kind.Kind
	}{
		{Order{Exercise: "dance"}, kind.Invalid}, {Order{Exercise: Move, Database: "DB09"}, kind.NotFound}, {Order{Exercise: KillWorker, Server: "MBX9"}, kind.NotFound},
		{Order{Exercise: Move, Database: "DB01", To: "MBX1"}, kind.Conflict}, {Order{Exercise: Move}, kind.Invalid}, {Order{Exercise: KillWorker}, kind.Invalid},
	} {
		if _, err := Complete(group(), c.o); !kind.Is(err, c.want) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

// world is a group whose databases move where they are told.
type world struct {
	maintain.World // what these tests do not need
	*plantest.Server
	*past
	id    *identity
	slow  *atomic.Int64 // nanoseconds that clients measure
	stuck *atomic.Bool  // databases do not move
}

func (w *world) Me() org.ServerName   { return "MBX1" }
func (w *world) Unbalanced() []string { return nil }
func (w *world) Statuses(s org.ServerName) []org.CopyStatus {
	def, _ := w.View().Database("DB01")
	c, _ := def.Copy(s)
	st := org.CopyStatus{Database: "DB01", Volume: c.Volume, State: org.CopyHealthy}
	if it, ok := w.View().Get(cluster.NetworkKey("Replication01")); ok && strings.Contains(string(it.Value), `"ignore":true`) {
		st.Network = "Client"
	} else if ok {
		st.Network = "Replication01"
	}
	if _, ok := w.View().Get("seeded/" + string(s)); ok {
		st.SeedCount = 1
	}
	return []org.CopyStatus{st}
}
func (w *world) Leader(context.Context) org.ServerName           { return "MBX1" }
func (w *world) Primary() org.ServerName                         { return w.State.Primary() }
func (w *world) View() *cluster.View                             { return w.State.View() }
func (w *world) Red() []string                                   { return nil }
func (w *world) Identity() (certificate []byte, k crypto.Signer) { return w.id.cert.Raw, w.id.key }

// Boot is in a row, empty for a server that is silent.
func (w *world) Boot(s org.ServerName) (boot, version string) {
	it, ok := w.View().Get("boot/" + string(s))
	if !ok {
		return "b", "v1"
	}
	return string(it.Value), "v1"
}

func (w *world) Heard(s org.ServerName) bool {
	boot, _ := w.Boot(s)
	return boot != ""
}

func (w *world) MoveTo(_ context.Context, db org.DatabaseName, to org.ServerName, _ string) error {
	if w.stuck.Load() {
		return kind.Errorf(kind.Busy, "%s does not move", db)
	}
	mt, _ := w.View().Mount(db)
	mt.Active = to
	w.Put("mounts/"+string(db), mt)
	return nil
}

// clients tell what they measure, as servers do.
func (w *world) clients(ctx context.Context, t *testing.T, e *plan.Engine) {
	told := "" // the drill for which they have begun
	for ctx.Err() == nil {
		if p, ok := e.Running(); ok {
			o, measuring := Measuring(p)
			for _, s := range o.Meters {
				m := Measure{Server: s, Database: "DB01", Begun: time.Now(), Operations: 10, Longest: time.Duration(w.slow.Load())}
				if !measuring && told == p.ID {
					m.Ended = time.Now()
				} else if !measuring {
					continue
				}
				told = p.ID
				op, err := MeasureOp(p.ID, m)
				if err != nil {
					t.Error(err)
				}
				if it, ok := w.View().Get(op.Key); !ok || !m.Ended.IsZero() && !strings.Contains(string(it.Value), "ended") {
					_, _ = w.State.Server("clients").Commit(ctx, cluster.Txn{Then: []cluster.Op{op}}) // the next turn tries again
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// lab is a group in memory in which drills are carried out.
type lab struct {
	t     *testing.T
	st    *plantest.State
	ca    *identity
	id    *identity
	slow  atomic.Int64
	stuck atomic.Bool
	past  *past
	times maintain.Times
	stop  map[org.ServerName]context.CancelFunc
	wg    sync.WaitGroup
}

func newLab(t *testing.T) *lab {
	now := time.Now()
	ca := issue(t, nil, now.Add(-time.Hour), now.Add(24*time.Hour))
	l := &lab{t: t, st: plantest.New(), ca: ca, id: issue(t, ca, now.Add(-time.Hour), now.Add(24*time.Hour)), past: newPast(), times: maintain.Defaults(), stop: map[org.ServerName]context.CancelFunc{}}
	l.slow.Store(int64(400 * time.Millisecond))
	all := []org.ServerName{"MBX1", "MBX2", "MBX3"}
	l.st.Put(plantest.RoleKey, "MBX2")
	for _, s := range all {
		l.st.Put("servers/"+string(s), org.Server{Name: s, Voter: true})
	}
	l.st.Put("databases/DB01", org.Database{Name: "DB01", Copies: []org.Copy{{Server: "MBX1", Volume: "Vol1"}, {Server: "MBX2", Volume: "Vol1"}, {Server: "MBX3", Volume: "Vol1"}}})
	l.st.Put("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX1", InSync: all})
	return l
}

// member is one server's engine, and its kind of drills.
func (l *lab) member(s org.ServerName) (*plan.Engine, Kind) {
	w := &world{Server: l.st.Server(s), past: l.past, id: l.id, slow: &l.slow, stuck: &l.stuck}
	k := Kind{World: w, Library: &maintain.Library{World: w, Times: l.times, Now: time.Now}}
	return plan.New(plan.Deps{Group: w.Server, RoleKey: plantest.RoleKey, Primary: l.st.Primary, Log: slog.New(slog.DiscardHandler)}, k), k
}

// run has servers carry out plans, and clients measure.
func (l *lab) run(names ...org.ServerName) {
	for _, s := range names {
		ctx, cancel := context.WithCancel(l.t.Context())
		l.stop[s] = cancel
		e, _ := l.member(s)
		l.wg.Go(func() { _ = e.Run(ctx) }) // it returns nil
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	l.stop["clients"] = cancel
	e, k := l.member("clients")
	l.wg.Go(func() { k.World.(*world).clients(ctx, l.t, e) })
}

func (l *lab) end() {
	for _, stop := range l.stop {
		stop()
	}
	l.wg.Wait()
}

// drill orders a drill and returns how it ended and its report.
func (l *lab) drill(o Order) (org.Plan, Report) {
	l.t.Helper()
	e, k := l.member("Z")
	o, err := Complete(k.Library.Facts(l.t.Context()), o)
	if err != nil {
		l.t.Fatal(err)
	}
	o.Before = Rows(l.st.View())
	p, err := Plan(o, k.Library.Times)
	if err == nil {
		p, err = e.Start(l.t.Context(), p)
	}
	if err == nil {
		p, err = e.Await(l.t.Context(), p.ID, func(string) {})
	}
	if err != nil {
		l.t.Fatal(err)
	}
	rs := Reports(l.st.View())
	if len(rs) == 0 || rs[len(rs)-1].ID != p.ID {
		l.t.Fatalf("%s (%s): no report", p.State, p.Held)
	}
	<-time.After(2 * time.Second) // another second in the next id
	return p, rs[len(rs)-1]
}

// TestDrill carries drills out, one that passes, one in which clients wait too
// long, one that fails, and checks their reports.
func TestDrill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.run("MBX2")
		defer l.end()
		move := Order{Exercise: Move, Database: "DB01", Allowed: time.Second, By: "ann"}
		p, r := l.drill(move)
		if mt, _ := l.st.View().Mount("DB01"); p.State != org.PlanDone || mt.Active != "MBX1" {
			t.Errorf("%s (%s), left on %s", p.State, p.Held, mt.Active)
		}
		if !r.Passed || r.Before == "" || r.After == "" || len(r.Measures) != 1 || r.Versions["MBX2"] != "v1" || len(r.Changed) != 0 || len(r.Steps) != 5 {
			t.Errorf("%+v", r)
		}
		l.slow.Store(int64(3 * time.Second))
		if _, r = l.drill(move); r.Passed || r.Verdict != "failed: a client waited 3s, 1s were allowed" {
			t.Errorf("%+v", r)
		}
		l.slow.Store(0)
		l.stuck.Store(true)
		p, r = l.drill(move)
		if p.State != org.PlanUndone || r.Passed || len(r.Measures) != 1 || !strings.HasPrefix(r.Verdict, "failed: the drill ended before its time, move database: not within 5m0s") {
			t.Errorf("%s (%s): %+v", p.State, p.Held, r)
		}
		if said, err := Verify(Reports(l.st.View()), l.ca.cert); err != nil || len(said) != 1 || !strings.Contains(said[0], "all 3 reports") {
			t.Errorf("%v %q", err, said)
		}
	})
}

// TestFailover has a server hang: others take its databases, its host ends what
// hangs, and the report says what the group did.
func TestFailover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		var once sync.Once
		l.st.Obey(func(s *plantest.State) {
			if !s.Has(org.HostOrderKey("MBX1")) {
				return
			}
			once.Do(func() {
				s.Set("boot/MBX1", "")
				s.Set(org.RecoveryPrefix+"1", org.Recovery{ID: "1", Server: "MBX2", Action: "Failover", Target: "DB01", Begun: time.Now(), Allowed: true, Cause: "MBX1 is silent"})
				time.AfterFunc(2*time.Second, func() {
					l.st.Put("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX2", InSync: []org.ServerName{"MBX2", "MBX3"}})
				})
				time.AfterFunc(12*time.Second, func() { l.st.Put("boot/MBX1", "c") })
				time.AfterFunc(15*time.Second, func() {
					l.st.Put("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX2", InSync: []org.ServerName{"MBX1", "MBX2", "MBX3"}})
				})
			})
		})
		l.run("MBX2")
		defer l.end()
		if _, err := Complete(maintain.Facts{Servers: []maintain.Server{{Name: "MBX1"}}}, Order{Exercise: Failover, Server: "MBX1"}); !kind.Is(err, kind.Invalid) {
			t.Errorf("nobody allowed it: %v", err)
		}
		p, r := l.drill(Order{Exercise: Failover, Server: "MBX1", Allow: Failover})
		if p.State != org.PlanDone || !r.Passed || !slices.Equal(r.Changed, []string{"DB01 is active on MBX2, it was on MBX1"}) || len(r.Deeds) != 1 || r.Deeds[0].Cause != "MBX1 is silent" {
			t.Errorf("%s (%s): %+v", p.State, p.Held, r)
		}
		if took := p.Steps[4].Ended.Sub(p.Created); took < 12*time.Second {
			t.Errorf("%s: %s after the begin, sooner than the host ended what hangs", p.Steps[4].Name, took)
		}
	})
}

// TestReseed has a copy emptied and made anew, once, though the server that
// carries the drill out dies after it ordered that.
func TestReseed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		all := []org.ServerName{"MBX1", "MBX2", "MBX3"}
		begun := 0
		l.st.Hook(func(by org.ServerName, done bool) bool {
			v := l.st.Snapshot()
			mt, _ := v.Mount("DB01")
			if !done || mt.IsInSync("MBX3") || begun > 0 {
				return true
			}
			begun++
			l.st.Set(plantest.RoleKey, "MBX1")
			l.stop["MBX2"]()
			time.AfterFunc(20*time.Second, func() {
				l.st.Put("seeded/MBX3", "1")
				l.st.Put("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX1", InSync: all})
			})
			return false
		})
		l.run("MBX2", "MBX1")
		defer l.end()
		p, r := l.drill(Order{Exercise: Reseed, Database: "DB01", Server: "MBX3", Seed: 1})
		def, _ := l.st.View().Database("DB01")
		if c, _ := def.Copy("MBX3"); p.State != org.PlanDone || !r.Passed || begun != 1 || c.SeedCount != 1 {
			t.Errorf("%s (%s): %s, begun %d, %+v", p.State, p.Held, r.Verdict, begun, def)
		}
		if took := p.Steps[2].Ended.Sub(p.Steps[2].Begun); took < 19*time.Second {
			t.Errorf("the seed was not waited for: %s", took)
		}
		for _, o := range []Order{{Exercise: Reseed, Database: "DB09"}, {Exercise: Reseed, Database: "DB01", Server: "MBX1"}} {
			if _, err := Complete(group(), o); err == nil {
				t.Errorf("%+v is not refused", o)
			}
		}
	})
}

// TestInterrupted has the server that carries a drill out die before and after
// its writes, each of a move and some of the others: another goes on, there is
// one report, and nothing is left.
func TestInterrupted(t *testing.T) {
	for _, c := range []struct {
		o    Order
		how  string
		each int
	}{
		{Order{Exercise: Move, Database: "DB01"}, "before", 1},
		{Order{Exercise: Move, Database: "DB01"}, "after", 1},
		{Order{Exercise: Restore, Database: "DB01"}, "after", 3},
		{Order{Exercise: ReseedSpare, Database: "DB01", Server: "MBX3", Volume: "Vol1", Spare: "Vol2"}, "after", 3},
		{Order{Exercise: Network, Network: "Replication01"}, "after", 3},
	} {
		n := 1
		for ; interrupted(t, c.o, c.how, n); n += c.each {
			continue
		}
		if n <= 10 {
			t.Errorf("%s, %s: only %d writes", c.o.Exercise, c.how, n)
		}
	}
}

// interrupted has the server die at its n-th write, false where there are fewer.
func interrupted(t *testing.T, o Order, how string, n int) (reached bool) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.obeyVolumes()
		l.st.Put(cluster.NetworkKey("Replication01"), org.Network{Name: "Replication01", Replication: true})
		writes := 0
		l.st.Hook(func(by org.ServerName, done bool) bool {
			if by != "MBX2" || done != (how == "after") {
				return by != "MBX2" || writes < n
			}
			if writes++; writes == n {
				reached = true
				l.st.Set(plantest.RoleKey, "MBX3")
				l.stop["MBX2"]()
			}
			return writes < n
		})
		l.run("MBX2", "MBX3")
		defer l.end()
		p, r := l.drill(o)
		if p.State != org.PlanDone || !r.Passed || len(Reports(l.st.View())) != 1 {
			t.Errorf("%s, %s write %d: %s (%s), %s", o.Exercise, how, n, p.State, p.Held, r.Verdict)
		}
		l.clean(fmt.Sprintf("%s, %s write %d", o.Exercise, how, n))
		if _, err := Verify(Reports(l.st.View()), l.ca.cert); err != nil {
			t.Errorf("%s write %d: %v", how, n, err)
		}
	})
	return reached
}
