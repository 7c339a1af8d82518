package settings

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// state is an agreed state whose rows a test puts one by one.
type state struct {
	revision int64
	rows     map[string]cluster.Item
	view     *cluster.View
	changed  chan struct{}
}

func newState() *state {
	return &state{rows: map[string]cluster.Item{}, view: cluster.NewView(0, nil), changed: make(chan struct{})}
}

func (s *state) View() *cluster.View      { return s.view }
func (s *state) Changed() <-chan struct{} { return s.changed }

func (s *state) put(t testing.TB, key string, row any) {
	t.Helper()
	b, raw := row.([]byte)
	if !raw {
		var err error
		if b, err = json.Marshal(row); err != nil {
			t.Fatal(err)
		}
	}
	s.revision++
	s.rows[key] = cluster.Item{Value: b, Revision: s.revision}
	s.view = cluster.NewView(s.revision, s.rows)
}

func connector(o, name string) Connector {
	return Connector{Name: name, Organization: org.OrganizationID(o), Direction: DirectionOut, Kind: KindSMTP, Hosts: []string{"mx.example"}}
}

func TestGroupHasItsDefaults(t *testing.T) {
	s := newState()
	b := New(s, nil)
	g := b.Group()
	if !*g.ShadowEnabled || g.HoldTime.Std() != 48*time.Hour || g.RetriesRemoteSite != 4 || g.RejectOnShadowFailure != "auto" ||
		g.MalwareScanFail != "closed" || g.Greylist {
		t.Fatalf("%+v", g)
	}
	off := false
	s.put(t, GroupKey, Group{ShadowEnabled: &off, HoldTime: conf.Duration(time.Hour)})
	if g = b.Group(); *g.ShadowEnabled || g.HoldTime.Std() != time.Hour || g.InDoubtWait.Std() != 5*time.Minute {
		t.Fatalf("%+v", g)
	}
	if allocs := testing.AllocsPerRun(100, func() { b.Group() }); allocs > 0 {
		t.Errorf("%v allocations for a question that is asked per message", allocs)
	}
}

func TestRowsThatCannotBeUsedAreMissing(t *testing.T) {
	var said bytes.Buffer
	s := newState()
	b := New(s, slog.New(slog.NewTextHandler(&said, nil)))
	s.put(t, GroupKey, []byte(`{"hold_time":`))
	s.put(t, ConnectorKey("red", "good"), connector("red", "good"))
	s.put(t, ConnectorKey("red", "wide"), []byte(`{"name":"wide","organization":"red","direction":"in","kind":"smtp","networks":["0.0.0.0/0"]}`))
	s.put(t, ConnectorKey("blue", "stolen"), connector("red", "stolen"))
	s.put(t, PolicyKey("red"), Policy{Organization: "red", SpamAction: "eat"})
	for range 3 {
		if b.Group().HoldTime.Std() != 48*time.Hour {
			t.Error("no defaults")
		}
		if got := b.AllConnectors(); len(got) != 1 || got[0].Name != "good" || got[0].Port != 25 || got[0].TLS != "required" {
			t.Errorf("%+v", got)
		}
		if p := b.Policy("red"); p.SpamAction != "quarantine" || p.QuarantineDays != 30 {
			t.Errorf("%+v", p)
		}
	}
	if _, ok := b.Connector("blue", "stolen"); ok {
		t.Error("a connector of another organization")
	}
	if n := strings.Count(said.String(), "cannot be used"); n != 4 {
		t.Errorf("said %d times:\n%s", n, said.String())
	}
}

func TestListsFollowTheView(t *testing.T) {
	s := newState()
	b := New(s, nil)
	if b.Rules("red") != nil || b.Keys("red.example") != nil {
		t.Fatal("rows out of nothing")
	}
	for i, name := range []string{"c", "a", "b"} {
		s.put(t, RuleKey("red", name), Rule{Name: name, Organization: "red", Priority: 10 - i/2*10, Action: "bcc", Target: "x@red.example"})
	}
	var order string
	for _, r := range b.Rules("red") {
		order += r.Name
	}
	if order != "bac" {
		t.Errorf("rules in the order %s", order)
	}
	if got := b.Rules("re"); got != nil {
		t.Errorf("a shorter name finds %v", got)
	}
	s.put(t, KeyOf("red.example", "s1"), DKIMKey{Domain: "red.example", Selector: "s1", Algorithm: "ed25519", Sealed: []byte{1}, State: DKIMSigning})
	if got := b.Keys("red.example"); len(got) != 1 || len(b.AllKeys()) != 1 {
		t.Errorf("%+v", got)
	}
}

func TestCachesAreBounded(t *testing.T) {
	s := newState()
	b := New(s, nil)
	for i := range maxLists + 10 {
		b.Keys(fmt.Sprint("d", i, ".example"))
	}
	if n := len(b.keys.lists); n > maxLists {
		t.Errorf("%d lists", n)
	}
}

func BenchmarkGroup(b *testing.B) {
	s := newState()
	s.put(b, GroupKey, Group{})
	book := New(s, nil)
	for b.Loop() {
		book.Group()
	}
}
