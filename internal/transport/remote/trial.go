package remote

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/smtpc"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/queue"
)

const (
	// maxBatch is how many recipients go in one transaction: more than every
	// host has to take (RFC 5321 section 4.5.3.1.8) costs another try.
	maxBatch = 100
	// maxBroken is how many sessions of an attempt may break off after the host
	// had heard of the message.
	maxBroken = 2
	// maxSearch is how long hosts are looked for that answer.
	maxSearch = 10 * time.Minute
	// slowConnect is how long an address has to keep silent to be cold.
	slowConnect = 10 * time.Second
)

// trial is one attempt at a work.
type trial struct {
	a *Agent
	w deliver.Work
	r route

	senders []string // by row
	body    []byte

	results []deliver.Result
	settled []bool
	open    int      // rows that are not settled
	blamed  *verdict // what holds for them in the end
	stopped bool     // nothing more is to be tried
	left    bool     // and nothing is to be said of them: they are another's, or the time is over
	broken  int
	fresh   bool         // idle sessions were tried and do not do
	begin   func() error // of Work.Begun, which is called once
	wg      sync.WaitGroup
}

func (t *trial) pending() bool { return t.open > 0 && !t.stopped }

// leave ends the attempt without a word about the rows that are open.
func (t *trial) leave() { t.stopped, t.left = true, true }

// note keeps what a host or its lack means for the rows that stay open.
func (t *trial) note(v verdict) { t.blamed = blame(t.blamed, v) }

func (t *trial) settle(i int, v verdict) {
	if t.settled[i] {
		return
	}
	if v.misconfigured {
		t.a.failing.failed(t.r.dest, EventMisconfigured, fmt.Sprintf("%s: %d %s %s", v.Host, v.Code, v.Status, v.Text))
	}
	t.settled[i], t.results[i] = true, v.Result
	t.open--
}

// all settles what is open.
func (t *trial) all(v verdict) {
	for i := range t.results {
		t.settle(i, v)
	}
}

// run tries idle sessions first, then new ones.
func (t *trial) run(ctx context.Context) {
	if t.w.Mine() != nil {
		t.leave()
		return
	}
	r, v, ok := t.a.routeOf(t.w.Dest, t.w.Message.Envelope.RequireTLS)
	t.r = r
	if !ok {
		t.all(v)
		return
	}
	if limit := r.set.MaxMessage; limit > 0 && t.w.Message.Size > limit {
		t.all(returned(552, "5.3.4", fmt.Sprintf("The message of %d bytes is larger than the %d the way to the recipient takes", t.w.Message.Size, limit)))
		return
	}
	for t.pending() {
		s := t.a.pool.take(t.idle())
		if s == nil {
			break
		}
		t.speak(ctx, s)
	}
	if !t.pending() {
		return
	}
	start := t.a.d.Now()
	for tg := range t.targets(ctx) {
		if t.visit(ctx, tg); !t.pending() || t.a.d.Now().Sub(start) > maxSearch {
			return
		}
	}
	if ctx.Err() != nil {
		t.leave()
	}
}

// idle is the key of the idle sessions that may do.
func (t *trial) idle() string {
	if t.fresh {
		return ""
	}
	return t.r.key
}

// visit tries one address, and before it whatever session becomes idle.
func (t *trial) visit(ctx context.Context, tg target) {
	for {
		s, err := t.a.pool.reserve(ctx, t.r.dest, t.idle(), cmp.Or(t.r.set.Concurrency, maxPerDest))
		if err != nil {
			t.leave()
			return
		}
		if s == nil {
			break
		}
		if t.speak(ctx, s); !t.pending() {
			return
		}
	}
	start := t.a.d.Now()
	s, f := t.connect(ctx, tg)
	if f != nil {
		t.hostFailed(f, tg.host, 0)
		t.a.pool.release(t.r.dest)
		switch {
		case ctx.Err() != nil:
			t.leave()
		case f.Reply.Code == 0 && t.a.d.Now().Sub(start) >= slowConnect:
			t.a.cold.add(tg.addr, t.a.d.Now())
		}
		return
	}
	t.a.cold.answered(tg.addr)
	t.a.pool.established(s)
	t.speak(ctx, s)
}

// hostFailed notes that a host did not serve the rows that are open. Beside
// sessions that go on, besides own, it only means that they are enough.
func (t *trial) hostFailed(f *smtpc.Failure, host string, own int) {
	v := judgeHost(f, t.about(host, ""))
	switch {
	case t.r.strict && v.Status == "4.7.5":
		v.Whole = false // other messages may go without
	case v.Whole && !v.misconfigured && t.a.pool.alive(t.r.dest) > own:
		v.Whole, v.Slow = false, true
	}
	t.note(v)
}

func (t *trial) about(host, last string) about {
	return about{connector: t.r.kind != destMX, kind: t.r.set.Kind, host: host, last: last}
}

// speak sends over a session what is open, and gives the session back.
func (t *trial) speak(ctx context.Context, s *session) {
	defer t.a.pool.put(s)
	if err := t.load(ctx); err != nil {
		t.a.d.Log.Warn("send message", "trace", t.w.Message.ID, "err", err)
		t.all(deferred(451, "4.3.0", "The message cannot be read now"))
		return
	}
	for again := true; again && t.pending(); {
		if t.w.Mine() != nil {
			t.leave()
			return
		}
		batch := t.batch()
		t.announce(ctx, s.host)
		s.sent++
		sent, err := s.conn.Send(ctx, t.envelope(batch), t.body, t.beforeDot)
		again = t.take(s, batch, sent, err)
		if ctx.Err() != nil {
			t.leave()
		}
	}
}

