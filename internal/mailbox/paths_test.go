package mailbox

import (
	"context"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// twoWays is a choice of networks; connections of one that is down hang, as
// on a cut cable.
type twoWays struct {
	*alone
	zip bool

	mu    sync.Mutex // guards the rest
	route string
	down  map[string]bool
	conns map[*stallable]string
}

// stallable is a connection that may swallow what is written to it.
type stallable struct {
	net.Conn
	stalled atomic.Bool
}

func (c *stallable) Write(b []byte) (int, error) {
	if c.stalled.Load() {
		return len(b), nil
	}
	return c.Conn.Write(b)
}

func (w *twoWays) Route(org.ServerName, cluster.Use) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.route
}

func (w *twoWays) RouteBy(_ org.ServerName, _ cluster.Use, wish string) string { return wish }

func (w *twoWays) Carries(network string) bool {
	return network == "Client" || network == "Replication01"
}

func (w *twoWays) DialOn(ctx context.Context, s org.ServerName, proto, network string) (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.down[network] {
		return nil, kind.Errorf(kind.Busy, "%s is down", network)
	}
	c, err := w.alone.Dial(ctx, s, proto)
	if err != nil {
		return nil, err
	}
	sc := &stallable{Conn: c}
	w.conns[sc] = network
	return sc, nil
}

func (w *twoWays) Compresses(org.ServerName, net.Conn, bool) bool { return w.zip }

// use makes a network the best one; the others are silent from now on if cut,
// and as from the mesh it is told at once.
func (w *twoWays) use(network string, cut bool) {
	defer w.turn()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.route = network
	w.down = map[string]bool{}
	for c, n := range w.conns {
		if n != network && cut {
			w.down[n] = true
			c.stalled.Store(true)
		}
	}
}

// TestStreamMoves: a log stream goes to another network, from one that was cut
// and from one that works, while changes are confirmed, and the copy never
// leaves the in-sync set. A network that does not answer is not moved to.
func TestStreamMoves(t *testing.T) {
	for _, zip := range []bool{false, true} {
		g := newAgreed()
		g.define(t, "MBX1", "MBX2")
		s1, s2 := g.server("MBX1"), g.server("MBX2")
		paths := func(s *alone) *twoWays {
			return &twoWays{alone: s, zip: zip, route: "Replication01", down: map[string]bool{}, conns: map[*stallable]string{}}
		}
		w := paths(s2)
		active, passive := startKeeper(t, s1, newDisks(), paths(s1)), startKeeper(t, s2, newDisks(), w)
		eventually(t, "two copies in sync", func() bool { return len(g.mount(t).InSync) == 2 })
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := active.Client().Setup(ctx, at, mail.MailboxSetup{Organization: "o"}); err != nil {
			t.Fatal(err)
		}
		by := func(network string) func() bool {
			return func() bool {
				st := passive.copy("DB01").status()
				return st.Network == network && st.State == org.CopyHealthy
			}
		}
		eventually(t, "log comes by the best network", by("Replication01"))
		before := g.mount(t).Revision
		n := 0
		write := func() {
			t.Helper()
			for range 20 {
				n++
				text := append(body(n), []byte(strings.Repeat("words ", 500))...)
				if _, err := active.Client().Append(ctx, at, mail.Append{Folder: "INBOX", Body: text}); err != nil {
					t.Fatal(err)
				}
			}
		}
		write()
		w.use("Client", true)
		eventually(t, "log comes by the other network", by("Client"))
		write()
		w.use("Replication01", false)
		eventually(t, "log comes by the first network again", by("Replication01"))
		write()
		w.mu.Lock()
		w.route, w.down["Client"] = "Client", true
		w.mu.Unlock()
		write()
		if !by("Replication01")() {
			t.Error("the stream left for a network that does not answer")
		}
		if now := g.mount(t).Revision; now != before {
			t.Errorf("the mount row changed meanwhile: %+v", g.mount(t))
		}
		sameCopies(t, active, passive)
		active.stop()
		passive.stop()
	}
}
