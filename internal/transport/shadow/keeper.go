package shadow

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Run judges, takes over, reconciles, tells and compares until ctx ends, and
// answers other servers as long. The queue has to run longer.
func (k *Keeper) Run(ctx context.Context) error {
	k.gate.start()
	defer k.gate.stop()
	var wg sync.WaitGroup
	for _, loop := range []func(context.Context){k.judge, k.takeover, k.reconcile, k.notify, k.heartbeat, k.reshadow} {
		wg.Go(func() { loop(ctx) })
	}
	wg.Wait()
	return nil
}

// Drain gives the messages of this server away: nothing is accepted any more,
// what has no copy gets one, and the holders of the copies take over. It ends
// when that is done; messages that nobody can take are Busy. Attempts should
// have ended before.
func (k *Keeper) Drain(ctx context.Context) error {
	k.draining.Store(true)
	wake(k.wakeJudge)
	members := map[org.ServerName]bool{}
	for _, s := range k.others(k.d.Group.View()) {
		members[s.Name] = true
	}
	if len(members) == 0 {
		return kind.Errorf(kind.Busy, "drain the queue: there is no other server")
	}
	k.reshadowAll(ctx, map[org.ServerName]int{}, 255)
	k.mu.Lock()
	holders := slices.Collect(maps.Keys(k.senders))
	k.mu.Unlock()
	for _, s := range holders { // what is owed is told
		if _, err := k.Begun(ctx, mail.TraceID{}, s); err != nil && ctx.Err() != nil {
			return err
		}
	}
	if err := k.d.Group.Sync(ctx); err != nil {
		return err
	}
	row, rev, ok := k.row(k.d.Group.View(), k.me)
	if !ok || !k.fence(ctx, row, rev, "its queue is drained") {
		return kind.Errorf(kind.Busy, "drain the queue: the agreed state was not changed; try again")
	}
	tick := time.NewTicker(k.t.judge)
	defer tick.Stop()
	for {
		next, ok := k.current(k.d.Group.View())
		if ok && next.Epoch > row.Epoch && k.reconciled.Load() == next.TakenUpTo {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return kind.Errorf(kind.Busy, "drain the queue: %d messages wait: %w", k.Reconciling(), ctx.Err())
		}
	}
	if n := k.d.Queue.Stats().Open; n > 0 {
		return kind.Errorf(kind.Busy, "drain the queue: %d messages stay here, as nobody holds a copy", n)
	}
	return nil
}

// Hold accepts nothing any more, neither messages nor copies; what is here stays
// until Drain. Resume ends it.
func (k *Keeper) Hold() {
	k.draining.Store(true)
	wake(k.wakeJudge)
}

// Resume accepts messages again after Drain or Hold.
func (k *Keeper) Resume() {
	k.draining.Store(false)
	wake(k.wakeJudge)
}

// maxAsk limits what Ask carries there and back, in bytes.
const (
	maxAsk    = 1 << 20
	maxAnswer = 8 << 20
)

// Ask has the front door of a server, also this one, answer a request; how is up
// to the front door. More than 1 MiB, and an answer of more than 8 MiB, is
// Invalid.
func (k *Keeper) Ask(ctx context.Context, s org.ServerName, method string, request []byte) ([]byte, error) {
	if len(request) > maxAsk || len(method) > 100 {
		return nil, kind.Errorf(kind.Invalid, "ask %s: request of %d bytes", s, len(request))
	}
	if s == k.me {
		return k.d.Answer(ctx, k.me, method, request)
	}
	var a askAnswer
	if err := k.peers(ctx, s, "Ask", &askRequest{Method: method, Request: request}, &a); err != nil {
		return nil, err
	}
	return a.Answer, nil
}

