package mailbox

import (
	"context"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestRewindTurn: of two runs that look at the same moment one has the turn, and
// so has one that lives; what a run left that died with its process holds up
// nobody on its server.
func TestRewindTurn(t *testing.T) {
	g := newAgreed()
	servers := map[org.ServerName]*alone{"MBX1": g.server("MBX1"), "MBX2": g.server("MBX2")}
	start := func(s org.ServerName) *Keeper { return &Keeper{group: servers[s], me: s, ctx: context.Background()} }
	one, two := start("MBX1"), start("MBX2")
	order := Rewind{Database: "DB01", At: time.Now()}
	take := func(k *Keeper) (*rewindTurn, error) {
		turn, _, err := k.takeRewind(t.Context(), order)
		return turn, err
	}
	holder := func() string {
		r, _ := one.rewindRow("DB01")
		return r.ID
	}

	// The other one looks after it and claims before it.
	var other *rewindTurn
	servers["MBX1"].afterView = func() {
		var err error
		if other, err = take(two); err != nil {
			t.Error(err)
		}
	}
	if turn, err := take(one); !kind.Is(err, kind.Busy) || holder() != other.row.ID {
		t.Fatalf("two runs: %+v, %v", turn, err)
	}
	if turn, err := take(two); !kind.Is(err, kind.Busy) {
		t.Fatalf("a second one on the same server: %+v, %v", turn, err)
	}

	anew := start("MBX2") // its process died
	if err := one.rewinding("DB01"); !kind.Is(err, kind.Busy) {
		t.Errorf("others cannot know: %v", err)
	}
	turn, err := take(anew)
	if err != nil || holder() != turn.row.ID {
		t.Fatalf("the server of a run that died: %v", err)
	}
	turn.leave()
	if turn, err = take(one); err != nil {
		t.Fatalf("after the end of a run: %v", err)
	}
	turn.leave()
	if holder() != "" {
		t.Errorf("%s holds on", holder())
	}
	other.end()
	<-other.done
}
