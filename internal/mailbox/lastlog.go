package mailbox

import (
	"context"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// gatherOrder asks a following copy to take what another copy holds beyond it.
type gatherOrder struct {
	from org.ServerName
	done chan struct{} // closed when it was tried
}

type (
	gatherRequest struct {
		From org.ServerName `cbor:"1,keyasint"`
	}
	gatherAnswer struct {
		End org.LSN `cbor:"1,keyasint"`
	}
)

// opGather is the call of Gather.
func opGather() op[gatherRequest, gatherAnswer] {
	return op[gatherRequest, gatherAnswer]{"Gather", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, q gatherRequest) (gatherAnswer, error) {
		err := c.gatherFrom(ctx, q.From)
		return gatherAnswer{c.jn.End().LSN}, err
	}}
}

// Gather brings the copy of db on server to the log that the copy on from holds
// beyond it, also what is not known to be confirmed: the active copy that could
// tell is gone (Exchange: attempt copy last logs). It returns where the log on
// to ends then. What one copy holds and another history does not stays out.
func (k *Keeper) Gather(ctx context.Context, db org.DatabaseName, to, from org.ServerName) (org.LSN, error) {
	a, err := callPeer[gatherRequest, gatherAnswer](ctx, k, to, "Gather", db, gatherRequest{From: from})
	return a.End, err
}

// gatherFrom waits until the following role has taken what from holds.
func (c *dbCopy) gatherFrom(ctx context.Context, from org.ServerName) error {
	o := &gatherOrder{from: from, done: make(chan struct{})}
	c.mu.Lock()
	leads := c.lead != nil
	if !leads {
		c.gathering = o // one before it is forgotten, and its caller's time ends
	}
	c.mu.Unlock()
	if leads {
		return kind.Errorf(kind.Conflict, "%s leads on %s", c.name, c.k.me)
	}
	select {
	case <-o.done:
		return nil
	case <-ctx.Done():
		return kind.Errorf(kind.Busy, "%s on %s took nothing from %s in time", c.name, c.k.me, from)
	}
}

// gatherLast does what was ordered, between two tries to reach the active copy.
func (c *dbCopy) gatherLast(ctx context.Context, term org.Term) {
	c.mu.Lock()
	o := c.gathering
	c.gathering = nil
	c.mu.Unlock()
	if o == nil {
		return
	}
	defer close(o.done)
	before := c.jn.End().LSN
	err := c.followWhole(ctx, o.from, term)
	c.log.Info("last log taken from another copy", "source", o.from, "from", before, "to", c.jn.End().LSN, "ended", err)
}
