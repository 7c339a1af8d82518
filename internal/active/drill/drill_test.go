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
	if said, err := Verify([]Report{good[2], good[0], good[1]}, ca.cert); err != nil || len(said) != 3 {
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

func TestBalance(t *testing.T) {
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
		if lost, doubled := balance(c.confirmed, c.there, c.open); lost != c.lost || doubled != c.doubled {
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
		{Order{Exercise: Move, Database: "DB01", To: "MBX1"}, kind.Conflict},
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
	id   *identity
	slow atomic.Int64 // nanoseconds that clients measure
}

func (w *world) Me() org.ServerName                              { return "MBX1" }
func (w *world) Heard(org.ServerName) bool                       { return true }
func (w *world) Statuses(org.ServerName) []org.CopyStatus        { return nil }
func (w *world) Leader(context.Context) org.ServerName           { return "MBX1" }
func (w *world) Primary() org.ServerName                         { return w.State.Primary() }
func (w *world) View() *cluster.View                             { return w.State.View() }
func (w *world) Boot(org.ServerName) (boot, version string)      { return "b", "v1" }
func (w *world) Red() []string                                   { return nil }
func (w *world) Identity() (certificate []byte, k crypto.Signer) { return w.id.cert.Raw, w.id.key }

func (w *world) MoveTo(_ context.Context, db org.DatabaseName, to org.ServerName, _ string) error {
	mt, _ := w.View().Mount(db)
	mt.Active = to
	w.Put("mounts/"+string(db), mt)
	return nil
}

// clients tell what they measure, as servers do.
func (w *world) clients(ctx context.Context, t *testing.T, e *plan.Engine) {
	told := false
	for ctx.Err() == nil {
		if p, ok := e.Running(); ok {
			o, measuring := Measuring(p)
			for _, s := range o.Meters {
				m := Measure{Server: s, Database: "DB01", Begun: time.Now(), Operations: 10, Longest: time.Duration(w.slow.Load())}
				if !measuring && told {
					m.Ended = time.Now()
				} else if !measuring {
					continue
				}
				told = true
				op, err := MeasureOp(p.ID, m)
				if err != nil {
					t.Error(err)
				}
				if it, ok := w.View().Get(op.Key); !ok || !m.Ended.IsZero() && !strings.Contains(string(it.Value), "ended") {
					_, _ = w.Commit(ctx, cluster.Txn{Then: []cluster.Op{op}}) // the next turn tries again
				}
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// TestDrill carries two drills out and checks their reports.
func TestDrill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		ca := issue(t, nil, now.Add(-time.Hour), now.Add(24*time.Hour))
		st := plantest.New()
		w := &world{Server: st.Server("MBX1"), id: issue(t, ca, now.Add(-time.Hour), now.Add(24*time.Hour))}
		w.slow.Store(int64(400 * time.Millisecond))
		all := []org.ServerName{"MBX1", "MBX2", "MBX3"}
		st.Put(plantest.RoleKey, "MBX1")
		for _, s := range all {
			st.Put("servers/"+string(s), org.Server{Name: s, Voter: true})
		}
		st.Put("databases/DB01", org.Database{Name: "DB01", Copies: []org.Copy{{Server: "MBX1"}, {Server: "MBX2"}, {Server: "MBX3"}}})
		st.Put("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX1", InSync: all})
		k := Kind{World: w, Library: &maintain.Library{World: w, Times: maintain.Defaults(), Now: time.Now}}
		e := plan.New(plan.Deps{Group: w.Server, RoleKey: plantest.RoleKey, Primary: st.Primary, Log: slog.New(slog.DiscardHandler)}, k)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = e.Run(ctx) }) // it returns nil
		wg.Go(func() { w.clients(ctx, t, e) })
		for _, passes := range []bool{true, false} {
			o, err := Complete(k.Library.Facts(t.Context()), Order{Exercise: Move, Database: "DB01", Allowed: time.Second})
			if err != nil {
				t.Fatal(err)
			}
			o.Before = Rows(st.View())
			p, err := Plan(o, k.Library.Times)
			if err == nil {
				p, err = e.Start(t.Context(), p)
			}
			if err == nil {
				p, err = e.Await(t.Context(), p.ID, func(string) {})
			}
			if err != nil || p.State != org.PlanDone {
				t.Fatalf("%v: %s (%s)", err, p.State, p.Held)
			}
			if mt, _ := st.View().Mount("DB01"); mt.Active != "MBX1" {
				t.Errorf("left on %s", mt.Active)
			}
			rs := Reports(st.View())
			r := rs[len(rs)-1]
			if r.ID != p.ID || r.Passed != passes || r.Before == "" || r.After == "" || len(r.Measures) != 1 || r.Versions["MBX2"] != "v1" {
				t.Errorf("%+v", r)
			}
			w.slow.Store(int64(3 * time.Second))
			<-time.After(2 * time.Second) // another second in the id
		}
		if said, err := Verify(Reports(st.View()), ca.cert); err != nil || len(said) != 2 {
			t.Errorf("%v %q", err, said)
		}
		cancel()
		wg.Wait()
	})
}
