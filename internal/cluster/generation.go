package cluster

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/time/rate"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/agreed"
	"github.com/postern-mail/postern/internal/org"
)

// sectionGeneration is where each server publishes the generation it is of.
const sectionGeneration = "cluster/generation"

// givenUpFile says in a data folder that the others went on without this server.
const givenUpFile = "given-up"

// generation is the group's, as the view has it.
func generationOf(v *View) org.Generation {
	g := org.Generation{Generation: 1}
	if it, ok := v.Get(org.GenerationKey); ok && json.Unmarshal(it.Value, &g) != nil {
		return org.Generation{Generation: 1}
	}
	return g
}

// Newer is the newest generation that a member was heard to be of; below or
// equal to the view's unless the others went on without this server.
func (c *Cluster) Newer() int64 { return c.newer.Load() }

// behind tells that the agreed state this server keeps is not the group's any
// more.
func (c *Cluster) behind() bool { return c.newer.Load() > generationOf(c.View()).Generation }

// Voting tells whether this server keeps the agreed state and votes on it.
func (c *Cluster) Voting() bool {
	b, _ := c.currentBackend()
	return b != nil && b.member != nil && !b.member.Learner()
}

// noticeEvery is the pause between two looks for a newer generation.
const noticeEvery = 500 * time.Millisecond

// keepGeneration hears whether the others went on without this server. If they
// did and kept it, it begins anew with their agreed state; if they gave it up, it
// ends. The latter it cannot hear in the mesh, as nobody speaks with it: it asks
// at the open protocol of who is not heard.
func (c *Cluster) keepGeneration(ctx context.Context) error {
	next := 0
	for ctx.Err() == nil {
		changed := c.PeersChanged()
		mine := generationOf(c.View()).Generation
		c.Publish(sectionGeneration, codec.MustMarshal(mine))
		var silent []org.ServerName
		for _, p := range c.Peers() {
			if p.State != PeerUp {
				silent = append(silent, p.Server)
				continue
			}
			var theirs int64
			if b, _, ok := c.Published(p.Server, sectionGeneration); ok && codec.Unmarshal(b, &theirs) == nil && theirs > mine {
				c.comeAfter(p.Server, theirs)
			}
		}
		if len(silent) > 0 {
			next++
			if err := c.askNotice(ctx, silent[next%len(silent)], mine); err != nil {
				return err
			}
		}
		t := time.NewTimer(noticeEvery)
		select {
		case <-ctx.Done():
		case <-changed:
		case <-t.C:
		}
		t.Stop()
	}
	return nil
}

// comeAfter makes this server leave the agreed state it kept for that of a
// newer generation, which kept it as a member.
func (c *Cluster) comeAfter(peer org.ServerName, theirs int64) {
	if c.newer.Swap(theirs) == theirs {
		return
	}
	c.events.Emit(evNewer, "%s is of generation %d: this server leaves its own agreed state for it", peer, theirs)
	c.anew()
}

// anew ends the present way to the agreed state; reach finds the next.
func (c *Cluster) anew() {
	select {
	case c.regroup <- struct{}{}:
	default:
	}
}

// setAside puts the agreed state of an older generation away. The last one is kept.
func (c *Cluster) setAside() error {
	if !c.behind() || !agreed.HasData(filepath.Join(c.cfg.Dir, etcdDir)) {
		return nil
	}
	old := filepath.Join(c.cfg.Dir, etcdDir+".old")
	if err := os.RemoveAll(old); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(c.cfg.Dir, etcdDir), old); err != nil {
		return err
	}
	return syncDir(c.cfg.Dir)
}

// askNotice asks a server that is not heard whether the group went on without
// this one. The error is that of a server that was given up.
func (c *Cluster) askNotice(ctx context.Context, s org.ServerName, mine int64) error {
	ctx, cancel := context.WithTimeout(ctx, attempt)
	defer cancel()
	conn, err := c.Dial(ctx, s, protoNotice)
	if err != nil {
		return nil
	}
	defer conn.Close()
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	var a notice
	if writeNotice(conn, notice{Group: c.self.Group, Identity: c.self.Identity, Generation: mine}) != nil || readNotice(conn, &a) != nil {
		return nil
	}
	if a.Group != c.self.Group || a.Generation <= mine || !a.GivenUp {
		return nil
	}
	c.newer.Store(a.Generation)
	c.events.Emit(evGivenUp, "%s says: the group is of generation %d and gave this server up; it stops. Its databases and its queue stay where they are", s, a.Generation)
	if err := writeFile(filepath.Join(c.cfg.Dir, givenUpFile), mustJSON(a)); err != nil {
		return err
	}
	return &kind.Error{Kind: kind.Denied, Text: "the group went on without this server", Err: ErrRemoved,
		Hint: "take it in again: postern cluster token at another server, then postern join --replace TOKEN here; databases and queue stay"}
}

// notice is both question and answer of the open protocol, CBOR after two bytes of
// length.
type notice struct {
	Group      string `cbor:"1,keyasint" json:"group"`
	Identity   string `cbor:"2,keyasint,omitempty" json:"identity,omitempty"` // who asks
	Generation int64  `cbor:"3,keyasint" json:"generation"`
	GivenUp    bool   `cbor:"4,keyasint,omitempty" json:"given_up"` // that identity is refused
}

const maxNotice = 512

func writeNotice(w io.Writer, n notice) error {
	b := codec.MustMarshal(n)
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(b))), b...))
	return err
}

func readNotice(r io.Reader, n *notice) error {
	var head [2]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint16(head[:])
	if size > maxNotice {
		return kind.Errorf(kind.Invalid, "notice of %d bytes, want at most %d", size, maxNotice)
	}
	b := make([]byte, size)
	if _, err := io.ReadFull(r, b); err != nil {
		return err
	}
	return codec.Unmarshal(b, n)
}

// serveNotice tells one caller, who need not be a member, whether it was given
// up. It tells nothing else but the generation.
func (c *Cluster) serveNotice(_ context.Context, conn net.Conn) {
	select {
	case c.notices.slots <- struct{}{}:
		defer func() { <-c.notices.slots }()
	default:
		return
	}
	if !c.notices.rate.Allow() {
		return
	}
	conn.SetDeadline(time.Now().Add(2 * attempt))
	var q notice
	if readNotice(conn, &q) != nil || q.Group != c.self.Group {
		return
	}
	v := c.View()
	_, refused := v.Get(dirRemoved + q.Identity)
	_ = writeNotice(conn, notice{Group: c.self.Group, Generation: generationOf(v).Generation, GivenUp: refused && c.Quorum()}) // a caller that left does not want it
}

func newNoticeLimits() *joinLimits {
	return &joinLimits{rate: rate.NewLimiter(20, 40), slots: make(chan struct{}, 8)}
}
