package respond

import (
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"iter"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// rows are an agreed state in memory; other may change a row behind the back of
// the next commits.
type rows struct {
	mu     sync.Mutex // guards the rest
	vals   map[string][]byte
	revs   map[string]int64
	rev    int64
	down   bool
	fights int // commits that lose against another server
}

func newRows() *rows { return &rows{vals: map[string][]byte{}, revs: map[string]int64{}} }

func (r *rows) Get(key string) ([]byte, int64, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.vals[key]
	return v, r.revs[key], ok
}

func (r *rows) Prefix(p string) iter.Seq2[string, []byte] {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := map[string][]byte{}
	for k, v := range r.vals {
		if strings.HasPrefix(k, p) {
			all[k] = v
		}
	}
	return func(yield func(string, []byte) bool) {
		for k, v := range all {
			if !yield(k, v) {
				return
			}
		}
	}
}

func (r *rows) Changed() <-chan struct{} { return nil }

func (r *rows) Commit(_ context.Context, ops []Op) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down {
		return kind.Errorf(kind.Busy, "no quorum")
	}
	r.rev++
	for _, o := range ops {
		if !o.If {
			continue
		}
		if r.fights > 0 {
			r.fights--
			r.revs[o.Key] = r.rev
			return kind.Errorf(kind.Conflict, "%s has changed", o.Key)
		}
		if r.revs[o.Key] != o.Revision {
			return kind.Errorf(kind.Conflict, "%s has changed", o.Key)
		}
	}
	for _, o := range ops {
		r.vals[o.Key], r.revs[o.Key] = o.Value, r.rev
	}
	return nil
}

func (r *rows) Quorum() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.down
}

func (r *rows) log(t *testing.T) (out []org.Recovery) {
	t.Helper()
	for _, raw := range r.Prefix(org.RecoveryPrefix) {
		var x org.Recovery
		if err := json.Unmarshal(raw, &x); err != nil {
			t.Fatal(err)
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b org.Recovery) int { return strings.Compare(a.ID, b.ID) })
	return out
}

type actor struct {
	mu    sync.Mutex // guards deeds
	deeds []Deed
	do    func(context.Context, Deed) (string, error)
}

func (a *actor) Act(ctx context.Context, d Deed) (string, error) {
	a.mu.Lock()
	a.deeds = append(a.deeds, d)
	a.mu.Unlock()
	if a.do == nil {
		return "done", nil
	}
	return a.do(ctx, d)
}

func (a *actor) count() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.deeds)
}

type clock struct{ why string }

func (c clock) Now() time.Time          { return time.Now() }
func (c clock) Trusted() (bool, string) { return c.why == "", c.why }

func newGate(t *testing.T, r Rows, a Actor, change func(*GateDeps)) *Gate {
	t.Helper()
	j, err := OpenJournal(filepath.Join(t.TempDir(), "recovery.json"))
	if err != nil {
		t.Fatal(err)
	}
	d := GateDeps{Server: "MBX1", Rows: r, Actor: a, Clock: clock{}, Local: j, Mode: func(string) Mode { return Act }, Held: func() string { return "" },
		Spare: func() Spare { return Spare{Serving: map[org.Component][]org.ServerName{"imap": {"MBX2"}}} }, Size: func() (int, int) { return 3, 30 },
		Second: func(org.Component) (string, bool) { return "MBX2 saw imap fail", true }}
	if change != nil {
		change(&d)
	}
	return NewGate(d)
}

func restartIMAP() Order {
	return Order{Action: RestartService, Target: "imap", Set: "IMAP", Monitor: `IMAP\SelfTest`, Responder: "A.Restart", State: org.Degraded, Cause: "no greeting",
		Evidence: make([]org.RecoveryEvidence, 20)}
}

func TestDeedIsOnRecordBeforeItBegins(t *testing.T) {
	r := newRows()
	a := &actor{}
	a.do = func(context.Context, Deed) (string, error) {
		if log := r.log(t); len(log) != 1 || !log[0].Allowed || !log[0].Ended.IsZero() {
			t.Errorf("at the begin of the deed the log has %+v", log)
		}
		if _, _, ok := r.Get(BudgetKey); !ok {
			t.Error("at the begin of the deed there is no grant")
		}
		return "listener is open again", nil
	}
	row, err := newGate(t, r, a, nil).Do(t.Context(), restartIMAP())
	if err != nil || row.Result != "listener is open again" || row.Ended.IsZero() || len(row.Evidence) != 10 {
		t.Fatalf("%+v, %v", row, err)
	}
	if log := r.log(t); len(log) != 1 || log[0].Ended.IsZero() {
		t.Fatalf("log %+v", log)
	}
}

