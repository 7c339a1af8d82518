package transport

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/deliver"
	"github.com/postern-mail/postern/internal/transport/quarantine"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/route"
)

// flagQuarantine marks a message that goes to quarantine; why is the text of
// its rows.
const flagQuarantine uint32 = 1 << 25

// Route implements deliver.Door: the categoriser decides, and what it decided is
// carried out. Where every recipient just has a destination nothing is written;
// that follows from the message again.
func (m *Mover) Route(ctx context.Context, msg queue.Message, rows []queue.RecipientRow) ([]deliver.Way, error) {
	body, err := m.Body(ctx, msg.ID)
	if err != nil {
		return nil, err
	}
	if msg.Flags&flagQuarantine != 0 {
		return nil, m.setAside(ctx, msg, rows, body)
	}
	d, err := route.Categorise(route.Question{Message: msg, Rows: rows, Body: body, Now: m.now()},
		route.Deps{Directory: m.deps.Directory, Settings: m.settings, Hosts: m.hosts(), Secret: m.srs})
	if err != nil {
		return nil, err
	}
	for _, c := range d.Copies {
		_, err := m.take(ctx, c.Submission, internal{parent: c.Parent, flags: c.Flags, prefer: msg.Shadow})
		if err != nil && !kind.Is(err, kind.Exists) {
			return nil, err
		}
	}
	if len(d.Why) > 0 {
		m.log.Info("message routed", "trace", msg.ID, "why", strings.Join(d.Why, "; "))
	}
	held := msg.Origin.Account != "" && m.guard.Held(msg.Origin.Account)
	plain := len(d.Copies) == 0
	var ways []deliver.Way
	for i := range d.Rows {
		c := &d.Rows[i]
		if c.State != queue.StateReady {
			plain = plain && c.State == 0
			continue
		}
		if held && !strings.HasPrefix(c.Dest, "db:") {
			c.State, c.Text, plain = queue.StateSuspended, "the account writes to too many recipients elsewhere", false
			continue
		}
		ways = append(ways, deliver.Way{Row: c.N, Dest: c.Dest, Mailbox: c.Mailbox, Organization: c.Org})
		plain = plain && c.New == nil
	}
	if plain {
		return ways, nil
	}
	if err := m.keepAside(ctx, msg, rows, d.Rows, body); err != nil {
		return nil, err
	}
	return ways, m.Finish(ctx, msg, rows, d.Rows)
}

// quarantined takes a message that goes to quarantine instead.
func (m *Mover) quarantined(ctx context.Context, s mail.Submission) (mail.Receipt, error) {
	c := queue.Change{ID: s.Trace, At: m.now().UnixNano()}
	for i := range s.Envelope.Recipients {
		c.Rows = append(c.Rows, queue.RowChange{N: uint16(i), Text: s.Quarantine})
	}
	return m.take(ctx, s, internal{flags: flagQuarantine, after: &c})
}

// setAside puts a message into quarantine, where it is once however often this
// is repeated.
func (m *Mover) setAside(ctx context.Context, msg queue.Message, rows []queue.RecipientRow, body []byte) error {
	var cs []queue.RowChange
	for _, r := range rows {
		if r.State == queue.StateNew {
			cs = append(cs, queue.RowChange{N: r.N, State: queue.StateQuarantined, Text: r.Text})
		}
	}
	if err := m.keepAside(ctx, msg, rows, cs, body); err != nil {
		return err
	}
	return m.queue.Apply(ctx, []queue.Change{{ID: msg.ID, At: m.now().UnixNano(), Rows: cs}}, queue.Soon)
}

// keepAside puts a message into quarantine for the rows that are quarantined.
func (m *Mover) keepAside(ctx context.Context, msg queue.Message, rows []queue.RecipientRow, cs []queue.RowChange, body []byte) error {
	var aside []queue.RecipientRow
	why := ""
	for _, c := range cs {
		if c.State != queue.StateQuarantined {
			continue
		}
		r := rowOf(rows, c)
		r.Organization = cmp.Or(r.Organization, c.Org)
		if a, err := mail.ParseAddress(r.Address); err == nil && r.Organization == "" {
			r.Organization, _ = m.deps.Directory.OrganizationOf(a.Domain)
		}
		why = cmp.Or(why, c.Text)
		aside = append(aside, r)
	}
	for _, it := range quarantine.Split(msg, aside, why, 0) {
		if err := m.quarantine.Put(ctx, it, body); err != nil {
			return err
		}
	}
	return nil
}

// hostSection is the name under which servers tell each other the names they
// have in Received fields.
const hostSection = "hostname"

// hosts are the names of the group's servers.
func (m *Mover) hosts() []string {
	if h := m.names.Load(); h != nil && time.Since(h.at) < keepEvery {
		return h.names
	}
	h := &names{at: time.Now(), names: []string{strings.ToLower(m.hostname())}}
	for _, s := range m.servers() {
		b, _, ok := m.deps.Group.Published(s, hostSection)
		if name := strings.ToLower(string(b)); ok && !slices.Contains(h.names, name) {
			h.names = append(h.names, name)
		}
	}
	m.names.Store(h)
	return h.names
}

// names are the hosts as of a moment.
type names struct {
	at    time.Time
	names []string
}
