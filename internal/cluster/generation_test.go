package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestActivate: the majority of the votes is lost with a site. A server of the
// other is activated by force, keeps all rows, and the second one there joins
// again by itself. The lost site returns with a majority of the old votes, and
// every server of it ends.
func TestActivate(t *testing.T) {
	in := func(s org.SiteName) func(*JoinOptions) { return func(o *JoinOptions) { o.Site = s } }
	quick := func(c *Config) { c.CommitTimeout = 500 * time.Millisecond }
	a1 := first(t, quick)
	wit := a1.join(2, in("A"), func(o *JoinOptions) { o.Witness = true })
	b1, b2 := a1.join(3, in("B")), a1.join(4, in("B"))
	lost := []*node{a1, wit}
	for _, n := range []*node{a1, wit, b1} {
		eventually(t, string(n.Name())+" votes", n.votes)
	}
	rev, err := a1.Commit(t.Context(), put("domains/kept", "1"))
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "B has it", func() bool { return b1.View().Revision() >= rev && b2.View().Revision() >= rev })
	order := Activation{Site: "B", GiveUp: []org.ServerName{"MBX1", "MBX2"}, By: "test", Why: "site A burns"}
	if err := b1.Activate(t.Context(), order); !kind.Is(err, kind.Conflict) {
		t.Errorf("with a majority: %v, want conflict", err)
	}
	for _, n := range lost {
		n.kill()
	}
	eventually(t, "quorum is lost", func() bool { return !b1.Quorum() && !b2.Quorum() })
	began := time.Now()
	if err := b1.Activate(t.Context(), order); err != nil {
		t.Fatal(err)
	}
	t.Logf("the agreed state answers after %s", time.Since(began).Round(time.Millisecond))
	eventually(t, "the second server of B votes", func() bool { return b2.votes() && !b2.behind() && b2.Quorum() })
	t.Logf("the second server votes after %s", time.Since(began).Round(time.Millisecond))
	if _, err := b2.Commit(t.Context(), put("domains/after", "1")); err != nil {
		t.Fatal(err)
	}
	v := b2.View()
	if _, ok := v.Get("domains/kept"); !ok || generationOf(v).Generation != 2 || len(v.Servers()) != 4 {
		t.Errorf("rows of the new generation: %+v, %d servers, kept %v", generationOf(v), len(v.Servers()), ok)
	}
	if it, _ := v.Get(org.SitePrefix + "A"); !bytes.Contains(it.Value, []byte(`"stopped"`)) {
		t.Errorf("row of site A: %s", it.Value)
	}
	for _, n := range lost { // all at once: they are a majority of the old votes
		n.start()
		n.run()
	}
	for _, n := range lost {
		select {
		case err := <-n.ended:
			n.stop = nil
			if !errors.Is(err, ErrRemoved) {
				t.Errorf("%s ends with %v", n.Name(), err)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%s, which was given up, goes on", n.Name())
		}
		if _, err := os.Stat(filepath.Join(n.dir, givenUpFile)); err != nil {
			t.Error(err)
		}
	}
	token, _, err := b1.CreateToken(t.Context(), TokenOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := Join(t.Context(), JoinOptions{Dir: a1.dir, Token: token, Name: "MBX1", Site: "A", Addr: a1.addr, Replace: true}); err != nil {
		t.Fatal(err)
	}
	a1.again()
	a1.ready()
	eventually(t, "it is taken in again", func() bool { return generationOf(a1.View()).Generation == 2 && a1.Quorum() })
}

// TestForcedRows: what a new generation keeps and gives up.
func TestForcedRows(t *testing.T) {
	rows := map[string]Item{}
	for _, s := range []org.Server{
		{Name: "A1", Site: "A", Identity: "a1", Voter: true, PeerURL: "x"}, {Name: "B1", Site: "B", Identity: "b1", Voter: true, PeerURL: "y"},
		{Name: "B2", Site: "B", Identity: "b2", Voter: true, PeerURL: "z"}, {Name: "C1", Site: "C", Identity: "c1"}, {Name: "W", Site: "W", Identity: "w", Witness: true, Voter: true},
	} {
		rows[dirServers+string(s.Name)] = Item{Value: mustJSON(s)}
	}
	var got []string
	for _, o := range forcedOps(NewView(1, rows), "B1", Activation{Site: "B", GiveUp: []org.ServerName{"A1", "W"}, By: "me"}, time.Time{}) {
		what := "put"
		if o.Delete {
			what = "delete"
		}
		got = append(got, what+" "+o.Key)
	}
	want := "[put removed/a1 delete live/A1 put servers/A1 put servers/B2 put removed/w delete live/W put servers/W put sites/A put sites/B put group/generation]"
	if fmt.Sprint(got) != want {
		t.Errorf("got\n%v\nwant\n%s", got, want)
	}
}

// TestVoters: five vote at most, of four three; whoever has been there longest
// gets a vote that became free, a witness before all others, a silent one never.
func TestVoters(t *testing.T) {
	server := func(n int, votes bool) org.Server {
		return org.Server{Name: org.ServerName(fmt.Sprintf("M%d", n)), Voter: votes, Joined: time.Unix(int64(n), 0)}
	}
	group := func(voters, all int) (out []org.Server) {
		for n := range all {
			out = append(out, server(n+1, n < voters))
		}
		return out
	}
	for _, c := range []struct {
		name    string
		servers []org.Server
		silent  org.ServerName
		want    org.ServerName
	}{
		{"alone", group(1, 1), "", ""},
		{"the second", group(1, 2), "", "M2"},
		{"the third", group(2, 3), "", "M3"},
		{"four have three votes", group(3, 4), "", ""},
		{"five have five", group(3, 5), "", "M4"},
		{"sixteen have five", group(5, 16), "", ""},
		{"a voter was removed", group(5, 16)[1:], "", "M6"},
		{"the next one is silent", group(5, 16)[1:], "M6", "M7"},
		{"a witness goes before", append(group(2, 3), org.Server{Name: "W", Witness: true, Joined: time.Unix(99, 0)}), "", "W"},
	} {
		got, ok := nextVoter(c.servers, func(s org.ServerName) bool { return s != c.silent })
		if got != c.want || ok != (c.want != "") {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// TestAlternateWitness: it votes as soon as no other witness does.
func TestAlternateWitness(t *testing.T) {
	all := func(org.ServerName) bool { return true }
	servers := []org.Server{{Name: "A1", Voter: true}, {Name: "B1", Voter: true}, {Name: "W1", Witness: true, Voter: true}, {Name: "W2", Witness: true, Alternate: true}}
	if s, ok := nextVoter(servers, all); ok {
		t.Errorf("%s is to vote besides the witness", s)
	}
	servers[0].Voter, servers[2].Voter = false, false // given up with their site
	if s, _ := nextVoter(servers[1:], func(s org.ServerName) bool { return s != "W1" }); s != "W2" {
		t.Errorf("%q is to vote after the witness, want W2", s)
	}
}

// TestNotices: the open protocol bounds what it reads.
func TestNotices(t *testing.T) {
	var b bytes.Buffer
	want := notice{Group: "g", Identity: "i", Generation: 3, GivenUp: true}
	if err := writeNotice(&b, want); err != nil {
		t.Fatal(err)
	}
	var got notice
	if err := readNotice(bytes.NewReader(b.Bytes()), &got); err != nil || got != want {
		t.Errorf("%+v %v", got, err)
	}
	for _, bad := range []string{"", "\x00", "\xff\xffabc", "\x00\x03abc", "\x00\x09\xa1"} {
		if err := readNotice(bytes.NewReader([]byte(bad)), &got); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}
