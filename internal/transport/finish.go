package transport

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/dsn"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// Finish implements deliver.Door: it writes what became of rows. What has to be
// told to the sender is told in the same record, so that neither is without
// the other.
func (m *Mover) Finish(ctx context.Context, msg queue.Message, rows []queue.RecipientRow, cs []queue.RowChange) error {
	for _, c := range cs {
		if c.Status == "4.2.2" {
			m.guard.Full(c.Mailbox.ID) // from now on RCPT asks it
		}
	}
	rest := cs
	for _, k := range []dsn.Kind{dsn.Failed, dsn.Relayed, dsn.Delivered} {
		var told, others []queue.RowChange
		for _, c := range rest {
			if tells(c, rowOf(rows, c.N)) == k && c.State.Finished() {
				told = append(told, c)
			} else {
				others = append(others, c)
			}
		}
		if len(told) == 0 {
			continue
		}
		done, err := m.report(ctx, msg, rows, told, k)
		if err != nil {
			return err
		}
		if done {
			rest = others
		}
	}
	if len(rest) == 0 {
		return nil
	}
	return m.queue.Apply(ctx, []queue.Change{{ID: msg.ID, At: m.now().UnixNano(), Rows: rest}}, durability(rest))
}

// durability is what the change that needs most of it needs: a delivery to a
// mailbox may be made again, one to a remote host may not.
func durability(cs []queue.RowChange) queue.Durability {
	d := queue.Lazy
	for _, c := range cs {
		switch c.State {
		case queue.StateDelivered:
		case queue.StateRelayed, queue.StateDoubtful:
			return queue.Wait
		default:
			d = queue.Soon
		}
	}
	return d
}

// silent is told by nobody.
const silent dsn.Kind = 255

// tells is the kind of report that a change of a row may cause.
func tells(c queue.RowChange, r queue.RecipientRow) dsn.Kind {
	switch c.State {
	case queue.StateReturned:
		return dsn.Failed
	case queue.StateRelayed:
		if strings.Contains(strings.ToUpper(r.Notify), "SUCCESS") {
			return dsn.Relayed
		}
	case queue.StateDelivered:
		if strings.Contains(strings.ToUpper(r.Notify), "SUCCESS") {
			return dsn.Delivered
		}
	}
	return silent
}

func rowOf(rows []queue.RecipientRow, n uint16) queue.RecipientRow {
	for _, r := range rows {
		if r.N == n {
			return r
		}
	}
	return queue.RecipientRow{N: n}
}

// report accepts a notification together with the changes it tells of; false:
// there is nothing to tell or nobody to tell it to.
func (m *Mover) report(ctx context.Context, msg queue.Message, rows []queue.RecipientRow, cs []queue.RowChange, k dsn.Kind) (bool, error) {
	_, all, err := m.queue.Message(msg.ID)
	if err != nil {
		return false, err
	}
	body, err := m.Body(ctx, msg.ID)
	if err != nil {
		m.log.Warn("report without the message", "trace", msg.ID, "err", err)
	}
	r := dsn.Report{Kind: k, ReportingMTA: m.hostname(), Now: m.now(), Language: m.language(msg),
		Parent: dsn.Parent{Trace: msg.ID, Envelope: msg.Envelope, Organization: msg.Origin.Organization, Received: msg.Received, Full: body}}
	for _, c := range cs {
		row := rowOf(rows, c.N)
		if c.New != nil {
			row.Address, row.Notify, row.Original, row.Parent, row.Why = c.New.Address, c.New.Notify, c.New.ORcpt, c.New.Parent, c.New.Why
		}
		first := origin(all, row)
		r.Recipients = append(r.Recipients, dsn.Recipient{Row: c.N, Address: first.Address, Notify: row.Notify, ORcpt: cmp.Or(row.Original, first.Original),
			Status: c.Status, Code: int(c.Code), Text: c.Text, Host: c.Host, Last: m.now(), Expires: msg.Expires})
	}
	sub, ok := dsn.Build(r)
	if !ok {
		return false, nil
	}
	x := internal{parent: msg.ID, prefer: msg.Shadow}
	if k != dsn.Delayed {
		x.also = []queue.Change{{ID: msg.ID, At: m.now().UnixNano(), Rows: withChild(cs, sub.Trace)}}
	}
	_, err = m.take(ctx, sub, x)
	if kind.Is(err, kind.Exists) { // told before, by this server or the one it took over from
		return false, nil
	}
	m.metrics.reports.WithLabelValues(k.String()).Inc()
	return err == nil, err
}

func withChild(cs []queue.RowChange, id mail.TraceID) []queue.RowChange {
	out := make([]queue.RowChange, len(cs))
	for i, c := range cs {
		if c.State == queue.StateReturned {
			c.Child = id
		}
		out[i] = c
	}
	return out
}

// origin is the row of the envelope that a row stems from.
func origin(all []queue.RecipientRow, r queue.RecipientRow) queue.RecipientRow {
	for range len(all) {
		if r.Why == 0 || int(r.Parent) >= len(all) {
			break
		}
		r = all[r.Parent]
	}
	return r
}

// Notice implements deliver.Door.
func (m *Mover) Notice(msg queue.Message) time.Time {
	return msg.Received.Add(m.settings.Group().DelayNotice.Std())
}

// Overdue implements deliver.Door: the sender is told that it takes long, and
// what is too old is returned. While the clock is not to be trusted nothing is.
func (m *Mover) Overdue(ctx context.Context, msg queue.Message, rows []queue.RecipientRow) (next time.Time, over bool, err error) {
	now := m.now()
	if ok, _ := m.clock.Trusted(); !ok {
		return now.Add(time.Minute), false, nil
	}
	if err := m.Mine(msg); err != nil {
		return now.Add(time.Second), false, nil
	}
	cs := make([]queue.RowChange, 0, len(rows))
	if !msg.Expires.IsZero() && !now.Before(msg.Expires) {
		for _, r := range rows {
			c := queue.RowChange{N: r.N, State: queue.StateReturned, Code: r.Code, Status: "5.4.7", Host: r.Host, Dest: r.Dest, Org: r.Organization,
				Text: cmp.Or(r.Text, "the time for delivery is over")}
			cs = append(cs, c)
		}
		return time.Time{}, true, m.Finish(ctx, msg, rows, cs)
	}
	for _, r := range rows {
		cs = append(cs, queue.RowChange{N: r.N, Code: r.Code, Status: cmp.Or(r.Status, "4.4.7"), Host: r.Host, Text: r.Text})
	}
	_, err = m.report(ctx, msg, rows, cs, dsn.Delayed)
	return time.Time{}, false, err
}

// language is that of the sender, empty where it is not known.
func (m *Mover) language(msg queue.Message) string {
	a, err := mail.ParseAddress(msg.Envelope.From)
	if err != nil {
		return ""
	}
	d, err := m.deps.Directory.Destination(a)
	if err != nil {
		return ""
	}
	return d.Language
}
