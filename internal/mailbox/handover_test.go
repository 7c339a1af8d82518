package mailbox

import (
	"context"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// TestThawIsToldFirst: a handover that is taken back stands in the mount row
// before the copy serves again, so that whoever asked for it cannot take it as
// one that holds. One that failed by itself needs no word.
func TestThawIsToldFirst(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	k := startKeeper(t, g.server("MBX1"), newDisks())
	eventually(t, "MBX1 leads", func() bool { ready, _ := k.Lead("DB01"); return ready })
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := k.copy("DB01").leading(ctx)
	if err != nil {
		t.Fatal(err)
	}
	short, end := context.WithTimeout(ctx, 10*time.Millisecond)
	defer end()
	if _, err := l.handover(short, "MBX2"); err == nil || g.mount(t).Thaws != 0 {
		t.Errorf("to nobody that is there: %v, %+v", err, g.mount(t))
	}
	for n := range int64(2) {
		if _, err := l.handover(ctx, ""); err != nil {
			t.Fatal(err)
		}
		k.g.partition(true)
		if err := l.thaw(ctx); !kind.Is(err, kind.Busy) || !frozen(l) {
			t.Errorf("serves again, and the row does not tell: %v", err)
		}
		k.g.partition(false)
		if err := l.thaw(ctx); err != nil || frozen(l) {
			t.Errorf("taken back: %v", err)
		}
		if m := g.mount(t); m.Thaws != n+1 || m.Term != 1 || m.Active != "MBX1" {
			t.Errorf("taken back %d times: %+v", n+1, m)
		}
	}
}

func frozen(l *leader) bool {
	l.seqMu.Lock()
	defer l.seqMu.Unlock()
	return l.frozen
}