func TestGateRefuses(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*GateDeps)
		order  Order
		want   string
	}{
		{"off", func(d *GateDeps) { d.Mode = func(string) Mode { return Off } }, restartIMAP(), "recovery is off"},
		{"held", func(d *GateDeps) { d.Held = func() string { return "recovery_actions is Inactive by Sidelined" } }, restartIMAP(), "Sidelined"},
		{"clock", func(d *GateDeps) { d.Clock = clock{"the clock jumped by 3h"} }, restartIMAP(), "jumped by 3h"},
		{"a probe that lies", func(d *GateDeps) {
			d.Second = func(org.Component) (string, bool) { return "MBX2 saw imap work 3s ago", false }
		}, Order{Action: Offline, Target: "imap", WantSecond: true}, "MBX2 saw imap work"},
		{"spare", func(d *GateDeps) { d.Spare = func() Spare { return Spare{} } }, Order{Action: Offline, Target: "imap"}, "no other server"},
	} {
		r, a := newRows(), &actor{}
		row, err := newGate(t, r, a, c.change).Do(t.Context(), c.order)
		if err != nil || row.Allowed || !strings.Contains(row.Refused, c.want) || a.count() != 0 {
			t.Errorf("%s: %+v, %v, %d deeds", c.name, row, err, a.count())
		}
		if log := r.log(t); len(log) != 1 || log[0].Refused != row.Refused {
			t.Errorf("%s: log %+v", c.name, log)
		}
		if _, _, ok := r.Get(BudgetKey); ok {
			t.Errorf("%s: a refusal has changed the budget", c.name)
		}
	}
}

// TestDryRunChangesNothing: rows of the log, and no other; the same judgement on
// a history of its own.
func TestDryRunChangesNothing(t *testing.T) {
	r, a := newRows(), &actor{}
	g := newGate(t, r, a, func(d *GateDeps) { d.Mode = func(string) Mode { return DryRun } })
	first, err := g.Do(t.Context(), restartIMAP())
	if err != nil || !first.Allowed || !first.DryRun {
		t.Fatalf("%+v, %v", first, err)
	}
	second, err := g.Do(t.Context(), restartIMAP())
	if err != nil || second.Allowed || !strings.Contains(second.Refused, "the gap is") {
		t.Fatalf("the second is not judged by the history of dry runs: %+v, %v", second, err)
	}
	if a.count() != 0 {
		t.Error("a dry run did something")
	}
	for key := range r.Prefix("") {
		if !strings.HasPrefix(key, org.RecoveryPrefix) {
			t.Errorf("a dry run wrote %s", key)
		}
	}
	// What a dry run noted does not hold back what is done in earnest.
	if row, err := newGate(t, r, a, nil).Do(t.Context(), restartIMAP()); err != nil || !row.Allowed || a.count() != 1 {
		t.Errorf("%+v, %v", row, err)
	}
}

func TestResponderThatFails(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(context.Context, Deed) (string, error)
		want string
	}{
		"error": {func(context.Context, Deed) (string, error) { return "", errors.New("port is taken") }, "failed: port is taken"},
		"panic": {func(context.Context, Deed) (string, error) { panic("nil map") }, "failed: RestartService imap: nil map"},
	} {
		r := newRows()
		row, err := newGate(t, r, &actor{do: c.do}, nil).Do(t.Context(), restartIMAP())
		if err != nil || row.Result != c.want || row.Ended.IsZero() || !row.Allowed {
			t.Errorf("%s: %+v, %v", name, row, err)
		}
	}
}

// TestResponderThatHangs is left behind after its time; after a few of those no
// deed is begun.
func TestResponderThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		a := &actor{do: func(context.Context, Deed) (string, error) { <-free; return "", nil }}
		g := newGate(t, newRows(), a, nil)
		for i := range maxLost + 1 {
			o := restartIMAP()
			o.Target = "imap" + string(rune('a'+i))
			began := time.Now()
			row, err := g.Do(t.Context(), o)
			if err != nil || !strings.HasPrefix(row.Result, "failed:") {
				t.Errorf("%+v, %v", row, err)
			}
			if took := time.Since(began); i < maxLost && took != deedTime+deedGrace || i == maxLost && took != 0 {
				t.Errorf("deed %d took %v", i, took)
			}
		}
		if a.count() != maxLost {
			t.Errorf("%d deeds were begun", a.count())
		}
		close(free)
		synctest.Wait()
		if row, _ := g.Do(t.Context(), Order{Action: RestartService, Target: "smtp"}); row.Result != "" || !row.Allowed {
			t.Errorf("after all came back: %+v", row)
		}
	})
}