func (k *Keeper) serveAsk(ctx context.Context, peer org.ServerName, q *askRequest) (*askAnswer, error) {
	if len(q.Request) > maxAsk || len(q.Method) > 100 {
		return nil, kind.Errorf(kind.Invalid, "request of %d bytes", len(q.Request))
	}
	b, err := k.d.Answer(ctx, peer, q.Method, q.Request)
	if err != nil {
		return nil, err
	}
	if len(b) > maxAnswer {
		return nil, kind.Errorf(kind.Invalid, "answer of %d bytes: ask for less", len(b))
	}
	return &askAnswer{Answer: b}, nil
}

// note has something written into the recovery log, some time.
func (k *Keeper) note(action string, about org.ServerName, why, seen, result string) {
	if k.d.Noted != nil {
		k.d.Noted(org.Note{Action: action, Target: string(about), Responder: "Shadow", Cause: why, Result: result,
			Evidence: []org.RecoveryEvidence{{Item: "Shadow", Target: string(about), Result: "found", Text: seen}}, Every: 10 * time.Minute})
	}
}

// Fetch gets the body of a message that is damaged here from another server
// that has it, and mends the message with it. NotFound where nobody has it.
func (k *Keeper) Fetch(ctx context.Context, id mail.TraceID) ([]byte, error) {
	m, _, err := k.d.Queue.Message(id)
	if err != nil {
		return nil, err
	}
	var from []org.ServerName
	for _, s := range k.others(k.d.Group.View()) {
		if s.Name == m.Shadow || s.Name == m.Primary {
			from = slices.Insert(from, 0, s.Name)
		} else {
			from = append(from, s.Name)
		}
	}
	for _, s := range from {
		var a fetchAnswer
		if err := k.peers(ctx, s, "Fetch", &fetchRequest{ID: id[:]}, &a); err != nil {
			k.d.Log.Debug("body not fetched", "message", id.String(), "server", s, "error", err)
			continue
		}
		if string(a.Identity) != string(m.Identity[:]) || int64(len(a.Body)) != m.Size {
			continue
		}
		if err := k.d.Queue.Mend(ctx, id, a.Body); err != nil {
			k.d.Log.Warn("message not mended", "message", id.String(), "error", err)
		} else {
			k.note("RepairQueue", k.me, "the body of a message was damaged", "message "+id.String(), fmt.Sprintf("its body was replaced from %s", s))
		}
		return a.Body, nil
	}
	return nil, kind.Errorf(kind.NotFound, "no other server has the body of message %s", id)
}

func (k *Keeper) serveFetch(ctx context.Context, _ org.ServerName, q *fetchRequest) (*fetchAnswer, error) {
	id, err := oneID(q.ID)
	if err != nil {
		return nil, err
	}
	m, _, err := k.d.Queue.Message(id)
	if err != nil {
		return nil, err
	}
	b, err := k.d.Queue.Body(ctx, id)
	if err != nil {
		return nil, err
	}
	return &fetchAnswer{Identity: m.Identity[:], Body: b}, nil
}

// Status is what commands show of the copies of a server.
type Status struct {
	Row         org.QueueRow // in the agreed state
	Epoch       uint64       // of the queue
	Begun       bool         // the epoch is in the agreed state
	Accepting   bool         // copies, and messages
	Level       queue.Level
	Reconciling int              // messages that wait until it is known whose they are
	Alone       int              // messages without a second copy, as of the last look
	Candidates  []org.ServerName // that could hold copies
}

// Status tells how it is now.
func (k *Keeper) Status() Status {
	v := k.d.Group.View()
	row, _, _ := k.row(v, k.me)
	_, begun := k.current(v)
	s := Status{Row: row, Epoch: k.d.Queue.Epoch(), Begun: begun, Accepting: !k.draining.Load() && k.d.Queue.Room() == nil,
		Level: k.d.Queue.Level(), Reconciling: k.Reconciling(), Alone: int(k.single.Load())}
	for _, c := range k.candidates() {
		s.Candidates = append(s.Candidates, c.Server)
	}
	slices.Sort(s.Candidates)
	return s
}
