package mailbox

import (
	"context"
	"errors"
	"io/fs"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// serviceName carries the version of the calls between servers: a field may
// be added to a request, a meaning is never changed.
const serviceName = "postern.mailbox.v1"

// call is what every request between servers carries.
type call[T any] struct {
	Database org.DatabaseName `cbor:"1,keyasint"`
	At       org.MailboxRef   `cbor:"2,keyasint"`
	Request  T                `cbor:"3,keyasint"`
}

// answer wraps what comes back, so that every type encodes as a map.
type answer[T any] struct {
	Value T `cbor:"1,keyasint"`
}

// handler answers one kind of call at the server that has the copy.
type handler[Q, A any] func(ctx context.Context, c *dbCopy, at org.MailboxRef, q Q) (A, error)

// op is a call by its name, both ends of it.
type op[Q, A any] struct {
	name string
	do   handler[Q, A]
}

// desc makes the gRPC method of an op.
func (o op[Q, A]) desc() grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: o.name, Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in call[Q]
		if err := dec(&in); err != nil {
			return nil, err
		}
		v, err := o.local(ctx, srv.(*Keeper), in.Database, in.At, in.Request)
		if err != nil {
			return nil, toStatus(err)
		}
		return &answer[A]{v}, nil
	}}
}

// local runs an op on this server's copy.
func (o op[Q, A]) local(ctx context.Context, k *Keeper, db org.DatabaseName, at org.MailboxRef, q Q) (A, error) {
	if c := k.copy(db); c != nil {
		if inside, leave, ok := c.gate.enter(ctx); ok {
			defer leave()
			a, err := o.do(inside, c, at, q)
			return a, c.diskError(err)
		}
	}
	var zero A
	return zero, kind.Errorf(kind.Elsewhere, "no open copy of %s on %s", db, k.me)
}

// diskError makes an error of this copy's disk one that is tried again: the
// database is about to go on elsewhere. A file that vanished with its disk would
// else be "not found", which is said of mailboxes, and mail for them returned.
func (c *dbCopy) diskError(err error) error {
	var no syscall.Errno
	if !errors.Is(err, fs.ErrNotExist) && !errors.As(err, &no) || kind.Is(err, kind.Full) {
		return err
	}
	c.vol.nudge()
	return kind.Errorf(kind.Busy, "%s on %s: its disk failed: %w", c.name, c.k.me, err)
}

// at runs an op on the copy of server s, here or over the network.
func (o op[Q, A]) at(ctx context.Context, k *Keeper, s org.ServerName, db org.DatabaseName, at org.MailboxRef, q Q) (A, error) {
	if s == k.me {
		return o.local(ctx, k, db, at, q)
	}
	var a answer[A]
	conn, err := k.group.Conn(s)
	if err != nil {
		return a.Value, kind.Errorf(kind.Busy, "connect to %s: %w", s, err)
	}
	// A server that hangs does not answer "elsewhere": a call to the active
	// copy ends when the mount row names another.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if at.Database != "" {
		stop := context.AfterFunc(k.epoch(db, s), cancel)
		defer stop()
	}
	err = conn.Invoke(ctx, "/"+serviceName+"/"+o.name, &call[Q]{db, at, q}, &a)
	return a.Value, fromStatus(err)
}

// callPeer runs the op of that name on the copy of server s. The types have
// to be those of the op.
func callPeer[Q, A any](ctx context.Context, k *Keeper, s org.ServerName, name string, db org.DatabaseName, q Q) (A, error) {
	o, ok := k.ops[name].(op[Q, A])
	if !ok {
		var zero A
		return zero, kind.Errorf(kind.Internal, "call %s has other types", name)
	}
	return o.at(ctx, k, s, db, org.MailboxRef{}, q)
}

// kindCodes is where our kinds begin among gRPC codes, beyond its own.
const kindCodes = 100

func toStatus(err error) error {
	return status.Error(codes.Code(kindCodes+uint32(kind.Of(err))), err.Error())
}

// fromStatus gives an error of a call its kind back. A connection that broke
// leaves the outcome unknown: Busy, and the same request may be repeated.
func fromStatus(err error) error {
	if err == nil {
		return nil
	}
	s, ok := status.FromError(err)
	if !ok {
		return err
	}
	if c := uint32(s.Code()); c >= kindCodes {
		return &kind.Error{Kind: kind.Kind(c - kindCodes), Err: errors.New(s.Message())}
	}
	switch s.Code() {
	case codes.ResourceExhausted, codes.InvalidArgument:
		return kind.Errorf(kind.Invalid, "%s", s.Message())
	case codes.Internal, codes.Unimplemented:
		return kind.Errorf(kind.Internal, "%s", s.Message())
	}
	return kind.Errorf(kind.Busy, "%s", s.Message())
}

// watchRequest asks for the changes of a database.
type watchRequest struct {
	Database org.DatabaseName `cbor:"1,keyasint"`
}

// watchNews tells which mailboxes changed; All says that any may have.
type watchNews struct {
	Boxes []org.MailboxID `cbor:"1,keyasint,omitempty"`
	All   bool            `cbor:"2,keyasint,omitempty"`
	// ModSeqs are the newest modification numbers of Boxes, in their order.
	ModSeqs []mail.ModSeq `cbor:"3,keyasint,omitempty"`
}

// each calls f for every mailbox that is named.
func (n *watchNews) each(f func(org.MailboxID, mail.ModSeq)) {
	for i, b := range n.Boxes {
		m := mail.AnyModSeq
		if i < len(n.ModSeqs) {
			m = n.ModSeqs[i]
		}
		f(b, m)
	}
}

// watchStream serves the changes of a database this server leads.
func watchStream(srv any, st grpc.ServerStream) error {
	k := srv.(*Keeper)
	var q watchRequest
	if err := st.RecvMsg(&q); err != nil {
		return err
	}
	c := k.copy(q.Database)
	if c == nil || c.leader() == nil {
		return toStatus(kind.Errorf(kind.Elsewhere, "%s is not active on %s", q.Database, k.me))
	}
	sub := c.hub.subscribe()
	defer sub.close()
	if err := st.SendMsg(&watchNews{All: true}); err != nil {
		return err
	}
	for {
		select {
		case <-st.Context().Done():
			return nil
		case <-sub.signal:
		}
		n := sub.take()
		if err := st.SendMsg(&n); err != nil {
			return err
		}
		if c.leader() == nil {
			return toStatus(kind.Errorf(kind.Elsewhere, "%s is not active on %s any more", q.Database, k.me))
		}
	}
}
