package safetynet

import (
	"context"
	"iter"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Places of queue.Progress.Counts.
const (
	countFound = iota
	countDelivered
	countDuplicates
	countFailed
)

// results name the counts in figures.
var results = [...]string{"found", "delivered", "duplicate", "failed"}

// part is one part of a request on its way.
type part struct {
	n *Net
	t task
	r org.SafetyNetRequest

	reported time.Time // when the row was written

	mu       sync.Mutex // guards the rest
	progress queue.Progress
	problem  string // the last one
}

// run does the part and writes what came of it. When ctx ends before, the part
// goes on from there another time.
func (p *part) run(ctx context.Context) {
	if p.over() {
		return
	}
	p.report(ctx, org.SafetyNetRunning, "")
	err := p.scan(ctx)
	if ctx.Err() != nil {
		return
	}
	state, problem := org.SafetyNetCompleted, ""
	if err != nil {
		state, problem = org.SafetyNetFailed, err.Error()
		p.n.d.Log.Error("Safety Net request", "request", p.t.id, "for", p.t.whose, "error", err)
	}
	for wait := p.n.t.retry; !p.report(ctx, state, problem); wait = min(2*wait, 5*time.Second) {
		if !pause(ctx, wait) {
			return
		}
	}
}

// over tells whether the part ended already: the view it was begun by may be
// from before that.
func (p *part) over() bool {
	e, err := find(p.n.d.Group.View(), p.t.id)
	if err != nil {
		return true
	}
	q := Question{Parts: e.parts}
	row, ended := q.ended(p.n.me, p.t.whose)
	return ended && (row.Except == "" || p.t.whose == "" || p.t.except != "")
}

// report writes the row of the part and tells whether it could.
func (p *part) report(ctx context.Context, state, problem string) bool {
	p.mu.Lock()
	c := p.progress.Counts
	if problem == "" {
		problem = p.problem
	}
	p.mu.Unlock()
	p.reported = time.Now()
	row := org.SafetyNetPart{
		Server: p.n.me, For: p.t.whose, Except: p.t.except, State: state, Updated: p.n.d.Now().UTC(), Error: cut(problem, 300),
		Found: int(c[countFound]), Delivered: int(c[countDelivered]), Duplicates: int(c[countDuplicates]), Failed: int(c[countFailed]),
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	// A request that was cancelled meanwhile stays so, and what this queue
	// answers for is what the group knows of it at that moment.
	txn := cluster.Txn{If: []cluster.Cond{{Key: requestKey(p.t.id), Revision: -1}}}
	if p.t.whose == "" {
		mine, revision := queueOf(p.n.d.Group.View(), p.n.me)
		if mine.Identity != p.n.d.Queue.Identity() {
			return false
		}
		if p.n.renewed(&mine, &p.r) {
			row.Except = mine.Identity
		}
		txn.If = append(txn.If, cluster.Cond{Key: org.QueueKey(p.n.me), Revision: revision})
	}
	txn.Then = []cluster.Op{put(partKey(p.t.id, p.n.me, p.t.whose), row)}
	_, err := p.n.d.Group.Commit(ctx, txn)
	if err != nil {
		p.n.d.Log.Debug("progress of a Safety Net request", "request", p.t.id, "error", err)
	}
	return err == nil
}

func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

// key is under what the queue notes the progress.
func (p *part) key() string {
	k := p.t.id
	if p.t.whose != "" {
		k += "/" + string(p.t.whose) + "/" + p.t.except
	}
	return k
}

// start finds where the part is, and sees to it that the ledger has all that
// was noted before the part began.
func (p *part) start(ctx context.Context) (done mail.TraceID, err error) {
	q := p.n.d.Queue
	for {
		progress, known, err := q.Request(p.key())
		if err != nil {
			return done, err
		}
		if known {
			p.mu.Lock()
			p.progress = progress
			p.mu.Unlock()
			return progress.Done, nil
		}
		switch err := q.NoteRequest(ctx, p.key(), queue.Progress{}); {
		case err == nil:
		case q.Failed() != nil:
			return done, nil // nothing is written any more; what is there can be read
		case !kind.Is(err, kind.Busy) && !kind.Is(err, kind.Full):
			return done, err
		}
		for range 50 { // it is written soon
			if _, known, _ = q.Request(p.key()); known {
				break
			}
			if !pause(ctx, p.n.t.poll) {
				return done, ctx.Err()
			}
		}
	}
}

// kept goes through the deliveries of the part from a time on, the margin for
// clocks included.
func (p *part) kept(from time.Time) iter.Seq2[queue.Kept, error] {
	to := p.r.To.Add(p.n.d.Settings().SafetyNetMargin.Std())
	if p.t.whose != "" {
		return p.n.d.Queue.KeptShadow(p.t.whose, p.r.Database, from, to)
	}
	return p.n.d.Queue.Kept(p.r.Database, from, to)
}

// scan delivers what is kept, in the order in which it was delivered.
func (p *part) scan(ctx context.Context) error {
	done, err := p.start(ctx)
	if err != nil {
		return err
	}
	at := queue.Kept{At: p.r.From.Add(-p.n.d.Settings().SafetyNetMargin.Std() - 1)}
	if done != (mail.TraceID{}) {
		if at, err = p.resume(at, done); err != nil {
			return err
		}
	}
	for {
		batch, err := p.batch(at)
		if err != nil || len(batch) == 0 {
			return err
		}
		if err := p.deliver(ctx, batch); err != nil {
			return err
		}
		at = batch[len(batch)-1]
		p.mu.Lock()
		p.progress.Done = at.ID
		progress := p.progress
		p.mu.Unlock()
		if err := p.n.d.Queue.NoteRequest(ctx, p.key(), progress); err != nil && ctx.Err() == nil {
			p.n.d.Log.Warn("note the progress of a Safety Net request", "request", p.t.id, "error", err)
		}
		if time.Since(p.reported) >= p.n.t.report {
			p.report(ctx, org.SafetyNetRunning, "")
		}
	}
}

// resume finds the end of what was done before. Where that is no longer kept,
// the part begins anew.
func (p *part) resume(from queue.Kept, done mail.TraceID) (queue.Kept, error) {
	at, found := from, false
	for k, err := range p.kept(from.At) {
		switch {
		case err != nil:
			return at, err
		case k.ID == done:
			at, found = k, true
		case found:
			return at, nil
		}
	}
	if !found {
		p.mu.Lock()
		p.progress = queue.Progress{}
		p.mu.Unlock()
	}
	return at, nil
}

// batch reads the deliveries behind one. Those of a message that follow each
// other are not parted.
func (p *part) batch(behind queue.Kept) (out []queue.Kept, err error) {
	for k, err := range p.kept(behind.At) {
		if err != nil {
			return nil, err
		}
		if !after(k, behind) {
			continue
		}
		if n := len(out); n >= batchSize && out[n-1].ID != k.ID {
			return out, nil
		}
		out = append(out, k)
	}
	return out, nil
}

// deliver makes deliveries again, some at a time. An error ends the part.
func (p *part) deliver(ctx context.Context, batch []queue.Kept) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxAtOnce)
	for _, k := range batch {
		g.Go(func() error { return p.one(ctx, k) })
	}
	return g.Wait()
}

