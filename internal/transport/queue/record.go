package queue

import (
	"fmt"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Kinds of records in the log of a queue. Kinds below 32 belong to databases.
const (
	KindAccept  journal.Kind = 32 // a message of this server; the body is the message
	KindShadow  journal.Kind = 33 // a copy for another server; body as well
	KindState   journal.Kind = 34 // changes
	KindNoticed journal.Kind = 35 // the holder of copies was told
	KindTake    journal.Kind = 36 // copies that are this server's messages from now on
	KindCarry   journal.Kind = 37 // a message moved to the end of the log; body as well
	KindEpoch   journal.Kind = 38 // an epoch begins
	KindRequest journal.Kind = 39 // how far a Safety Net request is
)

// recordVersion is the version of the records; testdata/queue-1.hex pins 1.
const recordVersion = 1

// Limits of a record, held before anything is written.
const (
	MaxRows      = 10_000    // rows of a message
	MaxChanges   = 10_000    // changes of one call
	MaxTake      = 10_000    // messages of one Take
	MaxBody      = 100 << 20 // bytes of a message
	maxAddress   = 1024
	maxText      = 512
	maxHost      = 255
	maxStatus    = 16
	maxSubject   = 120
	maxMessageID = 256
	maxDest      = 300
	maxName      = 255
)

// Accepted is a message as it is accepted. Times are Unix nanoseconds of the
// guarded clock.
type Accepted struct {
	V         int            `cbor:"1,keyasint"`
	ID        mail.TraceID   `cbor:"2,keyasint"`
	Epoch     uint64         `cbor:"3,keyasint"` // of the queue that accepted it; Accept fills it in
	Identity  [32]byte       `cbor:"4,keyasint"`
	Received  int64          `cbor:"5,keyasint"`
	Expires   int64          `cbor:"6,keyasint"`
	Origin    mail.Origin    `cbor:"7,keyasint"`
	Envelope  mail.Envelope  `cbor:"8,keyasint"`
	Size      int64          `cbor:"9,keyasint"` // of the body, filled in
	Shadow    org.ServerName `cbor:"10,keyasint,omitempty"`
	Priority  mail.Priority  `cbor:"11,keyasint"`
	Flags     uint32         `cbor:"12,keyasint,omitempty"`
	Parent    mail.TraceID   `cbor:"13,keyasint"` // of a report, journal copy or copy by a rule; zero for none
	Also      []Change       `cbor:"14,keyasint,omitempty"`
	Subject   string         `cbor:"15,keyasint,omitempty"` // for the ledger, cut to 120 bytes
	MessageID string         `cbor:"16,keyasint,omitempty"` // cut to 256 bytes
}

// ShadowCopy is a message of another server to be held here.
type ShadowCopy struct {
	Primary org.ServerName
	Queue   string // identity of its queue
	Try     uint8  // counts the servers it was offered to
	Accept  []byte // its Accepted, encoded
	Body    []byte
}

type shadowRec struct {
	V       int            `cbor:"1,keyasint"`
	Primary org.ServerName `cbor:"2,keyasint"`
	Queue   string         `cbor:"3,keyasint"`
	Try     uint8          `cbor:"4,keyasint"`
	Accept  []byte         `cbor:"5,keyasint"`
}

type stateRec struct {
	V       int      `cbor:"1,keyasint"`
	Changes []Change `cbor:"2,keyasint"`
}

// Change is what happened to a message. What is empty stays as it was.
type Change struct {
	ID     mail.TraceID    `cbor:"1,keyasint"`
	At     int64           `cbor:"2,keyasint"` // Unix nanoseconds of the guarded clock
	Flags  uint32          `cbor:"3,keyasint,omitempty"`
	Clear  uint32          `cbor:"4,keyasint,omitempty"`
	Shadow *org.ServerName `cbor:"5,keyasint,omitempty"` // who holds the copy now, empty for nobody
	Rows   []RowChange     `cbor:"6,keyasint,omitempty"`
	// Fate ends a copy that is held here: FateFinished, FateVoid or
	// FateSuperseded. That of an own message follows from its rows.
	Fate  Fate           `cbor:"7,keyasint,omitempty"`
	By    org.ServerName `cbor:"9,keyasint,omitempty"` // who said so, or owns it now
	Epoch uint64         `cbor:"10,keyasint,omitempty"`
}

// RowChange is what happened to one row. A row in StateNew that gets a Dest
// counts as ready before it changes: its first way needs no record of its own.
type RowChange struct {
	N         uint16             `cbor:"1,keyasint"`
	State     State              `cbor:"2,keyasint,omitempty"`
	Attempts  uint16             `cbor:"3,keyasint,omitempty"`
	Next      int64              `cbor:"4,keyasint,omitempty"` // Unix nanoseconds; with a State it replaces the former one
	Code      uint16             `cbor:"5,keyasint,omitempty"` // last reply (RFC 5321)
	Status    string             `cbor:"6,keyasint,omitempty"` // enhanced (RFC 3463)
	Text      string             `cbor:"7,keyasint,omitempty"` // cut to 512 bytes
	Host      string             `cbor:"8,keyasint,omitempty"` // cut to 255 bytes
	TLS       uint8              `cbor:"9,keyasint,omitempty"`
	Mailbox   org.MailboxRef     `cbor:"10,keyasint"`
	Duplicate bool               `cbor:"11,keyasint,omitempty"`
	Child     mail.TraceID       `cbor:"12,keyasint"` // the report that returned it
	New       *RowNew            `cbor:"13,keyasint,omitempty"`
	At        int64              `cbor:"14,keyasint,omitempty"` // where it differs from that of the change
	Repeat    bool               `cbor:"15,keyasint,omitempty"` // the host may get it twice
	Dest      string             `cbor:"16,keyasint,omitempty"`
	Org       org.OrganizationID `cbor:"17,keyasint,omitempty"`
}

// Why a row was added.
type Why uint8

// The reasons.
const (
	WhyGroup   Why = 1
	WhyAlias   Why = 2
	WhyForward Why = 3
	WhyRule    Why = 4
	WhyJournal Why = 5
)

// RowNew adds a row; its N is the number of rows so far.
type RowNew struct {
	Parent  uint16             `cbor:"1,keyasint"`
	Address string             `cbor:"2,keyasint"`
	ORcpt   string             `cbor:"3,keyasint,omitempty"`
	Notify  string             `cbor:"4,keyasint,omitempty"`
	Dest    string             `cbor:"5,keyasint,omitempty"`
	Org     org.OrganizationID `cbor:"6,keyasint,omitempty"`
	Why     Why                `cbor:"7,keyasint"`
}

type noticedRec struct {
	V      int            `cbor:"1,keyasint"`
	Server org.ServerName `cbor:"2,keyasint"`
	Queue  string         `cbor:"3,keyasint"`
	Upto   org.LSN        `cbor:"4,keyasint"`
}

type takeRec struct {
	V       int            `cbor:"1,keyasint"`
	Primary org.ServerName `cbor:"2,keyasint"`
	Queue   string         `cbor:"3,keyasint"`
	Epoch   uint64         `cbor:"4,keyasint"`
	IDs     []mail.TraceID `cbor:"5,keyasint"`
}

type carryRec struct {
	V       int      `cbor:"1,keyasint"`
	From    org.LSN  `cbor:"2,keyasint"`
	Message []byte   `cbor:"3,keyasint"`
	Rows    [][]byte `cbor:"4,keyasint"`
}

type epochRec struct {
	V        int    `cbor:"1,keyasint"`
	Identity string `cbor:"2,keyasint"`
	Epoch    uint64 `cbor:"3,keyasint"`
}

// requestRec is the progress of a Safety Net request.
type requestRec struct {
	V      int          `cbor:"1,keyasint"`
	ID     string       `cbor:"2,keyasint"`
	Done   mail.TraceID `cbor:"3,keyasint"`
	Counts [4]uint32    `cbor:"4,keyasint"`
}

// decodeRecord decodes the operations of a record, which is a pointer to one
// of the types above.
func decodeRecord(k journal.Kind, ops []byte) (any, error) {
	var v any
	switch k {
	case KindAccept:
		v = new(Accepted)
	case KindShadow:
		v = new(shadowRec)
	case KindState:
		v = new(stateRec)
	case KindNoticed:
		v = new(noticedRec)
	case KindTake:
		v = new(takeRec)
	case KindCarry:
		v = new(carryRec)
	case KindEpoch:
		v = new(epochRec)
	case KindRequest:
		v = new(requestRec)
	default:
		return nil, newer("record of kind %d", k)
	}
	if err := codec.Unmarshal(ops, v); err != nil {
		return nil, kind.Errorf(kind.Corrupt, "decode record of kind %d: %w", k, err)
	}
	if n := versionOf(v); n != recordVersion {
		return nil, newer("record of kind %d and version %d", k, n)
	}
	return v, check(v)
}

func newer(format string, args ...any) error {
	return kind.WithHint(kind.Errorf(kind.Invalid, format+" is not known here", args...),
		"a newer version wrote it; upgrade this server")
}

func versionOf(v any) int {
	switch r := v.(type) {
	case *Accepted:
		return r.V
	case *shadowRec:
		return r.V
	case *stateRec:
		return r.V
	case *noticedRec:
		return r.V
	case *takeRec:
		return r.V
	case *carryRec:
		return r.V
	case *epochRec:
		return r.V
	case *requestRec:
		return r.V
	}
	return 0
}

// DecodeAccepted reads an Accepted that came from another server.
func DecodeAccepted(b []byte) (*Accepted, error) {
	v, err := decodeRecord(KindAccept, b)
	if err != nil {
		return nil, err
	}
	return v.(*Accepted), nil
}

// check holds the limits of a record, when it is planned and when it is read.
func check(v any) error {
	switch r := v.(type) {
	case *Accepted:
		return r.check()
	case *stateRec:
		return checkChanges(r.Changes)
	case *takeRec:
		if len(r.IDs) > MaxTake {
			return kind.Errorf(kind.Invalid, "take of %d messages, more than %d", len(r.IDs), MaxTake)
		}
	case *carryRec:
		if len(r.Rows) > MaxRows {
			return kind.Errorf(kind.Invalid, "message with %d rows, more than %d", len(r.Rows), MaxRows)
		}
	case *requestRec:
		return checkName("request", r.ID)
	case *noticedRec:
		return checkName("server", string(r.Server))
	case *shadowRec:
		if err := checkName("server", string(r.Primary)); err != nil {
			return err
		}
		return checkName("queue", r.Queue)
	}
	return nil
}

// checkName holds the limits of what becomes a part of a key.
func checkName(what, s string) error {
	if s == "" || len(s) > maxName {
		return kind.Errorf(kind.Invalid, "%s of %d bytes: want 1 to %d", what, len(s), maxName)
	}
	for i := range len(s) {
		if s[i] == 0 {
			return kind.Errorf(kind.Invalid, "%s %q has a null byte", what, s)
		}
	}
	return nil
}

func (a *Accepted) check() error {
	if a.ID == (mail.TraceID{}) {
		return kind.Errorf(kind.Invalid, "message without an identity")
	}
	if n := len(a.Envelope.Recipients); n == 0 || n > MaxRows {
		return kind.Errorf(kind.Invalid, "message %s has %d recipients: want 1 to %d", a.ID, n, MaxRows)
	}
	if len(a.Envelope.From) > maxAddress || len(a.Envelope.EnvID) > maxAddress {
		return kind.Errorf(kind.Invalid, "message %s: sender is too long", a.ID)
	}
	if !utf8.ValidString(a.Envelope.From) {
		return kind.Errorf(kind.Invalid, "message %s: sender is not UTF-8", a.ID)
	}
	for _, r := range a.Envelope.Recipients {
		if !utf8.ValidString(r.Address) {
			return kind.Errorf(kind.Invalid, "message %s: recipient is not UTF-8", a.ID)
		}
		if len(r.Address) > maxAddress || len(r.ORcpt) > maxAddress || len(r.Notify) > maxHost {
			return kind.Errorf(kind.Invalid, "message %s: recipient is too long", a.ID)
		}
	}
	if len(a.Subject) > maxSubject || len(a.MessageID) > maxMessageID || a.Received < 0 || a.Expires < 0 {
		return kind.Errorf(kind.Invalid, "message %s: a field is out of its range", a.ID)
	}
	return checkChanges(a.Also)
}

func checkChanges(cs []Change) error {
	if len(cs) > MaxChanges {
		return kind.Errorf(kind.Invalid, "%d changes at once, more than %d", len(cs), MaxChanges)
	}
	seen := make(map[mail.TraceID]bool, len(cs))
	for i := range cs {
		c := &cs[i]
		if seen[c.ID] {
			return kind.Errorf(kind.Invalid, "two changes of message %s at once", c.ID)
		}
		seen[c.ID] = true
		if err := c.check(); err != nil {
			return fmt.Errorf("change message %s: %w", c.ID, err)
		}
	}
	return nil
}

func (c *Change) check() error {
	if len(c.Rows) > MaxRows {
		return kind.Errorf(kind.Invalid, "%d rows, more than %d", len(c.Rows), MaxRows)
	}
	if c.Shadow != nil && *c.Shadow != "" {
		if err := checkName("server", string(*c.Shadow)); err != nil {
			return err
		}
	}
	last := -1
	for i := range c.Rows {
		r := &c.Rows[i]
		if int(r.N) <= last {
			return kind.Errorf(kind.Invalid, "row %d after row %d", r.N, last)
		}
		last = int(r.N)
		if _, ok := stateNames[r.State]; r.State != 0 && (!ok || r.State == StateHeld) {
			return kind.Errorf(kind.Invalid, "row %d to %s", r.N, r.State)
		}
		if len(r.Text) > maxText || len(r.Host) > maxHost || len(r.Status) > maxStatus || len(r.Dest) > maxDest || last >= MaxRows {
			return kind.Errorf(kind.Invalid, "row %d: a field is out of its range", r.N)
		}
		if r.Mailbox.Database != "" {
			if err := checkName("database", string(r.Mailbox.Database)); err != nil {
				return err
			}
		}
		if n := r.New; n != nil && (len(n.Address) > maxAddress || len(n.ORcpt) > maxAddress || len(n.Dest) > maxDest || len(n.Notify) > maxHost) {
			return kind.Errorf(kind.Invalid, "row %d: a field is out of its range", r.N)
		}
	}
	return nil
}
