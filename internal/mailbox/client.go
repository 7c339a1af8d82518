package mailbox

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// callWait is how long a call waits for a failover when its caller set no limit.
const callWait = 60 * time.Second

// perCall is a context whose limit, be it of hours, is not that of a call: each has
// callWait.
type perCall struct{ context.Context }

// Deadline implements context.Context.
func (perCall) Deadline() (time.Time, bool) { return time.Time{}, false }

// Client is the store as callers see it (mail.Store): it finds the active
// copy, here or on another server, and tries again over a failover. Changes
// carry keys, so trying again applies them once.
type Client struct{ k *Keeper }

var _ mail.Store = (*Client)(nil)

// send runs o at the active copy of db until it answers or ctx ends.
func send[Q, A any](ctx context.Context, k *Keeper, o op[Q, A], at org.MailboxRef, q Q) (A, error) {
	var zero A
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callWait)
		defer cancel()
	}
	var last error
	for try := 0; ; try++ {
		changed := k.group.Changed()
		m, ok := k.group.View().Mount(at.Database)
		switch {
		case !ok:
			return zero, kind.Errorf(kind.NotFound, "database %s does not exist", at.Database)
		case m.Active == "":
			last = kind.Errorf(kind.Busy, "database %s is dismounted", at.Database)
		default:
			a, err := o.at(ctx, k, m.Active, at.Database, at, q)
			if err == nil {
				return a, nil
			}
			if k := kind.Of(err); k != kind.Busy && k != kind.Elsewhere {
				return zero, err
			}
			last = err
		}
		if !pauseForView(ctx, changed, try) {
			return zero, kind.Errorf(kind.Busy, "database %s: no answer in time: %w", at.Database, last)
		}
	}
}

