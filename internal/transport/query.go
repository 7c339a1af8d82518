package transport

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

// Servers ask each other these questions for commands; the one that is asked
// answers for its own queue.
const (
	askFind    = "find"
	askMessage = "message"
	askBody    = "body"
	askDests   = "destinations"
	askChange  = "change"
	askLog     = "verify-log"
	askRows    = "verify-rows"
)

type findQuery struct {
	Filter queue.Filter `cbor:"1,keyasint"`
}

type findAnswer struct {
	Rows   []row  `cbor:"1,keyasint"`
	Cursor string `cbor:"2,keyasint,omitempty"`
}

// row is a ledger row with what people want to see of its message.
type row struct {
	queue.RecipientRow
	Received  time.Time
	Sender    string
	SenderOrg org.OrganizationID
	Subject   string
	MessageID string
	Size      int64
	Account   string
	Door      string
	Remote    string
	Report    mail.TraceID // the message it is a report on or a copy of
	TakenFrom org.ServerName
	// Copy says that the answering server holds it for another, whose own row
	// says more.
	Copy bool
}

type idQuery struct {
	ID mail.TraceID `cbor:"1,keyasint"`
}

type messageAnswer struct {
	Rows []row `cbor:"1,keyasint"`
}

type bodyAnswer struct {
	Body []byte `cbor:"1,keyasint"`
}

type destsAnswer struct {
	Dests []schedule.DestStats `cbor:"1,keyasint"`
}

// change is what an administrator does to messages of a server.
type change struct {
	Do           string             `cbor:"1,keyasint"` // suspend, resume, retry, remove
	IDs          []mail.TraceID     `cbor:"2,keyasint,omitempty"`
	Dest         string             `cbor:"3,keyasint,omitempty"`
	Organization org.OrganizationID `cbor:"4,keyasint,omitempty"` // only rows of that
	Notify       bool               `cbor:"5,keyasint,omitempty"` // with remove: tell the sender
	Reason       string             `cbor:"6,keyasint,omitempty"`
	DryRun       bool               `cbor:"7,keyasint,omitempty"`
}

type changeAnswer struct {
	Messages int `cbor:"1,keyasint"`
	Rows     int `cbor:"2,keyasint"`
}

// answer answers another server.
func (m *Mover) answer(ctx context.Context, _ org.ServerName, method string, request []byte) ([]byte, error) {
	switch method {
	case askFind:
		return respond(request, func(q findQuery) (findAnswer, error) { return m.find(q) })
	case askMessage:
		return respond(request, func(q idQuery) (messageAnswer, error) { return m.message(q.ID) })
	case askBody:
		return respond(request, func(q idQuery) (bodyAnswer, error) {
			b, err := m.Body(ctx, q.ID)
			return bodyAnswer{b}, err
		})
	case askDests:
		return respond(request, func(struct{}) (destsAnswer, error) { return destsAnswer{m.dispatch.Stats()}, nil })
	case askChange:
		return respond(request, func(c change) (changeAnswer, error) { return m.change(ctx, c) })
	case askLog:
		return respond(request, func(struct{}) (queue.VerifyReport, error) { return m.queue.Verify(ctx) })
	case askRows:
		return respond(request, func(q rowsQuery) (rowsAnswer, error) { return m.verifyRows(ctx, q) })
	case askStatus:
		return respond(request, func(struct{}) (statusAnswer, error) { return statusAnswer{m.shadow.Status(), m.queue.Stats()}, nil })
	case askDrain:
		return respond(request, func(q drainQuery) (struct{}, error) {
			if q.Resume {
				if state, _ := m.wished(); state != org.Active {
					return struct{}{}, kind.WithHint(kind.Errorf(kind.Busy, "accept again: the component transport is %s", state),
						"postern component list "+string(m.me)+" shows who wants that")
				}
				m.shadow.Resume()
				m.dispatch.Unpause()
				return struct{}{}, nil
			}
			return struct{}{}, m.drain(ctx)
		})
	case askRemember:
		m.guard.Remember(request)
		return nil, nil
	}
	return nil, kind.Errorf(kind.Invalid, "question %q is not known here", method)
}

func respond[Q, A any](request []byte, f func(Q) (A, error)) ([]byte, error) {
	var q Q
	if err := codec.Unmarshal(request, &q); err != nil {
		return nil, kind.Errorf(kind.Invalid, "question: %w", err)
	}
	a, err := f(q)
	if err != nil {
		return nil, err
	}
	return codec.Marshal(a)
}

// ask asks a server, this one as well.
func ask[Q, A any](ctx context.Context, m *Mover, s org.ServerName, method string, q Q) (a A, err error) {
	request, err := codec.Marshal(q)
	if err != nil {
		return a, err
	}
	var b []byte
	if s == m.me {
		b, err = m.answer(ctx, s, method, request)
	} else {
		b, err = m.shadow.Ask(ctx, s, method, request)
	}
	if err != nil {
		return a, err
	}
	return a, codec.Unmarshal(b, &a)
}

