package transport

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/dsn"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/route"
)

// Finish implements deliver.Door: it writes what became of rows. What has to be
// told to the sender is told in the same record, so that neither is without
// the other.
func (m *Mover) Finish(ctx context.Context, msg queue.Message, rows []queue.RecipientRow, cs []queue.RowChange) error {
	for _, c := range cs {
		if c.Status == "4.2.2" {
			m.guard.Full(c.Mailbox.ID) // from now on RCPT asks it
		}
		if c.Repeat && c.State == queue.StateRelayed {
			m.deps.Events.Emit(EventRepeat, "Message %s for %s may have reached %s twice.", msg.ID, rowOf(rows, c).Address, c.Host)
		}
	}
	reports, err := m.reports(ctx, msg, rows, cs)
	if err != nil {
		return err
	}
	cs = slices.Clone(cs)
	for _, r := range reports {
		for i := range cs {
			if cs[i].State == queue.StateReturned && slices.Contains(r.rows, cs[i].N) {
				cs[i].Child = r.sub.Trace
			}
		}
	}
	change := queue.Change{ID: msg.ID, At: m.now().UnixNano(), Rows: cs}
	for i, r := range reports {
		x := internal{parent: msg.ID, prefer: msg.Shadow}
		if last := i == len(reports)-1; last {
			x.also = []queue.Change{change}
		}
		// One that exists was made before, by this server or the one it took over
		// from.
		_, err := m.take(ctx, r.sub, x)
		if err == nil {
			m.metrics.reports.WithLabelValues(r.kind.String()).Inc()
			if x.also != nil {
				return nil
			}
		} else if !kind.Is(err, kind.Exists) {
			return err
		}
	}
	return m.queue.Apply(ctx, []queue.Change{change}, durability(cs))
}

// due is a notification that has to be made.
type due struct {
	kind dsn.Kind
	rows []uint16
	sub  mail.Submission
}

// reports are the notifications that changes cause, one for each kind and each
// who is told.
func (m *Mover) reports(ctx context.Context, msg queue.Message, rows []queue.RecipientRow, cs []queue.RowChange) (out []due, err error) {
	type group struct {
		kind dsn.Kind
		to   string
	}
	told := map[group][]queue.RowChange{}
	var order []group
	var all []queue.RecipientRow
	for _, c := range cs {
		k := tells(c, rowOf(rows, c))
		if k == silent || msg.Envelope.From == "" {
			continue
		}
		if all == nil {
			if all, err = m.allRows(msg.ID, cs); err != nil {
				return nil, err
			}
		}
		g := group{k, msg.Envelope.From}
		if k == dsn.Failed {
			g.to = route.ReportTo(msg, all, c.N, m.deps.Directory)
		}
		if told[g] == nil {
			order = append(order, g)
		}
		told[g] = append(told[g], c)
	}
	for _, g := range order {
		r := m.reportOf(ctx, msg, rows, all, told[g], g.kind, g.to)
		sub, ok := build(r)
		if !ok {
			continue
		}
		d := due{kind: g.kind, sub: sub}
		for _, c := range told[g] {
			if dsn.Wanted(g.kind, rowOf(rows, c).Notify) {
				d.rows = append(d.rows, c.N)
			}
		}
		out = append(out, d)
	}
	return out, nil
}

// build is dsn.Build with the field that final delivery adds (RFC 5321 section
// 4.4); the agent for other hosts takes it off.
func build(r dsn.Report) (mail.Submission, bool) {
	sub, ok := dsn.Build(r)
	if ok {
		sub.Body = append([]byte("Return-Path: <>\r\n"), sub.Body...)
	}
	return sub, ok
}

// allRows are the rows of a message as they will be with those that changes
// add.
func (m *Mover) allRows(id mail.TraceID, cs []queue.RowChange) ([]queue.RecipientRow, error) {
	_, all, err := m.queue.Message(id)
	if err != nil {
		return nil, err
	}
	for _, c := range cs {
		if c.New != nil && int(c.N) == len(all) {
			all = append(all, rowOf(nil, c))
		}
	}
	return all, nil
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

// rowOf is the row that a change is about.
func rowOf(rows []queue.RecipientRow, c queue.RowChange) queue.RecipientRow {
	for _, r := range rows {
		if r.N == c.N {
			return r
		}
	}
	if n := c.New; n != nil {
		return queue.RecipientRow{N: c.N, Address: n.Address, Notify: n.Notify, Original: n.ORcpt, Parent: n.Parent, Why: n.Why}
	}
	return queue.RecipientRow{N: c.N}
}

// reportOf puts together what is told of some rows, and to whom.
func (m *Mover) reportOf(ctx context.Context, msg queue.Message, rows, all []queue.RecipientRow, cs []queue.RowChange, k dsn.Kind, to string) dsn.Report {
	body, err := m.Body(ctx, msg.ID)
	if err != nil {
		m.log.Warn("report without the message", "trace", msg.ID, "err", err)
	}
	env := msg.Envelope
	env.From = to
	r := dsn.Report{Kind: k, ReportingMTA: m.hostname(), Now: m.now(), Language: m.language(to),
		Parent: dsn.Parent{Trace: msg.ID, Envelope: env, Organization: msg.Origin.Organization, Received: msg.Received, Full: body}}
	for _, c := range cs {
		row := rowOf(rows, c)
		first := origin(all, row)
		r.Recipients = append(r.Recipients, dsn.Recipient{Row: c.N, Address: first.Address, Notify: row.Notify, ORcpt: cmp.Or(row.Original, first.Original),
			Status: c.Status, Code: int(c.Code), Text: c.Text, Host: c.Host, Last: m.now(), Expires: msg.Expires})
	}
	return r
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
	return time.Time{}, false, m.delayed(ctx, msg, rows)
}

// delayed tells the sender that a message waits. It is told once: the report's
// trace follows from the message and the rows.
func (m *Mover) delayed(ctx context.Context, msg queue.Message, rows []queue.RecipientRow) error {
	_, all, err := m.queue.Message(msg.ID)
	if err != nil || msg.Envelope.From == "" {
		return err
	}
	var cs []queue.RowChange
	for _, r := range rows {
		cs = append(cs, queue.RowChange{N: r.N, Code: r.Code, Status: cmp.Or(r.Status, "4.4.7"), Host: r.Host, Text: r.Text})
	}
	sub, ok := build(m.reportOf(ctx, msg, rows, all, cs, dsn.Delayed, msg.Envelope.From))
	if !ok {
		return nil
	}
	if _, err := m.take(ctx, sub, internal{parent: msg.ID, prefer: msg.Shadow}); !kind.Is(err, kind.Exists) {
		return err
	}
	return nil
}

// language is that of somebody who is told, empty where it is not known.
func (m *Mover) language(to string) string {
	a, err := mail.ParseAddress(to)
	if err != nil {
		return ""
	}
	d, err := m.deps.Directory.Destination(a)
	if err != nil {
		return ""
	}
	return d.Language
}
