package deliver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

// attempt tries a job once and writes what became of it.
func (d *Dispatcher) attempt(ctx context.Context, j schedule.Job) {
	out, err := d.try(ctx, &j)
	switch {
	case err == nil:
	case errors.Is(err, errGone), kind.Is(err, kind.NotFound):
		out = schedule.Outcome{Result: schedule.Gone}
	case ctx.Err() != nil:
		out = schedule.Outcome{Result: schedule.Back}
	default:
		if !kind.Is(err, kind.Busy) && !kind.Is(err, kind.Elsewhere) {
			d.d.Log.Warn("deliver message", "trace", j.ID, "destination", j.Dest, "err", err)
		}
		out = schedule.Outcome{Result: schedule.Defer, Wait: d.wait(j), Reason: err.Error()}
	}
	if out.Result == schedule.OK || out.Result == schedule.Gone {
		d.settle(j)
	}
	d.done(j, out)
	if out.Result == schedule.DeferDest {
		d.writeWaiting(ctx, j.Dest)
	}
}

// wait is the pause after an attempt that did not come to its destination.
func (d *Dispatcher) wait(j schedule.Job) time.Duration {
	return min(time.Second<<min(j.Attempts, 5), 30*time.Second)
}

func (d *Dispatcher) try(ctx context.Context, j *schedule.Job) (schedule.Outcome, error) {
	m, rows, all, err := d.rowsOf(*j)
	if err != nil {
		return schedule.Outcome{}, err
	}
	if len(rows) == 0 {
		return schedule.Outcome{}, errGone
	}
	if j.Dest == routeDest {
		plain := *j
		plain.Dest, plain.Attempts, plain.Next = "", 0, 0
		if err := d.route(ctx, m, all, plain); err != nil {
			return schedule.Outcome{}, err
		}
		return schedule.Outcome{Result: schedule.Gone}, nil
	}
	// A mailbox takes a delivery once, whoever brings it; others do not.
	if j.Dest.Kind() != localKind {
		if err := d.d.Door.Mine(m); err != nil {
			return schedule.Outcome{}, err
		}
	}
	agent := d.d.Agents[j.Dest.Kind()]
	if agent == nil {
		return schedule.Outcome{}, kind.Errorf(kind.Internal, "no agent for %s", j.Dest)
	}
	t := &trial{d: d, m: m, rows: rows, j: j}
	begin := time.Now()
	results := agent.Deliver(ctx, Work{Message: m, Rows: rows, Dest: string(j.Dest),
		Body: func(ctx context.Context) ([]byte, error) { return d.d.Door.Body(ctx, m.ID) },
		Mine: func() error { return d.d.Door.Mine(m) }, Begun: t.begun})
	if len(results) != len(rows) {
		return schedule.Outcome{}, kind.Errorf(kind.Internal, "agent of %s answered for %d of %d recipients", j.Dest, len(results), len(rows))
	}
	for i := range results {
		d.d.Observe(Observed{Dest: j.Dest, State: results[i].State, Arrived: m.Received, Took: time.Since(begin), Repeat: t.repeat && results[i].Doubtful, Double: results[i].Duplicate})
	}
	return t.write(ctx, results)
}

// trial is one attempt at a job.
type trial struct {
	d      *Dispatcher
	m      queue.Message
	rows   []queue.RecipientRow
	j      *schedule.Job
	began  bool
	repeat bool
}

// begun is Work.Begun.
func (t *trial) begun(ctx context.Context, host string) error {
	if t.began {
		return nil
	}
	c := queue.Change{ID: t.m.ID, At: t.d.now()}
	for _, r := range t.rows {
		c.Rows = append(c.Rows, queue.RowChange{N: r.N, State: queue.StateAttempt, Attempts: t.j.Attempts, Dest: r.Dest, Org: r.Organization, Host: host,
			Repeat: r.State == queue.StateDoubtful})
	}
	if err := t.d.d.Queue.Apply(ctx, []queue.Change{c}, queue.Wait); err != nil {
		return fmt.Errorf("begin attempt: %w", err)
	}
	t.began = true
	repeat, err := t.d.d.Door.Begun(ctx, t.m)
	t.repeat = repeat
	return err
}