// servers are all that have a queue.
func (m *Mover) servers() []org.ServerName {
	var out []org.ServerName
	for _, s := range m.deps.Group.View().Servers() {
		if !s.Witness {
			out = append(out, s.Name)
		}
	}
	slices.Sort(out)
	return out
}

// asked is the answer of one server.
type asked[A any] struct {
	Server org.ServerName
	Answer A
	Err    error
}

// unheardWait is how long a server is asked that is not heard at present.
const unheardWait = time.Second

// askAll asks all servers at once, or only one.
func askAll[Q, A any](ctx context.Context, m *Mover, only org.ServerName, method string, q Q) ([]asked[A], error) {
	servers := m.servers()
	if only != "" {
		if !slices.Contains(servers, only) {
			return nil, kind.Errorf(kind.NotFound, "there is no server %s with a queue", only)
		}
		servers = []org.ServerName{only}
	}
	heard := map[org.ServerName]bool{m.me: true}
	for _, p := range m.deps.Group.Peers() {
		heard[p.Server] = p.State == cluster.PeerUp
	}
	out := make([]asked[A], len(servers))
	done := make(chan struct{}, len(servers))
	for i, s := range servers {
		go func() {
			ctx := ctx
			if !heard[s] {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, unheardWait)
				defer cancel()
			}
			a, err := ask[Q, A](ctx, m, s, method, q)
			out[i] = asked[A]{s, a, err}
			done <- struct{}{}
		}()
	}
	for range servers {
		<-done
	}
	return out, nil
}

func (m *Mover) find(q findQuery) (a findAnswer, err error) {
	rows, cursor, err := m.findRows(q.Filter)
	if err != nil {
		return a, err
	}
	a.Cursor = cursor
	rests := m.resting(rows)
	known := map[mail.TraceID]queue.Message{}
	for _, r := range rows {
		msg, ok := known[r.ID]
		if !ok {
			if msg, _, err = m.queue.Message(r.ID); err != nil {
				continue // forgotten meanwhile
			}
			known[r.ID] = msg
		}
		if at, ok := rests[r.Dest]; ok && r.Server == "" && r.Next.Before(at) {
			r.Next = at
		}
		a.Rows = append(a.Rows, m.row(msg, r))
	}
	return a, nil
}

// findPages bounds what one question reads past messages of probes.
const findPages = 20

// findRows is Find without the messages with which health tries the way of mail:
// one a minute, which nobody looks for who does not name their domain.
func (m *Mover) findRows(f queue.Filter) (rows []queue.RecipientRow, cursor string, err error) {
	all := strings.Contains(strings.ToLower(f.Recipient), directory.HealthDomain)
	for range findPages {
		page, next, err := m.queue.Find(f)
		if err != nil {
			return nil, "", err
		}
		for _, r := range page {
			if all || !strings.HasSuffix(r.Address, "@"+directory.HealthDomain) {
				rows = append(rows, r)
			}
		}
		f.Cursor, cursor = next, next
		if cursor == "" || len(rows) >= f.Limit {
			break
		}
	}
	return rows, cursor, nil
}

// resting tells when destinations that failed are tried again, where one of the
// rows may wait for that.
func (m *Mover) resting(rows []queue.RecipientRow) map[string]time.Time {
	if !slices.ContainsFunc(rows, func(r queue.RecipientRow) bool { return !r.State.Finished() && r.Server == "" }) {
		return nil
	}
	out := map[string]time.Time{}
	for _, d := range m.dispatch.Stats() {
		if d.Until > 0 && d.Fails > 0 {
			out[string(d.Dest)] = time.Unix(0, d.Until)
		}
	}
	return out
}

func (m *Mover) row(msg queue.Message, r queue.RecipientRow) row {
	held := r.Server != ""
	if !held {
		r.Server = m.me
	}
	return row{RecipientRow: r, Copy: held, Received: msg.Received, Sender: msg.Envelope.From, SenderOrg: msg.Origin.Organization, Subject: msg.Subject, MessageID: msg.MessageID,
		Size: msg.Size, Account: msg.Origin.Account, Door: msg.Origin.Door, Remote: msg.Origin.Remote, Report: msg.Parent, TakenFrom: msg.TakenFrom}
}

func (m *Mover) message(id mail.TraceID) (a messageAnswer, err error) {
	msg, rows, err := m.queue.Message(id)
	if err != nil {
		return a, err
	}
	for _, r := range rows {
		a.Rows = append(a.Rows, m.row(msg, r))
	}
	return a, nil
}

// changesAtOnce bounds the messages of one record.
const changesAtOnce = 1000

