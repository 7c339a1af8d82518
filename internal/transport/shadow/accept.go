package shadow

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// section is what servers tell each other of their queues.
const section = "transport"

// published is the section.
type published struct {
	Accepting bool        `cbor:"1,keyasint"`
	Level     queue.Level `cbor:"2,keyasint"`
	Bytes     int64       `cbor:"3,keyasint"` // of the log of its queue
	Version   string      `cbor:"4,keyasint,omitempty"`
}

func (k *Keeper) publish() {
	q := k.d.Queue
	k.d.Group.Publish(section, codec.MustMarshal(published{Accepting: !k.draining.Load() && q.Room() == nil, Level: q.Level(),
		Bytes: q.Stats().LogBytes, Version: k.d.Version}))
}

// candidates are the servers that are up and say that they can hold copies.
func (k *Keeper) candidates() []Candidate {
	up := map[org.ServerName]bool{}
	for _, p := range k.d.Group.Peers() {
		up[p.Server] = p.State == cluster.PeerUp
	}
	var out []Candidate
	for _, s := range k.others(k.d.Group.View()) {
		b, heard, ok := k.d.Group.Published(s.Name, section)
		if !up[s.Name] || !ok || time.Since(heard) > publishFresh {
			continue
		}
		var p published
		if err := codec.Unmarshal(b, &p); err != nil || !p.Accepting {
			continue
		}
		out = append(out, Candidate{Server: s.Name, Remote: s.Site != k.d.Group.Site(), Bytes: p.Bytes})
	}
	return out
}

// outcome is what became of the copies of a message.
type outcome struct {
	holder org.ServerName // empty: there is no copy
	epoch  uint64         // of the copy
	tried  []org.ServerName
	err    error // the message is to be refused
}

// Accept takes a message into the queue and has another server hold a copy, both
// at once, and returns who holds it; empty where the message is accepted on this
// server alone. prefer is a server that should hold it, such as that of the
// message it reports on.
//
// It fails as queue.Accept does, and with Busy wrapping mail.ErrNoSecondCopy
// where a copy could not be made and the settings refuse that; what is there
// then is void. A message that comes with changes of others (a.Also) is never
// refused for its copy. On nil body belongs to the queue.
func (k *Keeper) Accept(ctx context.Context, a queue.Accepted, body []byte, prefer org.ServerName) (org.ServerName, error) {
	if k.draining.Load() {
		return "", kind.Errorf(kind.Busy, "accept message %s: the queue of this server is being drained", a.ID)
	}
	if k.d.Queue.Epoch() == 0 {
		return "", kind.Errorf(kind.Busy, "accept message %s: the queue of this server has not begun", a.ID)
	}
	defer k.mark(a.ID)()
	g := k.d.Settings()
	ctx, cancel := context.WithTimeout(ctx, g.AcceptTimeout.Std())
	defer cancel()
	var first []org.ServerName
	enabled := (g.ShadowEnabled == nil || *g.ShadowEnabled) && len(k.others(k.d.Group.View())) > 0
	a.Shadow = ""
	if enabled {
		if first = Order(k.candidates(), prefer, g); len(first) > 0 {
			a.Shadow = first[0]
		}
	}
	before := k.d.Queue.Epoch()
	got := make(chan outcome, 1)
	trying, stop := context.WithCancel(ctx)
	defer stop()
	if enabled {
		go func() { got <- k.copyOut(ctx, trying, a, body, first, prefer) }()
	} else {
		got <- outcome{epoch: before}
	}
	err := k.d.Queue.Accept(ctx, a, body)
	if err != nil {
		stop() // who is storing a copy now may end, so that it can be told that it is void
	}
	o := <-got
	if err != nil {
		return "", k.refuse(a, o, err)
	}
	return k.settle(ctx, a, o, before)
}

// settle ends an acceptance whose message is in the log.
func (k *Keeper) settle(ctx context.Context, a queue.Accepted, o outcome, before uint64) (org.ServerName, error) {
	if o.err != nil && len(a.Also) == 0 {
		return "", k.refuse(a, o, o.err)
	}
	c := queue.Change{ID: a.ID, At: k.d.Now().UnixNano()}
	if o.holder != a.Shadow {
		c.Shadow = &o.holder
	}
	if k.d.Queue.Epoch() != before || o.epoch != before {
		// The epoch changed meanwhile: the message may not be of a later one
		// than its copy, which could have been taken.
		c.Epoch = min(before, o.epoch)
	}
	if c.Shadow != nil || c.Epoch != 0 {
		if err := k.d.Queue.Apply(ctx, []queue.Change{c}, queue.Wait); err != nil && !kind.Is(err, kind.Conflict) {
			return "", k.refuse(a, o, err)
		}
		wake(k.wakeReconcile)
	}
	if o.holder == "" {
		wake(k.wakeReshadow)
	}
	return o.holder, nil
}