// one makes a delivery again.
func (p *part) one(ctx context.Context, k queue.Kept) error {
	m, rows, err := p.n.d.Queue.Message(k.ID)
	switch {
	case kind.Is(err, kind.NotFound): // given up meanwhile
		return nil
	case err != nil:
		return err
	case int(k.Row) >= len(rows) || p.t.except != "" && m.Queue == p.t.except || !matches(&p.r.Conditions, &m, rows, k.Row):
		return nil
	}
	p.count(countFound)
	size := min(m.Size, maxBytes)
	if err := p.n.bytes.Acquire(ctx, size); err != nil {
		return err
	}
	defer p.n.bytes.Release(size)
	return p.resubmit(ctx, Item{
		Request: p.t.id, Message: m, Row: rows[k.Row], Database: p.r.Database, Mailbox: k.Mailbox, To: p.r.ResubmitTo,
		Body: func(ctx context.Context) ([]byte, error) { return p.n.d.Queue.Body(ctx, k.ID) },
	})
}

// resubmit tries until the mailbox has the message or cannot have it.
func (p *part) resubmit(ctx context.Context, it Item) error {
	for wait := p.n.t.retry; ; wait = min(2*wait, 5*time.Second) {
		duplicate, err := p.n.d.Resubmit(ctx, it)
		switch k := kind.Of(err); {
		case err == nil && duplicate:
			p.count(countDuplicates)
			return nil
		case err == nil:
			p.count(countDelivered)
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case k == kind.NotFound:
			p.n.d.Log.Info("Safety Net passes over a message", "request", p.t.id, "message", it.Message.ID, "why", err)
			return nil
		case k != kind.Busy && k != kind.Elsewhere:
			p.n.d.Log.Warn("Safety Net cannot deliver a message", "request", p.t.id, "message", it.Message.ID, "error", err)
			p.mu.Lock()
			p.problem = err.Error()
			p.mu.Unlock()
			p.count(countFailed)
			return nil
		}
		if !pause(ctx, wait) {
			return ctx.Err()
		}
	}
}

func (p *part) count(what int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.progress.Counts[what]++
	p.n.metrics.resubmitted.WithLabelValues(results[what]).Inc()
}

// matches tells whether a delivery is what a request by hand asks for. A
// recipient counts by its address and by those that led to it.
func matches(c *org.SafetyNetConditions, m *queue.Message, rows []queue.RecipientRow, n uint16) bool {
	if c.Sender != "" && !strings.EqualFold(c.Sender, m.Envelope.From) || c.MessageID != "" && !strings.EqualFold(c.MessageID, m.MessageID) {
		return false
	}
	if c.Recipient == "" {
		return true
	}
	for range len(rows) {
		r := &rows[n]
		if strings.EqualFold(c.Recipient, r.Address) {
			return true
		}
		if r.Why == 0 || int(r.Parent) >= len(rows) {
			return false
		}
		n = r.Parent
	}
	return false
}

// pause waits, and tells whether ctx is still alive.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