// batch are rows for one transaction: those of the first open one's sender.
func (t *trial) batch() []int {
	var out []int
	for i := range t.results {
		if !t.settled[i] && (len(out) == 0 || t.senders[i] == t.senders[out[0]]) {
			if out = append(out, i); len(out) == maxBatch {
				break
			}
		}
	}
	return out
}

func (t *trial) envelope(batch []int) mail.Envelope {
	e := t.w.Message.Envelope
	e.From, e.Recipients = t.senders[batch[0]], make([]mail.EnvelopeRecipient, len(batch))
	for k, i := range batch {
		r := &t.w.Rows[i]
		e.Recipients[k] = mail.EnvelopeRecipient{Address: r.Address, Notify: r.Notify, ORcpt: r.Original}
	}
	return e
}

// announce lets it become durable that a host is tried while the dialogue with
// it goes on; beforeDot waits for that.
func (t *trial) announce(ctx context.Context, host string) {
	if t.begin != nil {
		return
	}
	t.begin = sync.OnceValue(func() error { return t.w.Begun(ctx, host) })
	t.wg.Go(func() { _ = t.begin() }) // beforeDot has its error
}

func (t *trial) beforeDot() error {
	if err := t.begin(); err != nil {
		return err
	}
	return t.w.Mine()
}

// take settles rows by what became of a transaction, and tells whether the
// session can have another.
func (t *trial) take(s *session, batch []int, sent smtpc.Sent, err error) bool {
	before := t.open
	for k, i := range batch {
		t.recipient(i, s, sent, sent.Recipients[k])
	}
	if sent.Outcome == smtpc.Taken {
		t.a.failing.worked(t.r.dest)
	}
	if err == nil {
		if t.open == before { // cannot be, and must not go on for ever
			t.fresh = true
			t.note(deferred(0, "4.5.0", "The host answered for no recipient").at(s.host))
			return false
		}
		return true
	}
	return t.refused(s, batch, sent, failureOf(err))
}

// recipient settles a row that has an answer.
func (t *trial) recipient(i int, s *session, sent smtpc.Sent, r smtpc.Result) {
	a := t.about(s.host, t.w.Rows[i].Status)
	switch {
	case r.TooMany && sent.Outcome == smtpc.Taken: // goes in another transaction at once
	case r.Reply.Code >= 400:
		t.settle(i, t.onTLS(judge(r.Reply, a), s))
	case !r.Accepted:
	case sent.Outcome == smtpc.Taken:
		t.settle(i, verdict{Result: deliver.Result{State: queue.StateRelayed, Code: uint16(sent.Reply.Code), Status: statusOf(sent.Reply),
			Text: sent.Reply.Text, Host: s.host, TLS: s.tls, Reports: s.conn.Has("DSN")}})
	case sent.Outcome == smtpc.Refused:
		t.settle(i, t.onTLS(judge(sent.Reply, a), s))
	case sent.Outcome == smtpc.InDoubt:
		v := t.onTLS(deferred(0, "4.4.2", "The host broke off after it had the whole message; it may have taken it").at(s.host), s)
		v.Doubtful, v.Slow = true, true
		t.settle(i, v)
	}
}

func (t *trial) onTLS(v verdict, s *session) verdict {
	v.TLS = s.tls
	return v
}

// refused deals with the rows of a batch that a failure left open.
func (t *trial) refused(s *session, batch []int, sent smtpc.Sent, f *smtpc.Failure) bool {
	switch {
	case f.Stage == smtpc.StageHook:
		t.leave()
		return false
	case f.Stage == smtpc.StageCheck && slices.Contains([]string{"5.6.3", "5.6.7", "5.6.9", "5.7.30"}, f.Reply.Status):
		t.fresh = true
		t.note(judge(f.Reply, t.about(s.host, ""))) // another host may be able to
		return false
	case f.Reply.Code >= 400 && f.Reply.Code != 421:
		for _, i := range batch {
			t.settle(i, t.onTLS(judge(f.Reply, t.about(s.host, t.w.Rows[i].Status)), s))
		}
		return s.conn.Usable()
	case s.again && sent.Outcome == smtpc.NotSent:
		return false // it had closed the session meanwhile, which is no fault
	}
	t.hostFailed(f, s.host, 1)
	if t.broken++; t.broken == maxBroken {
		t.stopped = true
	}
	return false
}

// finish says what holds for the rows that nobody answered for.
func (t *trial) finish() {
	switch {
	case t.left:
		for i := range t.results {
			if !t.settled[i] {
				t.results[i] = deliver.Result{State: queue.StateReady}
			}
		}
		return
	case t.open == 0:
		return
	case t.blamed == nil:
		t.note(deferred(451, "4.4.4", "There is no host to send to").whole())
	}
	if t.blamed.Whole && !t.blamed.misconfigured && t.r.kind != destMX {
		t.a.failing.failed(t.r.dest, EventFailing, t.blamed.Text)
	}
	t.all(*t.blamed)
}