func TestGateLosesTheRow(t *testing.T) {
	r, a := newRows(), &actor{}
	r.fights = casTries - 1
	if row, err := newGate(t, r, a, nil).Do(t.Context(), restartIMAP()); err != nil || !row.Allowed || a.count() != 1 {
		t.Errorf("four lost races: %+v, %v", row, err)
	}
	r, a = newRows(), &actor{}
	r.fights = casTries
	if row, err := newGate(t, r, a, nil).Do(t.Context(), restartIMAP()); err != nil || row.Allowed || !strings.Contains(row.Refused, "the group is busy") || a.count() != 0 {
		t.Errorf("five lost races: %+v, %v", row, err)
	}
}

// TestWithoutQuorum: only a part of this server is restarted, on local counts,
// and the journal keeps it for later.
func TestWithoutQuorum(t *testing.T) {
	r, a := newRows(), &actor{}
	r.down = true
	g := newGate(t, r, a, nil)
	row, err := g.Do(t.Context(), restartIMAP())
	if err != nil || !row.Allowed || a.count() != 1 {
		t.Fatalf("%+v, %v", row, err)
	}
	if row, err := g.Do(t.Context(), restartIMAP()); err != nil || row.Allowed || !strings.Contains(row.Refused, "the gap is") {
		t.Fatalf("local counts do not hold: %+v, %v", row, err)
	}
	if row, err := g.Do(t.Context(), Order{Action: Offline, Target: "imap"}); err != nil || row.Allowed || !strings.Contains(row.Refused, "no quorum") {
		t.Fatalf("a deed of the group without quorum: %+v, %v", row, err)
	}
	waiting := g.deps.Local.Waiting()
	if len(waiting) != 3 || waiting[0].ID != row.ID || waiting[0].Ended.IsZero() {
		t.Fatalf("the journal has %+v", waiting)
	}
	again, err := OpenJournal(g.deps.Local.path)
	if err != nil || len(again.Waiting()) != 3 || len(again.Budget().Grants) != 1 {
		t.Fatalf("after a restart: %v", err)
	}
	r.mu.Lock()
	r.down = false
	r.mu.Unlock()
	if row, err := g.Do(t.Context(), restartIMAP()); err != nil || row.Allowed {
		t.Fatalf("with quorum again the local grant is forgotten: %+v, %v", row, err)
	}
}

func TestOneDeedAtATime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free := make(chan struct{})
		a := &actor{do: func(context.Context, Deed) (string, error) { <-free; return "", nil }}
		g := newGate(t, newRows(), a, nil)
		go func() { _, _ = g.Do(t.Context(), restartIMAP()) }()
		synctest.Wait()
		if _, err := g.Do(t.Context(), Order{Action: RestartService, Target: "smtp"}); !kind.Is(err, kind.Busy) {
			t.Errorf("a second deed: %v", err)
		}
		if row, err := g.Do(t.Context(), Order{Action: Escalate, Cause: "look"}); err != nil || !row.Allowed {
			t.Errorf("telling waits for a deed: %+v, %v", row, err)
		}
		close(free)
		synctest.Wait()
	})
}

// TestJournalDamaged: a file that cannot be read is set aside.
func TestJournalDamaged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "recovery.json")
	if err := ReplaceFile(path, []byte("{half"), true); err != nil {
		t.Fatal(err)
	}
	j, err := OpenJournal(path)
	if err != nil || len(j.Waiting()) != 0 {
		t.Fatal(err)
	}
	if err := j.Write(org.Recovery{ID: "1"}); err != nil {
		t.Fatal(err)
	}
	for _, row := range j.Waiting() {
		if err := j.Written(row); err != nil {
			t.Fatal(err)
		}
	}
	if len(j.Waiting()) != 0 {
		t.Error("rows that were written still wait")
	}
}

// TestOnlyGateCallsTheActor reads the room's sources: no other call of Act.
func TestOnlyGateCallsTheActor(t *testing.T) {
	calls := 0
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			return err
		}
		ast.Inspect(f, func(n ast.Node) bool {
			c, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if s, ok := c.Fun.(*ast.SelectorExpr); ok && s.Sel.Name == "Act" {
				calls++
				if filepath.Base(path) != "gate.go" {
					t.Errorf("%s calls Act", path)
				}
			}
			return true
		})
		return nil
	})
	if err != nil || calls != 1 {
		t.Fatalf("%d calls of Act, want the Gate's; %v", calls, err)
	}
}
