package settings

import (
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
)

func TestChange(t *testing.T) {
	m := NewMemory()
	tries := 0
	set := func(name string) error {
		return Change(t.Context(), m, func(v *cluster.View, x *Txn) error {
			row, rev, err := Read[Connector](v, "k")
			if err != nil {
				return err
			}
			if tries++; tries == 1 { // somebody else is faster
				if _, err := m.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "k", Value: []byte(`{"name":"theirs"}`)}}}); err != nil {
					return err
				}
			}
			row.User, row.Name = row.Name, name
			return x.Put("k", rev, row)
		})
	}
	if err := set("ours"); err != nil || tries != 2 {
		t.Fatal(tries, err)
	}
	if row, _, err := Read[Connector](m.View(), "k"); err != nil || row.Name != "ours" || row.User != "theirs" {
		t.Errorf("%+v, %v", row, err)
	}
	if err := Change(t.Context(), m, func(*cluster.View, *Txn) error { return kind.Errorf(kind.NotFound, "no") }); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	m.Fail(kind.Errorf(kind.Busy, "no quorum"))
	if err := set("late"); !kind.Is(err, kind.Busy) {
		t.Error(err)
	}
	if err := Change(t.Context(), m, func(*cluster.View, *Txn) error { return nil }); err != nil {
		t.Errorf("nothing to change: %v", err)
	}
}
