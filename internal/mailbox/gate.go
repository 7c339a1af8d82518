package mailbox

import (
	"context"
	"sync"
)

// gate keeps log and index of a copy open while somebody uses them: calls
// from other rooms and servers come whenever they like, and a copy is closed
// and opened again when it starts over.
type gate struct {
	mu    sync.Mutex // guards the rest
	open  bool
	users sync.WaitGroup
	ctx   context.Context // ends when the gate closes
	end   context.CancelFunc
}

// opened lets users in.
func (g *gate) opened() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	g.ctx, g.end = context.WithCancel(context.Background())
}

// closed lets nobody in any more, asks those inside to leave, and waits.
func (g *gate) closed() {
	g.mu.Lock()
	g.open = false
	if g.end != nil {
		g.end()
	}
	g.mu.Unlock()
	g.users.Wait()
}

// enter lets a user in; the context it works with ends when the gate closes.
// ok is false, and leave nil, while the gate is closed.
func (g *gate) enter(ctx context.Context) (inside context.Context, leave func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return nil, nil, false
	}
	g.users.Add(1)
	inside, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(g.ctx, cancel)
	return inside, func() { stop(); cancel(); g.users.Done() }, true
}
