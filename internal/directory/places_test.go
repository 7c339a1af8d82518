package directory

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// TestDatabaseRemovedMeanwhile: a mailbox for which a database was chosen that is
// removed before the mailbox is written is not made there.
func TestDatabaseRemovedMeanwhile(t *testing.T) {
	f, o := newFixture(t, cheap()), cheap()
	o.Store = f.store
	b := &between{Memory: f.mem}
	slow := New(b, o)
	removing := func(db org.DatabaseName, on bool) func() {
		return func() {
			it, _ := f.mem.View().Get(databaseKey(db))
			var x txn
			x.put(databaseKey(db), it.Revision, org.Database{Name: db, Removing: on})
			f.must(f.mem.Commit(t.Context(), cluster.Txn(x)))
		}
	}
	wanted := NewMailbox{Address: addr("ann@red.example"), Password: secret, Database: "DB01"}
	b.once = removing("DB01", true)
	_, _, err := slow.CreateMailbox(t.Context(), wanted)
	wantKind(t, "in a database that is being removed", err, kind.Conflict)
	removing("DB01", false)() // it was refused

	// The one with the fewest mailboxes is chosen, and another one where that goes.
	for i := range 4 {
		first, err := slow.choose(f.mem.View(), "")
		f.must(nil, err)
		next, err := slow.choose(f.mem.View(), "")
		f.must(nil, err)
		if first == next {
			t.Fatalf("%s twice", next)
		}
		b.once = removing(first, true)
		ref, err := slow.SystemMailbox(t.Context(), "red", fmt.Sprint("purpose", i))
		if f.must(nil, err); ref.Database != next {
			t.Errorf("in %s, want %s", ref.Database, next)
		}
		removing(first, false)()
	}

	b.once = func() { // all of it, between the choice and the mailbox
		it, _ := f.mem.View().Get(databaseKey("DB01"))
		var x txn
		x.drop(databaseKey("DB01"), it.Revision)
		f.must(f.mem.Commit(t.Context(), cluster.Txn(x)))
	}
	_, _, err = slow.CreateMailbox(t.Context(), wanted)
	wantKind(t, "in a database that is gone", err, kind.NotFound)
	if _, _, ok := slow.byAddress(f.mem.View(), wanted.Address); ok {
		t.Error("it is there")
	}
}