// write makes the results durable and tells the schedule's part of them.
func (t *trial) write(ctx context.Context, results []Result) (schedule.Outcome, error) {
	out := schedule.Outcome{Result: schedule.OK}
	var cs []queue.RowChange
	var rows []queue.RecipientRow
	for i, r := range results {
		row := t.rows[i]
		c := t.change(row, r)
		switch r.State {
		case queue.StateDelivered, queue.StateRelayed, queue.StateReturned:
		case queue.StateReady:
			out = worse(out, r)
			if !t.began && !t.first(row) {
				continue // nothing to say
			}
			c.State = queue.StateDeferred
		default:
			out = worse(out, r)
		}
		if r.Reports {
			row.Notify = "" // the host will
		}
		cs, rows = append(cs, c), append(rows, row)
	}
	if len(cs) == 0 {
		return out, nil
	}
	t.next(cs, &out)
	// What a host took must be written even when the server is stopping.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	err := t.d.d.Door.Finish(ctx, t.m, rows, cs)
	if kind.Is(err, kind.Conflict) {
		return schedule.Outcome{Result: schedule.Defer, Wait: time.Second}, nil // it was changed meanwhile: look again
	}
	return out, err
}

// first tells that a deferral of the row is worth a record: it has none yet, or
// its answer changed.
func (t *trial) first(row queue.RecipientRow) bool { return row.State == queue.StateNew }

func (t *trial) change(row queue.RecipientRow, r Result) queue.RowChange {
	c := queue.RowChange{N: row.N, State: r.State, Attempts: max(t.j.Attempts, 1), Code: r.Code, Status: r.Status, Text: r.Text, Host: r.Host, TLS: r.TLS,
		Mailbox: r.Mailbox, Duplicate: r.Duplicate, Dest: row.Dest, Org: row.Organization,
		Repeat: r.Doubtful || t.repeat && r.State == queue.StateRelayed}
	if c.Mailbox.Database == "" {
		c.Mailbox = row.Mailbox
	}
	if r.Doubtful && t.began {
		c.State = queue.StateDoubtful
	}
	return c
}

// next notes in the rows when they are tried again. What waits for its
// destination has no time of its own.
func (t *trial) next(cs []queue.RowChange, out *schedule.Outcome) {
	if out.Result == schedule.Defer && out.Wait == 0 {
		t.d.mu.Lock()
		out.Wait = t.d.rules.Again(t.j.Dest, t.j.Attempts, t.j.ID)
		t.d.mu.Unlock()
	}
	if out.Result != schedule.Defer {
		return
	}
	at := t.d.d.Now().Add(out.Wait).UnixNano()
	for i := range cs {
		if !cs[i].State.Finished() {
			cs[i].Next = at
		}
	}
}

// worse joins a result that is not final into what the schedule is told.
func worse(out schedule.Outcome, r Result) schedule.Outcome {
	o := schedule.Outcome{Result: schedule.Defer, Wait: r.Wait, Reason: cmp.Or(r.Text, r.Status)}
	switch {
	case r.Whole:
		o.Result = schedule.DeferDest
	case r.Slow:
		o.Result = schedule.Slow
	}
	if out.Result == schedule.OK || out.Result == schedule.Defer && o.Result != schedule.Defer {
		return o
	}
	return out
}

// settle forgets what no other job of the message needs.
func (d *Dispatcher) settle(j schedule.Job) {
	d.mu.Lock()
	ways := d.plans[j.ID]
	d.mu.Unlock()
	if len(ways) == 0 {
		return
	}
	_, rows, err := d.d.Queue.Message(j.ID)
	open := false
	for _, r := range rows {
		for _, w := range ways {
			open = open || w.Row == r.N && r.Dest == "" && !r.State.Finished()
		}
	}
	if err != nil || !open {
		d.mu.Lock()
		d.forget(j.ID)
		d.mu.Unlock()
	}
}
