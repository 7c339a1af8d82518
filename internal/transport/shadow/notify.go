package shadow

import (
	"context"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// sender tells one holder of copies what became of them.
type sender struct {
	k      *Keeper
	to     org.ServerName
	stop   context.CancelFunc
	cursor org.LSN // what was acknowledged in this run
	fenced bool    // the holder said so last
	urgent chan struct{}

	mu      sync.Mutex // guards the rest
	waiters []chan told
}

// told is how a pass over what is owed ended.
type told struct {
	fenced bool
	err    error
}

// notify keeps a sender for each member until ctx ends.
func (k *Keeper) notify(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		changed := k.d.Group.Changed()
		want := map[org.ServerName]bool{}
		for _, s := range k.others(k.d.Group.View()) {
			want[s.Name] = true
		}
		k.mu.Lock()
		for name, s := range k.senders {
			if !want[name] {
				s.stop()
				delete(k.senders, name)
			}
		}
		for name := range want {
			if k.senders[name] != nil {
				continue
			}
			s := &sender{k: k, to: name, urgent: make(chan struct{}, 1)}
			sctx, stop := context.WithCancel(ctx)
			s.stop = stop
			k.senders[name] = s
			wg.Go(func() { s.run(sctx) })
		}
		k.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// run sends what is owed, as soon as it is.
func (s *sender) run(ctx context.Context) {
	defer s.stop()
	defer func() { s.answer(s.takeWaiters(), told{err: context.Canceled}) }()
	pause := s.k.t.retry
	defer func() { // the last words
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if pause == s.k.t.retry {
			s.pass(last)
		}
	}()
	for ctx.Err() == nil {
		owed, peers := s.k.d.Queue.OwedChanged(), s.k.d.Group.PeersChanged()
		waiters := s.takeWaiters()
		t := s.pass(ctx)
		s.answer(waiters, t)
		if t.err != nil {
			s.discard(ctx)
			select {
			case <-peers:
			case <-s.urgent:
			case <-time.After(pause):
			case <-ctx.Done():
			}
			pause = min(2*pause, 10*s.k.t.retry)
			continue
		}
		pause = s.k.t.retry
		select {
		case <-owed:
			select { // more follows soon
			case <-time.After(s.k.t.notice):
			case <-s.urgent:
			case <-ctx.Done():
			}
		case <-s.urgent:
		case <-ctx.Done():
		}
	}
}

// pass sends all that is owed now.
func (s *sender) pass(ctx context.Context) told {
	for {
		batch, upto, err := s.collect()
		if err != nil {
			return told{err: err}
		}
		var ans noticeAnswer
		for done := 0; done < len(batch); {
			n := min(len(batch)-done, maxNotices)
			in := &noticeBatch{Queue: s.k.d.Queue.Identity(), Epoch: s.k.d.Queue.Epoch(), Notices: batch[done : done+n]}
			cctx, cancel := context.WithTimeout(ctx, s.k.t.call)
			err := s.k.peers(cctx, s.to, "Notify", in, &ans)
			cancel()
			if err != nil {
				return told{err: err}
			}
			s.fenced = ans.Fenced
			done += n
		}
		if upto == 0 {
			return told{fenced: s.fenced}
		}
		if err := s.k.d.Queue.Noticed(ctx, s.to, ans.Queue, upto); err != nil {
			return told{err: err}
		}
		s.cursor = upto
	}
}

// collect gathers the next notices; all of one position are together.
func (s *sender) collect() (out []notice, upto org.LSN, err error) {
	rows := 0
	for o, err := range s.k.d.Queue.Owed(s.to, s.cursor) {
		if err != nil {
			return nil, 0, err
		}
		if (len(out) >= batchNotices || rows >= 4*batchNotices) && o.At != upto {
			break
		}
		upto = o.At
		n := o.Notice
		if n.Fate == queue.FateSuperseded && s.back(n.ID) {
			continue
		}
		rows += len(n.Rows)
		out = append(out, notice{ID: n.ID[:], Fate: n.Fate, At: n.At, Rows: n.Rows})
	}
	return out, upto, nil
}

// back tells that a holder whose copy was given up may hold one again.
func (s *sender) back(id mail.TraceID) bool {
	if s.k.isBusy(id) {
		return true // it finds out when it compares
	}
	m, _, err := s.k.d.Queue.Message(id)
	return err == nil && m.Primary == "" && m.Shadow == s.to
}

// discard gives up what is owed to a server that is away for too long.
func (s *sender) discard(ctx context.Context) {
	limit := s.k.d.Now().Add(-s.k.d.Settings().AutoDiscardInterval.Std()).UnixNano()
	var upto org.LSN
	for o, err := range s.k.d.Queue.Owed(s.to, s.cursor) {
		if err != nil || o.Notice.At > limit {
			break
		}
		upto = o.At
	}
	if upto > 0 && s.k.d.Queue.Noticed(ctx, s.to, "", upto) == nil {
		s.cursor = upto
	}
}

func (s *sender) takeWaiters() []chan told {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := s.waiters
	s.waiters = nil
	return w
}

func (s *sender) answer(ws []chan told, t told) {
	for _, w := range ws {
		w <- t
	}
}

// Begun waits until the holder of a message's copy has acknowledged all that was
// applied to the message before with the durability Wait, at most 2 s. It is to
// be called after the rows became StateAttempt, before the final dot. repeat
// says that the holder does not know: if this server is lost now, the host may
// get the message twice. An error says that the attempt may not go on, as the
// message was taken over or ctx ended.
func (k *Keeper) Begun(ctx context.Context, id mail.TraceID, holder org.ServerName) (repeat bool, err error) {
	if holder == "" {
		return false, nil // nobody else can send it
	}
	k.mu.Lock()
	s := k.senders[holder]
	k.mu.Unlock()
	if s == nil {
		return true, nil
	}
	w := make(chan told, 1)
	s.mu.Lock()
	s.waiters = append(s.waiters, w)
	s.mu.Unlock()
	wake(s.urgent)
	late := time.NewTimer(k.t.begun)
	defer late.Stop()
	select {
	case t := <-w:
		if t.fenced {
			wake(k.wakeJudge)
			return true, kind.Errorf(kind.Elsewhere, "message %s: %s says that this server's messages were taken over", id, holder)
		}
		return t.err != nil, nil
	case <-late.C:
		return true, nil
	case <-ctx.Done():
		return true, kind.Errorf(kind.Busy, "message %s: %w", id, ctx.Err())
	}
}
