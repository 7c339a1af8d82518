package shadow

import (
	"context"
	"sync"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// serviceName carries the version of the calls between servers: a field may be
// added to a request, a meaning is never changed.
const serviceName = "postern.transport.v1"

// copyRequest offers a message to be held. The caller is its primary.
type copyRequest struct {
	Queue  string `cbor:"1,keyasint"`
	Epoch  uint64 `cbor:"2,keyasint"`
	Try    uint8  `cbor:"3,keyasint"`
	Accept []byte `cbor:"4,keyasint"`
	Body   []byte `cbor:"5,keyasint"`
}

// copyAnswer says that the copy is durable, or Fenced: messages of that epoch
// are not the caller's any more.
type copyAnswer struct {
	Fenced bool `cbor:"1,keyasint,omitempty"`
}

// notice is queue.Notice on its way.
type notice struct {
	ID   []byte            `cbor:"1,keyasint"`
	Fate queue.Fate        `cbor:"2,keyasint"`
	At   int64             `cbor:"3,keyasint"`
	Rows []queue.RowChange `cbor:"4,keyasint,omitempty"`
}

type noticeBatch struct {
	Queue   string   `cbor:"1,keyasint"`
	Epoch   uint64   `cbor:"2,keyasint"`
	Notices []notice `cbor:"3,keyasint"`
}

// noticeAnswer says that the notices are durable. Queue is the identity of the
// holder's queue; Fenced, that the caller's epoch is.
type noticeAnswer struct {
	Queue  string `cbor:"1,keyasint"`
	Fenced bool   `cbor:"2,keyasint,omitempty"`
}

// heldRequest lists copies that the caller holds for the server that is asked.
type heldRequest struct {
	Queue string `cbor:"1,keyasint"` // the copies are of the queue of this identity
	IDs   []byte `cbor:"2,keyasint"` // 16 bytes each
}

type heldAnswer struct {
	Queue string   `cbor:"1,keyasint"` // identity of the queue that answers
	Known []notice `cbor:"2,keyasint"` // of those that are over
	// Unknown are messages that this queue never had, 16 bytes each.
	Unknown []byte `cbor:"3,keyasint,omitempty"`
}

// claimsRequest asks what is known of messages, in a view that is at least as
// new as the revision.
type claimsRequest struct {
	Revision int64  `cbor:"1,keyasint"`
	IDs      []byte `cbor:"2,keyasint"`
}

type claimsAnswer struct {
	// Claims are in the order asked. Where they have many rows there are fewer
	// than asked, but one; the rest is to be asked again.
	Claims []claim `cbor:"1,keyasint"`
}

// claimState is what a server has to do with a message.
type claimState uint8

const (
	claimNone        claimState = 0
	claimHeld        claimState = 1 // a copy; its primary's word counts
	claimFenced      claimState = 2 // a copy that is to be taken
	claimReconciling claimState = 3 // an own message that is fenced
	claimOwned       claimState = 4
	claimFinished    claimState = 5
	claimVoid        claimState = 6
)

type claim struct {
	State   claimState        `cbor:"1,keyasint"`
	Primary org.ServerName    `cbor:"2,keyasint,omitempty"` // of a copy
	Epoch   uint64            `cbor:"3,keyasint,omitempty"`
	Try     uint8             `cbor:"4,keyasint,omitempty"`
	Rows    []queue.RowChange `cbor:"5,keyasint,omitempty"` // that are finished
}

type fetchRequest struct {
	ID []byte `cbor:"1,keyasint"`
}

type fetchAnswer struct {
	Identity []byte `cbor:"1,keyasint"`
	Body     []byte `cbor:"2,keyasint"`
}

type askRequest struct {
	Method  string `cbor:"1,keyasint"`
	Request []byte `cbor:"2,keyasint"`
}

type askAnswer struct {
	Answer []byte `cbor:"1,keyasint"`
}

// caller makes a call at another server.
type caller func(ctx context.Context, s org.ServerName, method string, in, out any) error

// remote is the caller over the group's links.
func (k *Keeper) remote(ctx context.Context, s org.ServerName, method string, in, out any) error {
	conn, err := k.d.Group.Conn(s)
	if err != nil {
		return kind.Errorf(kind.Busy, "connect to %s: %w", s, err)
	}
	return conn.Invoke(ctx, "/"+serviceName+"/"+method, in, out)
}

// handler answers one kind of call of a member.
type handler func(ctx context.Context, peer org.ServerName, decode func(any) error) (any, error)

func (k *Keeper) handlers() map[string]handler {
	return map[string]handler{
		"Copy":   handle(k, k.serveCopy),
		"Notify": handle(k, k.serveNotify),
		"Held":   handle(k, k.serveHeld),
		"Claims": handle(k, k.serveClaims),
		"Fetch":  handle(k, k.serveFetch),
		"Ask":    handle(k, k.serveAsk),
	}
}

// gate lets calls in while the Keeper runs: the links live longer than the
// queue.
type gate struct {
	mu    sync.Mutex // guards open, and calls while it is open
	open  bool
	calls sync.WaitGroup
	ctx   context.Context // ends when the gate closes
	end   context.CancelFunc
}

func (g *gate) start() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.open = true
	g.ctx, g.end = context.WithCancel(context.Background())
}

