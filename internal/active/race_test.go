package active

import (
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// overtaken are changes of others after a move was decided and before it is
// written; the target was MBX02 then.
var overtaken = []struct {
	name   string
	dead   bool // the active copy, so that nobody hands over
	change func(f *fake)
	says   string // empty: it is moved all the same
}{
	{"out of sync, handed over", false, takeOut("MBX02"), "no longer in sync"},
	{"out of sync, the active copy is dead", true, takeOut("MBX02"), "no longer in sync"},
	{"the handover was taken back", false, takeBack, "took the handover back"},
	{"another out of sync", false, takeOut("MBX03"), ""},
	{"another out of sync, the active copy is dead", true, takeOut("MBX03"), ""},
}

// takeBack is what an active copy does that waited too long for its successor.
func takeBack(f *fake) {
	mt := f.mount("DB0001")
	mt.Thaws++
	f.put(mailbox.MountKey("DB0001"), mt)
}

func takeOut(s org.ServerName) func(*fake) {
	return func(f *fake) {
		mt := f.mount("DB0001")
		mt.InSync = slices.DeleteFunc(slices.Clone(mt.InSync), func(x org.ServerName) bool { return x == s })
		f.put(mailbox.MountKey("DB0001"), mt)
	}
}

// TestOvertakenMove: what others change between the choice of a target and the
// new term is looked at once more.
func TestOvertakenMove(t *testing.T) {
	for _, c := range overtaken {
		t.Run(c.name, func(t *testing.T) {
			f := newFake(t, 3, 1)
			m := f.manager(Config{}, Deps{})
			if c.dead {
				f.lose("MBX01")
			}
			f.onSync = func(n int) {
				if n == 2 { // the first is before the choice
					c.change(f)
				}
			}
			_, err := m.Move(t.Context(), Order{Database: "DB0001", To: "MBX02", Why: "a test"})
			mt := f.mount("DB0001")
			if c.says == "" {
				if err != nil || mt.Active != "MBX02" || mt.Term != 4 || mt.Handed == c.dead {
					t.Errorf("%v, %+v", err, mt)
				}
				return
			}
			if !kind.Is(err, kind.Conflict) || !strings.Contains(err.Error(), c.says) || mt.Active != "MBX01" || mt.Term != 3 {
				t.Errorf("%v, %+v", err, mt)
			}
		})
	}
}