// refuse makes void what may be there of a message that is not confirmed.
func (k *Keeper) refuse(a queue.Accepted, o outcome, cause error) error {
	if kind.Is(cause, kind.Exists) || len(a.Also) > 0 {
		return cause // it is there, or may be: its copies as well
	}
	ctx, cancel := context.WithTimeout(context.Background(), min(k.t.call, 2*time.Second))
	defer cancel()
	if !kind.Is(cause, kind.Invalid) && !kind.Is(cause, kind.Conflict) {
		rows := make([]queue.RowChange, len(a.Envelope.Recipients))
		for i := range rows {
			rows[i] = queue.RowChange{N: uint16(i), State: queue.StateVoid}
		}
		err := k.d.Queue.Apply(ctx, []queue.Change{{ID: a.ID, At: k.d.Now().UnixNano(), Rows: rows}}, queue.Soon)
		if err != nil && !kind.Is(err, kind.NotFound) {
			k.d.Log.Warn("message that was not confirmed stays", "message", a.ID.String(), "error", err)
		}
	}
	// Who cannot be told finds out when it compares what it holds.
	n := notice{ID: a.ID[:], Fate: queue.FateVoid, At: k.d.Now().UnixNano()}
	for _, s := range o.tried {
		var ans noticeAnswer
		in := &noticeBatch{Queue: k.d.Queue.Identity(), Epoch: k.d.Queue.Epoch(), Notices: []notice{n}}
		if err := k.peers(ctx, s, "Notify", in, &ans); err != nil {
			k.d.Log.Debug("void copy not told", "server", s, "error", err)
		}
	}
	return cause
}

// copyOut offers a message to one server after the other until one holds it, or
// trying is over.
func (k *Keeper) copyOut(ctx, trying context.Context, a queue.Accepted, body []byte, to []org.ServerName, prefer org.ServerName) (o outcome) {
	g := k.d.Settings()
	began := time.Now()
	var last error
	for try := uint8(1); ; {
		for _, s := range to {
			if trying.Err() != nil || try == 100 {
				break
			}
			o.tried = append(o.tried, s)
			epoch, err := k.offer(ctx, s, a, body, try, g.ShadowTimeout.Std())
			try++
			o.epoch = epoch
			if err == nil {
				o.holder = s
				k.metrics.copied("ok", began)
				if k.alone.Swap(false) {
					k.d.Events.Emit(EventTwo, "Messages have a second copy again, on %s.", s)
				}
				return o
			}
			last = err
			k.d.Log.Debug("copy refused", "message", a.ID.String(), "server", s, "error", err)
		}
		left := g.ShadowTimeout.Std() - time.Since(began)
		to = Order(k.candidates(), prefer, g)
		if len(to) == 0 || left <= 0 || trying.Err() != nil {
			break
		}
		// A server that was just lost is still called up for a moment.
		select {
		case <-k.d.Group.PeersChanged():
		case <-time.After(min(left, 100*time.Millisecond)):
		case <-trying.Done():
		}
		if to = Order(k.candidates(), prefer, g); len(to) == 0 {
			break
		}
	}
	if o.epoch == 0 {
		o.epoch = k.d.Queue.Epoch()
	}
	// Without a majority nobody here knows whether the others are gone: they may
	// take this message themselves, and on two servers.
	if g.RejectOnShadowFailure == "always" || g.RejectOnShadowFailure != "never" && (len(to) > 0 || !k.d.Group.Quorum()) {
		k.metrics.copied("refused", began)
		o.err = &kind.Error{Kind: kind.Busy, Text: fmt.Sprintf("accept message %s", a.ID), Err: errors.Join(mail.ErrNoSecondCopy, last)}
		return o
	}
	k.metrics.copied("alone", began)
	if !k.alone.Swap(true) {
		k.d.Events.Emit(EventAlone, "No other server can hold a copy of what this server accepts.")
	}
	return o
}

// offer has one server store a copy, under the present epoch of the queue. One
// that knows this epoch to be fenced is asked again under the next.
func (k *Keeper) offer(ctx context.Context, s org.ServerName, a queue.Accepted, body []byte, try uint8, timeout time.Duration) (epoch uint64, err error) {
	if !k.reserve(s, int64(len(body))) {
		return k.d.Queue.Epoch(), kind.Errorf(kind.Busy, "too much is on its way to %s", s)
	}
	defer k.reserve(s, -int64(len(body)))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	a.Shadow = s
	for {
		k.mu.Lock()
		next := k.epochs
		k.mu.Unlock()
		epoch = k.d.Queue.Epoch()
		enc, err := k.d.Queue.Encode(a, int64(len(body)))
		if err != nil {
			return epoch, err
		}
		if k.d.Queue.Epoch() != epoch {
			continue
		}
		var ans copyAnswer
		in := &copyRequest{Queue: k.d.Queue.Identity(), Epoch: epoch, Try: try, Accept: enc, Body: body}
		if err := k.peers(ctx, s, "Copy", in, &ans); err != nil {
			return epoch, err
		}
		if !ans.Fenced {
			return epoch, nil
		}
		wake(k.wakeJudge)
		select {
		case <-next:
		case <-ctx.Done():
			return epoch, kind.Errorf(kind.Busy, "%s says that epoch %d of this server was taken over", s, epoch)
		}
	}
}

// reserve counts bytes of bodies on their way to a server.
func (k *Keeper) reserve(s org.ServerName, n int64) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if was := k.sending[s]; n > 0 && was > 0 && was+n > maxSending {
		return false
	}
	k.sending[s] += n
	return true
}
