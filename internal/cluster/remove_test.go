package cluster

import (
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/ca"
	"github.com/postern-mail/postern/internal/cluster/joining"
	"github.com/postern-mail/postern/internal/org"
)

// taken makes a server a member that never runs.
func (n *node) taken(name org.ServerName, replace bool) org.Server {
	n.t.Helper()
	text, _, err := n.CreateToken(n.t.Context(), TokenOptions{})
	if err != nil {
		n.t.Fatal(err)
	}
	token, err := joining.ParseToken(text)
	if err != nil {
		n.t.Fatal(err)
	}
	_, csr, err := ca.Request()
	if err != nil {
		n.t.Fatal(err)
	}
	if _, err := n.takeIn(n.t.Context(), joining.Request{Version: joining.Version, Secret: token.Secret, Name: name, Site: "A", Addr: "127.0.0.2:7443", CSR: csr, Replace: replace}); err != nil {
		n.t.Fatal(err)
	}
	row, _ := n.View().Server(name)
	return row
}

// TestRemovalJudgesAgain: what changed while the vote of a server that was judged
// ended counts: a copy that was put there, another server in its place.
func TestRemovalJudgesAgain(t *testing.T) {
	n := first(t)
	ctx := t.Context()
	row := n.taken("MBX2", false)
	rejudge := func(force bool) error {
		return n.takeOut(ctx, row, force, Op{Key: dirLeaving + row.Identity, Delete: true})
	}
	database := func(servers ...org.ServerName) {
		t.Helper()
		d := org.Database{Name: "DB1"}
		for _, s := range servers {
			d.Copies = append(d.Copies, org.Copy{Server: s})
		}
		if _, err := n.Commit(ctx, Txn{Then: []Op{{Key: dirDatabases + "DB1", Value: mustJSON(d)}}}); err != nil {
			t.Fatal(err)
		}
	}
	database("MBX1")
	before := n.View().Revision()
	database("MBX1", "MBX2")
	if err := rejudge(false); !kind.Is(err, kind.Invalid) {
		t.Errorf("a copy was put there: %v", err)
	}
	if _, err := n.commit(ctx, put("x", "1"), still(dirDatabases, before)); !kind.Is(err, kind.Conflict) {
		t.Errorf("a database was written after the look: %v", err)
	}

	b, _ := n.currentBackend()
	if _, err := b.client.MemberAddAsLearner(ctx, []string{row.PeerURL}); err != nil {
		t.Fatal(err)
	}
	next := n.taken("MBX2", true) // ends the vote of the former one
	// etcd makes the number of a member from its URLs and the second.
	if _, err := b.client.MemberAddAsLearner(ctx, []string{next.PeerURL, "https://127.0.0.2:7444"}); err != nil {
		t.Fatal(err)
	}
	if err := rejudge(true); !kind.Is(err, kind.Conflict) {
		t.Errorf("another server took its place: %v", err)
	}
	if list, err := b.client.MemberList(ctx); err != nil || len(list.Members) != 2 {
		t.Errorf("the vote of the other server went: %v %v", list, err)
	}
	if now, ok := n.View().Server("MBX2"); !ok || now.Identity != next.Identity {
		t.Errorf("the other server's row is %+v", now)
	}

	database("MBX1")
	row = next
	next.Version = "2" // something else
	if err := n.putServer(ctx, n.View(), next); err != nil {
		t.Fatal(err)
	}
	ad, err := n.admission(ctx, row, true)
	if err != nil {
		t.Fatal(err)
	}
	live := func(is bool) {
		t.Helper()
		if _, err := n.Commit(ctx, Txn{Then: []Op{{Key: dirLive + "MBX2", Value: []byte("{}"), Delete: !is}}}); err != nil {
			t.Fatal(err)
		}
	}
	live(true)
	if err := rejudge(false); !kind.Is(err, kind.Invalid) {
		t.Errorf("it was started: %v", err)
	}
	if _, err := n.Commit(ctx, ad.txn); !kind.Is(err, kind.Conflict) {
		t.Errorf("it was started, and is replaced: %v", err)
	}
	live(false)
	if err := rejudge(false); err != nil {
		t.Errorf("its row was changed in something else: %v", err)
	}
	if _, ok := n.View().Server("MBX2"); ok {
		t.Error("its row is still there")
	}
}