// change carries out what an administrator asked of this server.
func (m *Mover) change(ctx context.Context, c change) (a changeAnswer, err error) {
	if c.Do == "retry" && len(c.IDs) == 0 && !c.DryRun {
		n := m.dispatch.RetryNow(schedule.Selector{Dest: schedule.Dest(c.Dest), Organization: c.Organization})
		return changeAnswer{Messages: n, Rows: n}, nil
	}
	ids := c.IDs
	if len(ids) == 0 {
		if ids, err = m.matching(c); err != nil {
			return a, err
		}
	}
	for part := range slices.Chunk(ids, changesAtOnce) {
		var batch []queue.Change
		for _, id := range part {
			one, err := m.changeOne(ctx, c, id)
			if err != nil && !kind.Is(err, kind.NotFound) && !kind.Is(err, kind.Conflict) {
				return a, err
			}
			if n := len(one.Rows); n > 0 {
				a.Messages, a.Rows = a.Messages+1, a.Rows+n
				batch = append(batch, one)
			}
		}
		if c.DryRun || c.Do == "retry" || c.Do == "remove" && c.Notify || len(batch) == 0 {
			continue
		}
		if err := m.applyEach(ctx, batch); err != nil {
			return a, err
		}
		if c.Do == "resume" {
			for _, one := range batch {
				m.dispatch.Resume(schedule.Selector{ID: one.ID, Dest: schedule.Dest(c.Dest)})
				m.dispatch.Submit(ctx, one.ID) // what the schedule has forgotten meanwhile
			}
		}
	}
	return a, nil
}

// applyEach makes changes together, or, where one of them does not fit any
// more, those that do.
func (m *Mover) applyEach(ctx context.Context, batch []queue.Change) error {
	err := m.queue.Apply(ctx, batch, queue.Wait)
	if !kind.Is(err, kind.Conflict) && !kind.Is(err, kind.NotFound) {
		return err
	}
	for _, one := range batch {
		err := m.queue.Apply(ctx, []queue.Change{one}, queue.Wait)
		if err != nil && !kind.Is(err, kind.Conflict) && !kind.Is(err, kind.NotFound) {
			return err
		}
	}
	return nil
}

// matching are the unfinished messages of this server that a change names.
func (m *Mover) matching(c change) (ids []mail.TraceID, err error) {
	f := queue.Filter{Organization: c.Organization, Dest: c.Dest, Unfinished: true}
	for {
		rows, cursor, err := m.queue.Find(f)
		if err != nil {
			return nil, err
		}
		for _, r := range rows {
			if r.Server == "" && (len(ids) == 0 || ids[len(ids)-1] != r.ID) {
				ids = append(ids, r.ID)
			}
		}
		if cursor == "" {
			return ids, nil
		}
		f.Cursor = cursor
	}
}

// changeOne is the change of one message, without rows where it has nothing to
// do with it. What the schedule has to know it is told here.
func (m *Mover) changeOne(ctx context.Context, c change, id mail.TraceID) (queue.Change, error) {
	out := queue.Change{ID: id, At: m.now().UnixNano()}
	msg, rows, err := m.queue.Message(id)
	if err != nil || msg.Primary != "" { // a copy: its server is asked as well
		return out, err
	}
	var changed []queue.RecipientRow
	for _, r := range rows {
		if r.State.Finished() || c.Dest != "" && r.Dest != c.Dest || c.Organization != "" && r.Organization != c.Organization && msg.Origin.Organization != c.Organization {
			continue
		}
		if rc, ok := c.of(r); ok {
			out.Rows, changed = append(out.Rows, rc), append(changed, r)
		}
	}
	if len(out.Rows) == 0 || c.DryRun {
		return out, nil
	}
	one := schedule.Selector{ID: id, Dest: schedule.Dest(c.Dest)}
	switch {
	case c.Do == "retry":
		m.dispatch.RetryNow(one)
	case c.Do == "suspend" && c.Organization == "":
		_, err = m.dispatch.Suspend(ctx, one)
		// For one organization the rows alone are held back: a delivery may
		// have rows of several.
	case c.Do == "remove" && c.Notify:
		err = m.Finish(ctx, msg, changed, out.Rows)
	}
	return out, err
}

// of is what the change does to a row, false for nothing.
func (c change) of(r queue.RecipientRow) (queue.RowChange, bool) {
	rc := queue.RowChange{N: r.N, Dest: r.Dest, Org: r.Organization}
	switch c.Do {
	case "suspend":
		rc.State = queue.StateSuspended
		return rc, r.State != queue.StateSuspended
	case "resume":
		rc.State = queue.StateReady
		if r.Dest == "" {
			rc.State = queue.StateNew
		}
		return rc, r.State == queue.StateSuspended
	case "remove":
		rc.State, rc.Text = queue.StateRemoved, c.Reason
		if c.Notify {
			rc.State, rc.Code, rc.Status = queue.StateReturned, 550, "5.0.0"
		}
	}
	return rc, true
}

// drain gives the messages of this server to the holders of their copies.
func (m *Mover) drain(ctx context.Context) error {
	if err := m.dispatch.Pause(ctx); err != nil {
		m.dispatch.Unpause()
		return kind.Errorf(kind.Busy, "attempts are still under way: %w", err)
	}
	if err := m.shadow.Drain(ctx); err != nil {
		m.dispatch.Unpause()
		return err
	}
	return nil
}
