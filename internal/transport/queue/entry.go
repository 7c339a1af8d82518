package queue

import (
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// messageRow is a message in the ledger; its recipients are rows.
type messageRow struct {
	ID        mail.TraceID   `cbor:"1,keyasint"`
	LSN       org.LSN        `cbor:"2,keyasint"` // record with the body
	Size      int64          `cbor:"3,keyasint"`
	Epoch     uint64         `cbor:"4,keyasint"`
	Identity  [32]byte       `cbor:"5,keyasint"`
	Received  int64          `cbor:"6,keyasint"`
	Expires   int64          `cbor:"7,keyasint"`
	Origin    mail.Origin    `cbor:"8,keyasint"`
	Envelope  mail.Envelope  `cbor:"9,keyasint"` // without recipients
	Shadow    org.ServerName `cbor:"10,keyasint,omitempty"`
	Priority  mail.Priority  `cbor:"11,keyasint"`
	Flags     uint32         `cbor:"12,keyasint,omitempty"`
	Parent    mail.TraceID   `cbor:"13,keyasint"`
	Primary   org.ServerName `cbor:"14,keyasint,omitempty"` // whose message it is; empty: of this server
	Queue     string         `cbor:"15,keyasint,omitempty"`
	Try       uint8          `cbor:"16,keyasint,omitempty"`
	TakenFrom org.ServerName `cbor:"17,keyasint,omitempty"`
	Fate      Fate           `cbor:"18,keyasint,omitempty"`
	Finished  int64          `cbor:"19,keyasint,omitempty"` // Unix nanoseconds, 0: unfinished
	Forgotten bool           `cbor:"20,keyasint,omitempty"` // the body may be gone
	Subject   string         `cbor:"21,keyasint,omitempty"`
	MessageID string         `cbor:"22,keyasint,omitempty"`
	Rows      int            `cbor:"23,keyasint"`
	By        org.ServerName `cbor:"24,keyasint,omitempty"`
}

// row is a recipient in the ledger.
type row struct {
	State     State              `cbor:"1,keyasint"`
	Attempts  uint16             `cbor:"2,keyasint,omitempty"`
	Next      int64              `cbor:"3,keyasint,omitempty"`
	Code      uint16             `cbor:"4,keyasint,omitempty"`
	Status    string             `cbor:"5,keyasint,omitempty"`
	Text      string             `cbor:"6,keyasint,omitempty"`
	Host      string             `cbor:"7,keyasint,omitempty"`
	TLS       uint8              `cbor:"8,keyasint,omitempty"`
	Mailbox   org.MailboxRef     `cbor:"9,keyasint"`
	Duplicate bool               `cbor:"10,keyasint,omitempty"`
	Child     mail.TraceID       `cbor:"11,keyasint"`
	Repeat    bool               `cbor:"12,keyasint,omitempty"`
	Dest      string             `cbor:"13,keyasint,omitempty"`
	Org       org.OrganizationID `cbor:"14,keyasint,omitempty"`
	Last      int64              `cbor:"15,keyasint,omitempty"` // when it changed last
	Changed   org.LSN            `cbor:"16,keyasint,omitempty"` // by which record
	Address   string             `cbor:"17,keyasint"`
	ORcpt     string             `cbor:"18,keyasint,omitempty"`
	Notify    string             `cbor:"19,keyasint,omitempty"`
	Parent    uint16             `cbor:"20,keyasint,omitempty"`
	Why       Why                `cbor:"21,keyasint,omitempty"` // 0: named in the envelope
}

// entry is a message with its rows as the records so far have made it. Only
// the writer changes one.
type entry struct {
	m    messageRow
	rows []row
	// What the ledger has, while this differs from it.
	stored  bool // the ledger has it
	dirty   bool
	oldM    *messageRow    // nil: nothing
	oldRows map[uint16]row // those that were touched
	jobs    map[string]job // as the ledger has them
	gone    bool           // it is to leave the ledger
}

// owed is a notice that the holder of a copy has to get.
type owed struct {
	shadow org.ServerName
	fate   Fate
	at     int64
}

// own tells that the message is this server's to deliver.
func (m *messageRow) own() bool { return m.Primary == "" }

// newEntry makes the entry of an accepted message whose record is at lsn.
func newEntry(a *Accepted, lsn org.LSN) *entry {
	e := &entry{m: messageRow{
		ID: a.ID, LSN: lsn, Size: a.Size, Epoch: a.Epoch, Identity: a.Identity, Received: a.Received, Expires: a.Expires,
		Origin: a.Origin, Envelope: a.Envelope, Shadow: a.Shadow, Priority: a.Priority, Flags: a.Flags, Parent: a.Parent,
		Subject: a.Subject, MessageID: a.MessageID,
	}}
	e.m.Envelope.Recipients = nil
	e.rows = make([]row, len(a.Envelope.Recipients))
	for i, r := range a.Envelope.Recipients {
		e.rows[i] = row{State: StateNew, Address: r.Address, Notify: r.Notify, ORcpt: r.ORcpt, Last: a.Received, Changed: lsn}
	}
	e.m.Rows = len(e.rows)
	return e
}

// effective is the state of a row as it is to be taken: an attempt that began
// before this run did is one nobody knows the end of.
func (e *entry) effective(r *row, began org.LSN) State {
	switch {
	case !e.m.own() && e.m.Finished == 0 && !r.State.Finished():
		return StateHeld
	case r.State == StateAttempt && r.Changed < began:
		return StateDoubtful
	}
	return r.State
}

// allowed checks a change against the table. A copy that is held follows what
// its server says, as long as nothing that ended changes.
func (e *entry) allowed(c *Change, began org.LSN) error {
	if !e.m.own() {
		return e.allowedHeld(c)
	}
	if c.Fate != FateOpen {
		return kind.Errorf(kind.Invalid, "change message %s: it is of this server, its fate follows from its rows", c.ID)
	}
	rows := len(e.rows)
	for i := range c.Rows {
		rc := &c.Rows[i]
		if rc.New != nil {
			if err := e.allowedNew(rc, rows); err != nil {
				return err
			}
			rows++
			continue
		}
		if int(rc.N) >= len(e.rows) {
			return kind.Errorf(kind.Invalid, "change message %s: it has no row %d", c.ID, rc.N)
		}
		if rc.State == 0 {
			continue
		}
		from := e.effective(&e.rows[rc.N], began)
		if from == StateNew && rc.Dest != "" && rc.State != StateReady && !transition(StateNew, rc.State) {
			from = StateReady
		}
		if !transition(from, rc.State) {
			return kind.Errorf(kind.Conflict, "change message %s: row %d is %s and cannot become %s", c.ID, rc.N, from, rc.State)
		}
	}
	return nil
}

func (e *entry) allowedNew(rc *RowChange, rows int) error {
	if int(rc.N) != rows || int(rc.New.Parent) >= rows || rows >= MaxRows {
		return kind.Errorf(kind.Invalid, "change message %s: row %d cannot be added to %d rows", e.m.ID, rc.N, rows)
	}
	if e.m.Finished != 0 {
		return kind.Errorf(kind.Conflict, "change message %s: it is finished and gets no row", e.m.ID)
	}
	if s := rc.State; s != 0 && s != StateNew && s != StateReady && !transition(StateNew, s) && !transition(StateReady, s) {
		return kind.Errorf(kind.Conflict, "change message %s: row %d cannot begin as %s", e.m.ID, rc.N, s)
	}
	return nil
}

func (e *entry) allowedHeld(c *Change) error {
	if e.m.Finished != 0 {
		return kind.Errorf(kind.Conflict, "change copy %s of %s: it is over", c.ID, e.m.Primary)
	}
	if f := c.Fate; f > FateSuperseded {
		return kind.Errorf(kind.Invalid, "change copy %s of %s: fate %d", c.ID, e.m.Primary, f)
	}
	rows := len(e.rows)
	for i := range c.Rows {
		rc := &c.Rows[i]
		switch {
		case rc.New != nil && int(rc.N) < rows: // told once more
		case rc.New != nil:
			if err := e.allowedNew(rc, rows); err != nil {
				return err
			}
			rows++
		case int(rc.N) >= rows:
			return kind.Errorf(kind.Invalid, "change copy %s of %s: it has no row %d", c.ID, e.m.Primary, rc.N)
		}
	}
	return nil
}

// touch remembers a row as the ledger has it.
func (e *entry) touch(n uint16) *row {
	r := &e.rows[n]
	if _, ok := e.oldRows[n]; !ok && e.oldM != nil && int(n) < e.oldM.Rows {
		if e.oldRows == nil {
			e.oldRows = map[uint16]row{}
		}
		e.oldRows[n] = *r
	}
	return r
}

// apply brings a change that was allowed into the entry and returns the
// notices it causes. It is the same at the time of the change and in a replay.
func (e *entry) apply(c *Change, lsn org.LSN, at int64) []owed {
	if c.At != 0 {
		at = c.At
	}
	var out []owed
	m := &e.m
	if c.Shadow != nil && *c.Shadow != m.Shadow {
		if m.own() && m.Shadow != "" {
			out = append(out, owed{m.Shadow, FateSuperseded, at})
		}
		m.Shadow = *c.Shadow
	}
	m.Flags = m.Flags&^c.Clear | c.Flags
	if c.By != "" {
		m.By = c.By
	}
	if c.Epoch != 0 {
		m.Epoch = c.Epoch
	}
	fate := FateOpen
	for i := range c.Rows {
		fate = max(fate, e.applyRow(&c.Rows[i], lsn, at))
	}
	if m.Finished != 0 {
		return out
	}
	if !m.own() {
		if c.Fate >= FateFinished {
			e.end(c.Fate, at)
		}
		return out
	}
	if f := e.fate(); f != FateOpen {
		m.Fate, m.Finished = f, max(at, 1)
		fate = f
	}
	if m.Shadow != "" && fate != FateOpen && fate != FateTaken {
		out = append(out, owed{m.Shadow, fate, at})
	}
	return out
}

// applyRow changes one row, and tells whether its copy's holder should know.
func (e *entry) applyRow(rc *RowChange, lsn org.LSN, at int64) Fate {
	fate := FateOpen
	if rc.New != nil && int(rc.N) == len(e.rows) {
		n := rc.New
		e.rows = append(e.rows, row{State: StateNew, Address: n.Address, ORcpt: n.ORcpt, Notify: n.Notify,
			Dest: n.Dest, Org: n.Org, Parent: n.Parent, Why: n.Why, Last: at, Changed: lsn})
		e.m.Rows = len(e.rows)
		if n.Dest != "" {
			e.rows[rc.N].State = StateReady
		}
		fate = FateProgress
	}
	if int(rc.N) >= len(e.rows) {
		return fate
	}
	r := e.touch(rc.N)
	if r.State.Finished() {
		return fate
	}
	if rc.At != 0 {
		at = rc.At
	}
	if rc.Dest != "" {
		r.Dest = rc.Dest
	}
	if r.Org == "" {
		r.Org = rc.Org
	}
	if rc.Attempts != 0 {
		r.Attempts = rc.Attempts
	}
	if rc.Next != 0 || rc.State != 0 {
		r.Next = rc.Next
	}
	if rc.Code != 0 || rc.Status != "" || rc.Text != "" {
		r.Code, r.Status, r.Text = rc.Code, rc.Status, rc.Text
	}
	if rc.Host != "" {
		r.Host, r.TLS = rc.Host, rc.TLS
	}
	if rc.Mailbox != (org.MailboxRef{}) {
		r.Mailbox = rc.Mailbox
	}
	if rc.Child != (mail.TraceID{}) {
		r.Child = rc.Child
	}
	r.Duplicate = r.Duplicate || rc.Duplicate
	r.Repeat = r.Repeat || rc.Repeat
	r.Last = at
	if rc.State != 0 {
		r.State, r.Changed = rc.State, lsn
		switch {
		case r.State == StateAttempt:
			fate = max(fate, FateAttempt)
		case r.State.Finished(), r.State == StateDeferred:
			fate = max(fate, FateProgress)
		}
	}
	return fate
}

// fate is that of an own message by its rows.
func (e *entry) fate() Fate {
	void, taken := true, false
	for i := range e.rows {
		s := e.rows[i].State
		if !s.Finished() {
			return FateOpen
		}
		void = void && s == StateVoid
		taken = taken || s == StateTaken
	}
	switch {
	case taken:
		return FateTaken
	case void:
		return FateVoid
	}
	return FateFinished
}

// end ends a copy.
func (e *entry) end(f Fate, at int64) {
	e.m.Fate, e.m.Finished = f, max(at, 1)
	to := StateElsewhere
	if f == FateVoid {
		to = StateVoid
	}
	for i := range e.rows {
		if !e.rows[i].State.Finished() {
			r := e.touch(uint16(i))
			r.State, r.Last = to, at
		}
	}
}

// take makes a copy an own message.
func (e *entry) take(epoch uint64, lsn org.LSN, at int64) {
	m := &e.m
	m.TakenFrom, m.Primary, m.Queue, m.Try, m.Shadow, m.Epoch = m.Primary, "", "", 0, "", epoch
	for i := range e.rows {
		switch e.rows[i].State {
		case StateAttempt:
			r := e.touch(uint16(i))
			r.State, r.Last, r.Changed = StateDoubtful, at, lsn
		case StateDeferred:
			r := e.touch(uint16(i))
			r.State, r.Last, r.Changed = StateReady, at, lsn
		}
	}
	if f := e.fate(); f != FateOpen {
		m.Fate, m.Finished = f, max(at, 1)
	}
}