// stop lets nobody in any more and waits until all have left.
func (g *gate) stop() {
	g.mu.Lock()
	g.open = false
	g.end()
	g.mu.Unlock()
	g.calls.Wait()
}

// enter lets a call in; the context ends with the call's or the gate.
func (g *gate) enter(ctx context.Context) (inside context.Context, leave func(), ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.open {
		return ctx, nil, false
	}
	g.calls.Add(1)
	inside, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(g.ctx, cancel)
	return inside, func() { stop(); cancel(); g.calls.Done() }, true
}

func handle[Q, A any](k *Keeper, do func(context.Context, org.ServerName, *Q) (*A, error)) handler {
	return func(ctx context.Context, peer org.ServerName, decode func(any) error) (any, error) {
		var q Q
		if err := decode(&q); err != nil {
			return nil, err
		}
		ctx, leave, ok := k.gate.enter(ctx)
		if !ok {
			return nil, kind.Errorf(kind.Busy, "transport does not run on %s", k.me)
		}
		defer leave()
		a, err := do(ctx, peer, &q)
		if err != nil {
			return nil, err
		}
		return a, nil
	}
}

func (k *Keeper) service() *grpc.ServiceDesc {
	d := &grpc.ServiceDesc{ServiceName: serviceName, HandlerType: (*any)(nil)}
	for name, h := range k.handlers() {
		d.Methods = append(d.Methods, grpc.MethodDesc{MethodName: name,
			Handler: func(_ any, ctx context.Context, decode func(any) error, around grpc.UnaryServerInterceptor) (any, error) {
				do := func(ctx context.Context, _ any) (any, error) {
					peer := cluster.PeerName(ctx)
					if peer == "" {
						return nil, kind.Errorf(kind.Denied, "call of transport: the caller is not known")
					}
					return h(ctx, peer, decode)
				}
				if around == nil {
					return do(ctx, nil)
				}
				return around(ctx, nil, &grpc.UnaryServerInfo{Server: k, FullMethod: "/" + serviceName + "/" + name}, do)
			}})
	}
	return d
}

// serve answers a call that came in another way than over the links.
func (k *Keeper) serve(ctx context.Context, peer org.ServerName, method string, request []byte) ([]byte, error) {
	a, err := k.handlers()[method](ctx, peer, func(v any) error { return codec.Unmarshal(request, v) })
	if err != nil {
		return nil, err
	}
	return codec.Marshal(a)
}

func packIDs(ids []mail.TraceID) []byte {
	b := make([]byte, 0, 16*len(ids))
	for _, id := range ids {
		b = append(b, id[:]...)
	}
	return b
}

// unpackIDs reads identities, at most maxIDs.
func unpackIDs(b []byte) ([]mail.TraceID, error) {
	if len(b)%16 != 0 || len(b) > 16*maxIDs {
		return nil, kind.Errorf(kind.Invalid, "%d bytes of identities", len(b))
	}
	ids := make([]mail.TraceID, 0, len(b)/16)
	for ; len(b) > 0; b = b[16:] {
		ids = append(ids, mail.TraceID(b[:16]))
	}
	return ids, nil
}

func oneID(b []byte) (mail.TraceID, error) {
	if len(b) != 16 {
		return mail.TraceID{}, kind.Errorf(kind.Invalid, "identity of %d bytes", len(b))
	}
	return mail.TraceID(b), nil
}

// change is a row in the form in which a holder of a copy applies it.
func change(r *queue.RecipientRow) queue.RowChange {
	c := queue.RowChange{N: r.N, State: r.State, Attempts: r.Attempts, Next: nanos(r.Next), Code: r.Code, Status: r.Status, Text: r.Text,
		Host: r.Host, TLS: r.TLS, Mailbox: r.Mailbox, Duplicate: r.Duplicate, Child: r.Child, At: nanos(r.Last), Repeat: r.RepeatPossible,
		Dest: r.Dest, Org: r.Organization}
	if r.Why != 0 {
		c.New = &queue.RowNew{Parent: r.Parent, Address: r.Address, ORcpt: r.Original, Notify: r.Notify, Dest: r.Dest, Org: r.Organization, Why: r.Why}
	}
	return c
}

// final tells that a row has an end that no other server may give it again.
func final(s queue.State) bool {
	switch s {
	case queue.StateDelivered, queue.StateRelayed, queue.StateReturned, queue.StateExpanded, queue.StateDropped,
		queue.StateQuarantined, queue.StateRemoved:
		return true
	}
	return false
}

// progress is what another holder has to know of the rows: those with such an
// end, and those that were added.
func progress(rows []queue.RecipientRow) []queue.RowChange {
	var out []queue.RowChange
	for i := range rows {
		switch r := &rows[i]; {
		case final(r.State):
			out = append(out, change(r))
		case r.Why != 0:
			out = append(out, queue.RowChange{N: r.N, New: change(r).New})
		}
	}
	return out
}

func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