// pauseForView waits for a change of the view, or a little while, longer with
// each try.
func pauseForView(ctx context.Context, changed <-chan struct{}, try int) bool {
	t := time.NewTimer(min(time.Duration(1+try)*5*time.Millisecond, 100*time.Millisecond))
	defer t.Stop()
	select {
	case <-changed:
		return true
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// keyed makes sure a change has a key, as it may be sent more than once.
func keyed(k mail.Key) mail.Key {
	if k == (mail.Key{}) {
		return newKey()
	}
	return k
}

// Setup implements mail.Store.
func (cl *Client) Setup(ctx context.Context, at org.MailboxRef, r mail.MailboxSetup) error {
	_, err := send(ctx, cl.k, opSetup, at, r)
	return err
}

// Deliver implements mail.Store: recipients of several databases are served
// at the same time.
func (cl *Client) Deliver(ctx context.Context, d mail.Delivery) ([]mail.Delivered, error) {
	d.Key = keyed(d.Key)
	byDB := map[org.DatabaseName][]int{}
	for i, r := range d.Recipients {
		byDB[r.Mailbox.Database] = append(byDB[r.Mailbox.Database], i)
	}
	out := make([]mail.Delivered, len(d.Recipients))
	if len(byDB) == 1 {
		return send(ctx, cl.k, opDeliver, d.Recipients[0].Mailbox, d)
	}
	var mu sync.Mutex // guards out and first
	var first error
	var wg sync.WaitGroup
	for db, idx := range byDB {
		wg.Go(func() {
			part := d
			part.Recipients = make([]mail.Recipient, len(idx))
			for j, i := range idx {
				part.Recipients[j] = d.Recipients[i]
			}
			got, err := send(ctx, cl.k, opDeliver, org.MailboxRef{Database: db}, part)
			mu.Lock()
			defer mu.Unlock()
			if err == nil && len(got) != len(idx) {
				err = kind.Errorf(kind.Internal, "deliver to %s: %d answers for %d recipients", db, len(got), len(idx))
			}
			if err != nil {
				first = cmpOr(first, err)
				return
			}
			for j, i := range idx {
				out[i] = got[j]
			}
		})
	}
	wg.Wait()
	return out, first
}

// Append implements mail.Store.
func (cl *Client) Append(ctx context.Context, at org.MailboxRef, r mail.Append) (mail.Appended, error) {
	r.Key = keyed(r.Key)
	return send(ctx, cl.k, opAppend, at, r)
}

// Folders implements mail.Store.
func (cl *Client) Folders(ctx context.Context, at org.MailboxRef) ([]mail.Folder, error) {
	return send(ctx, cl.k, opFolders, at, none{})
}

// ChangeFolder implements mail.Store.
func (cl *Client) ChangeFolder(ctx context.Context, at org.MailboxRef, r mail.FolderChange) (mail.Folder, error) {
	r.Key = keyed(r.Key)
	return send(ctx, cl.k, opFolder, at, r)
}

// Messages implements mail.Store.
func (cl *Client) Messages(ctx context.Context, at org.MailboxRef, r mail.MessagesRequest) (mail.Messages, error) {
	return send(ctx, cl.k, opMessages, at, r)
}

// Body implements mail.Store.
func (cl *Client) Body(ctx context.Context, at org.MailboxRef, r mail.BodyRequest) ([]byte, error) {
	return send(ctx, cl.k, opBody, at, r)
}

// ChangeFlags implements mail.Store.
func (cl *Client) ChangeFlags(ctx context.Context, at org.MailboxRef, r mail.FlagsChange) (mail.FlagsChanged, error) {
	r.Key = keyed(r.Key)
	return send(ctx, cl.k, opFlags, at, r)
}

// Expunge implements mail.Store.
func (cl *Client) Expunge(ctx context.Context, at org.MailboxRef, r mail.Expunge) (mail.Expunged, error) {
	r.Key = keyed(r.Key)
	return send(ctx, cl.k, opExpunge, at, r)
}

// Copy implements mail.Store.
func (cl *Client) Copy(ctx context.Context, at org.MailboxRef, r mail.CopyRequest) (mail.Copied, error) {
	r.Key = keyed(r.Key)
	return send(ctx, cl.k, opCopy, at, r)
}

// Search implements mail.Store.
func (cl *Client) Search(ctx context.Context, at org.MailboxRef, r mail.SearchRequest) (mail.Found, error) {
	return send(ctx, cl.k, opSearch, at, r)
}

// Changes implements mail.Store.
func (cl *Client) Changes(ctx context.Context, at org.MailboxRef, r mail.ChangesRequest) (mail.Changes, error) {
	return send(ctx, cl.k, opChanges, at, r)
}

// Usage implements mail.Store.
func (cl *Client) Usage(ctx context.Context, at org.MailboxRef) (mail.Usage, error) {
	return send(ctx, cl.k, opUsage, at, none{})
}

// Delivered tells whether the mailbox got the delivery of an identity within
// the duplicate window, and as what email. That the email was removed since
// makes no difference.
func (cl *Client) Delivered(ctx context.Context, at org.MailboxRef, identity [32]byte) (mail.EmailID, bool, error) {
	a, err := send(ctx, cl.k, opDelivered, at, deliveredRequest{identity})
	return a.Email, a.Known, err
}

// Watch implements mail.Store.
func (cl *Client) Watch(at org.MailboxRef) mail.Watch { return cl.k.watches.open(cl.k, at) }

// watchTable keeps the watches of this server's sessions. There is one line
// to each database with a watched mailbox, however many sessions there are.
type watchTable struct {
	mu  sync.Mutex // guards the rest
	dbs map[org.DatabaseName]*watchedDB
}

type watchedDB struct {
	boxes map[org.MailboxID]map[*watch]struct{}
	stop  context.CancelFunc
}

type watch struct {
	t  *watchTable
	at org.MailboxRef
	c  chan struct{} // buffered
	// newest is what Newest answers.
	newest atomic.Uint64
}

// C implements mail.Watch.
func (w *watch) C() <-chan struct{} { return w.c }

// Newest implements mail.Watch.
func (w *watch) Newest() mail.ModSeq { return mail.ModSeq(w.newest.Swap(0)) }

func (w *watch) ping(m mail.ModSeq) {
	for {
		old := w.newest.Load()
		if old >= uint64(m) || w.newest.CompareAndSwap(old, uint64(m)) {
			break
		}
	}
	select {
	case w.c <- struct{}{}:
	default:
	}
}

func (t *watchTable) open(k *Keeper, at org.MailboxRef) *watch {
	w := &watch{t: t, at: at, c: make(chan struct{}, 1)}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.dbs == nil {
		t.dbs = map[org.DatabaseName]*watchedDB{}
	}
	d := t.dbs[at.Database]
	if d == nil {
		ctx, cancel := context.WithCancel(k.life())
		d = &watchedDB{boxes: map[org.MailboxID]map[*watch]struct{}{}, stop: cancel}
		t.dbs[at.Database] = d
		go t.follow(ctx, k, at.Database)
	}
	if d.boxes[at.ID] == nil {
		d.boxes[at.ID] = map[*watch]struct{}{}
	}
	d.boxes[at.ID][w] = struct{}{}
	return w
}

// Close implements mail.Watch.
func (w *watch) Close() {
	w.t.mu.Lock()
	defer w.t.mu.Unlock()
	d := w.t.dbs[w.at.Database]
	if d == nil {
		return
	}
	delete(d.boxes[w.at.ID], w)
	if len(d.boxes[w.at.ID]) == 0 {
		delete(d.boxes, w.at.ID)
	}
	if len(d.boxes) == 0 {
		d.stop()
		delete(w.t.dbs, w.at.Database)
	}
}

// deliver passes news on to the watches they concern.
func (t *watchTable) deliver(db org.DatabaseName, n watchNews) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d := t.dbs[db]
	if d == nil {
		return
	}
	if n.All {
		for _, ws := range d.boxes {
			for w := range ws {
				w.ping(mail.AnyModSeq)
			}
		}
		return
	}
	n.each(func(b org.MailboxID, m mail.ModSeq) {
		for w := range d.boxes[b] {
			w.ping(m)
		}
	})
}

// follow keeps the line to the active copy of a database, wherever it goes.
// Each new line begins with news that anything may have changed.
func (t *watchTable) follow(ctx context.Context, k *Keeper, db org.DatabaseName) {
	for try := 0; ctx.Err() == nil; try++ {
		changed := k.group.Changed()
		m, ok := k.group.View().Mount(db)
		if ok && m.Active != "" {
			got := false
			pass := func(n watchNews) {
				got = true
				t.deliver(db, n)
			}
			if m.Active == k.me {
				t.followLocal(ctx, k, db, pass)
			} else {
				t.followRemote(ctx, k, m.Active, db, pass)
			}
			if got {
				try = 0
			}
		}
		pauseForView(ctx, changed, try)
	}
}

func (t *watchTable) followLocal(ctx context.Context, k *Keeper, db org.DatabaseName, pass func(watchNews)) {
	c := k.copy(db)
	if c == nil || c.leader() == nil {
		return
	}
	sub := c.hub.subscribe()
	defer sub.close()
	pass(watchNews{All: true})
	for c.leader() != nil {
		select {
		case <-ctx.Done():
			return
		case <-sub.signal:
			pass(sub.take())
		}
	}
}

func (t *watchTable) followRemote(ctx context.Context, k *Keeper, s org.ServerName, db org.DatabaseName, pass func(watchNews)) {
	conn, err := k.group.Conn(s)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st, err := conn.NewStream(ctx, &grpc.StreamDesc{StreamName: "Watch", ServerStreams: true}, "/"+serviceName+"/Watch")
	if err != nil {
		return
	}
	if st.SendMsg(&watchRequest{db}) != nil || st.CloseSend() != nil {
		return
	}
	// A server that hangs does not end the stream; the mount row tells.
	go func() {
		defer cancel()
		for {
			changed := k.group.Changed()
			if m, ok := k.group.View().Mount(db); !ok || m.Active != s {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		var n watchNews
		if st.RecvMsg(&n) != nil {
			return
		}
		pass(n)
	}
}
