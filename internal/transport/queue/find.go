package queue

import (
	"encoding/hex"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Limits of a search.
const (
	MaxFind   = 1000    // rows of one answer
	maxLooked = 100_000 // messages looked at for one answer
)

// Filter says which rows to find; what is empty does not matter. Texts are
// compared whole and without case.
type Filter struct {
	Organization org.OrganizationID // of the recipient, or of who sent it
	Sender       string
	Recipient    string
	MessageID    string
	State        State
	Unfinished   bool
	Dest         string
	From, To     time.Time // of arrival, both included
	Limit        int       // rows, at most and by default 1000
	Cursor       string    // where the answer before ended
}

// Find returns rows, oldest message first, and where to go on, empty at the
// end. It sees what was written when it is called, so also what was applied
// with Wait. An answer may have fewer rows than the limit, and none, and still
// a cursor: it looks at a limited number of messages.
func (q *Queue) Find(f Filter) (rows []RecipientRow, cursor string, err error) {
	if f.Limit <= 0 || f.Limit > MaxFind {
		f.Limit = MaxFind
	}
	s := finder{q: q, f: f}
	if err := s.place(); err != nil {
		return nil, "", err
	}
	err = q.book.led.view(func(from pebble.Reader) error {
		return scan(from, s.lo, s.hi, func(k, _ []byte) (bool, error) { return s.look(from, k) })
	})
	if err != nil {
		return nil, "", err
	}
	return s.rows, s.cursor, nil
}

// finder is one search. It goes along one kind of key, whose last part is the
// message and, for search keys, the time of arrival before it.
type finder struct {
	q      *Queue
	f      Filter
	prefix []byte
	lo, hi []byte
	row    int // of the first message, where to go on
	looked int
	rows   []RecipientRow
	cursor string
}

// place chooses the keys and where among them to begin and to end.
func (s *finder) place() error {
	f := &s.f
	switch {
	case f.MessageID != "":
		s.prefix = searchPrefix(byMessageID, f.MessageID)
	case f.Recipient != "":
		s.prefix = searchPrefix(byRecipient, f.Recipient)
	case f.Sender != "":
		s.prefix = searchPrefix(bySender, f.Sender)
	case f.Organization != "":
		s.prefix = searchPrefix(byOrg, string(f.Organization))
	default:
		s.prefix = []byte{kMessage}
	}
	s.lo, s.hi = s.prefix, after(s.prefix)
	if s.prefix[0] == kSearch {
		s.lo = be.AppendUint64(append([]byte(nil), s.prefix...), nanos(f.From))
		if !f.To.IsZero() {
			s.hi = be.AppendUint64(append([]byte(nil), s.prefix...), nanos(f.To)+1)
		}
	}
	if f.Cursor == "" {
		return nil
	}
	b, err := hex.DecodeString(f.Cursor)
	want := 18
	if s.prefix[0] == kSearch {
		want = 26
	}
	if err != nil || len(b) != want {
		return kind.Errorf(kind.Invalid, "cursor %.60q is not one of this search", f.Cursor)
	}
	n := len(b) - 2
	s.lo, s.row = append(append([]byte(nil), s.prefix...), b[:n]...), int(be.Uint16(b[n:]))
	return nil
}

// look takes the rows of one message.
func (s *finder) look(from pebble.Reader, k []byte) (bool, error) {
	at := k[len(s.prefix):]
	if len(at) < 16 {
		return false, kind.Errorf(kind.Corrupt, "ledger: search key of %d bytes", len(k))
	}
	first := s.row
	s.row = 0
	if s.looked++; s.looked > maxLooked {
		s.end(at, first)
		return false, nil
	}
	e, err := loadEntry(from, mail.TraceID(at[len(at)-16:]))
	if err != nil || e == nil || !s.message(&e.m) {
		return true, err
	}
	for n := first; n < len(e.rows); n++ {
		r := e.row(n, s.q.book.began)
		if !s.match(&e.m, &r) {
			continue
		}
		if len(s.rows) == s.f.Limit {
			s.end(at, n)
			return false, nil
		}
		s.rows = append(s.rows, r)
	}
	return true, nil
}

func (s *finder) end(at []byte, row int) {
	s.cursor = hex.EncodeToString(be.AppendUint16(append([]byte(nil), at...), uint16(row)))
}

func (s *finder) message(m *messageRow) bool {
	f := &s.f
	return (f.Sender == "" || strings.EqualFold(f.Sender, m.Envelope.From)) &&
		(f.MessageID == "" || strings.EqualFold(f.MessageID, m.MessageID)) &&
		(f.From.IsZero() || m.Received >= int64(nanos(f.From))) &&
		(f.To.IsZero() || m.Received <= int64(nanos(f.To))) &&
		(!f.Unfinished || m.Finished == 0)
}

func (s *finder) match(m *messageRow, r *RecipientRow) bool {
	f := &s.f
	return (f.Recipient == "" || strings.EqualFold(f.Recipient, r.Address)) &&
		(f.State == 0 || f.State == r.State) &&
		(f.Dest == "" || f.Dest == r.Dest) &&
		(!f.Unfinished || !r.State.Finished()) &&
		(f.Organization == "" || f.Organization == r.Organization || f.Organization == m.Origin.Organization)
}
