package quarantine

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// memStore keeps messages in memory as a mailbox store does: what a
// quarantine asks of one is there.
type memStore struct {
	mail.Store // the rest is not

	mu    sync.Mutex // guards all below
	boxes map[org.MailboxID][]kept
	next  mail.UID
	down  bool
}

type kept struct {
	mail.Message
	body []byte
	id   [32]byte
}

func (s *memStore) err() error {
	if s.down {
		return kind.Errorf(kind.Busy, "database is away")
	}
	return nil
}

func (s *memStore) Deliver(_ context.Context, d mail.Delivery) ([]mail.Delivered, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := d.Recipients[0].Mailbox
	if slices.ContainsFunc(s.boxes[at.ID], func(k kept) bool { return k.id == d.Identity }) {
		return []mail.Delivered{{Mailbox: at, Duplicate: true}}, s.err()
	}
	s.next++
	m := mail.Message{UID: s.next, Blob: mail.BlobID(s.next), Size: int64(len(d.Body)), InternalDate: d.Date}
	if end := bytes.Index(d.Body, []byte("\r\n\r\n")); end >= 0 && end < 8000 {
		m.Header = bytes.Clone(d.Body[:end+4]) // larger ones are left out, as a store may
	}
	s.boxes[at.ID] = append(s.boxes[at.ID], kept{m, bytes.Clone(d.Body), d.Identity})
	return []mail.Delivered{{Mailbox: at, UID: s.next}}, s.err()
}

func (s *memStore) Folders(_ context.Context, at org.MailboxRef) ([]mail.Folder, error) {
	if _, ok := s.boxes[at.ID]; !ok {
		return nil, kind.Errorf(kind.NotFound, "no such mailbox")
	}
	return []mail.Folder{{ID: 7, Name: "Sent"}, {ID: 1, Name: "INBOX"}}, s.err()
}

func (s *memStore) Search(_ context.Context, at org.MailboxRef, r mail.SearchRequest) (mail.Found, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out mail.Found
	for _, k := range s.boxes[at.ID] {
		t := k.Time().Unix()
		if r.Folder == 1 && t >= r.Criteria.Since && (r.Criteria.Before == 0 || t < r.Criteria.Before) {
			out.UIDs = append(out.UIDs, k.UID)
		}
	}
	return out, s.err()
}

// Messages gives two at a time.
func (s *memStore) Messages(_ context.Context, at org.MailboxRef, r mail.MessagesRequest) (mail.Messages, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out mail.Messages
	for _, k := range s.boxes[at.ID] {
		if !slices.ContainsFunc(r.UIDs, func(u mail.UIDRange) bool { return u.First <= k.UID && k.UID <= u.Last }) {
			continue
		}
		if len(out.Messages) == 2 {
			out.More = true
			break
		}
		out.Messages = append(out.Messages, k.Message)
	}
	return out, s.err()
}

// Body gives 100 kB at a time.
func (s *memStore) Body(_ context.Context, at org.MailboxRef, r mail.BodyRequest) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, k := range s.boxes[at.ID] {
		if k.Blob == r.Blob {
			rest := k.body[r.Offset:]
			return bytes.Clone(rest[:min(r.Length, int64(len(rest)), 100_000)]), s.err()
		}
	}
	return nil, kind.Errorf(kind.NotFound, "no such blob")
}

func (s *memStore) Expunge(_ context.Context, at org.MailboxRef, r mail.Expunge) (mail.Expunged, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.boxes[at.ID] = slices.DeleteFunc(s.boxes[at.ID], func(k kept) bool {
		return slices.ContainsFunc(r.UIDs, func(u mail.UIDRange) bool { return u.First <= k.UID && k.UID <= u.Last })
	})
	return mail.Expunged{}, s.err()
}

// world is a quarantine of two organizations and an outbox.
type world struct {
	*Quarantine
	store *memStore
	state *settings.Memory
	refs  map[org.OrganizationID]org.MailboxRef
	now   time.Time
	sent  []mail.Submission
	full  bool
}

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newWorld() *world {
	w := &world{store: &memStore{boxes: map[org.MailboxID][]kept{}}, state: settings.NewMemory(), refs: map[org.OrganizationID]org.MailboxRef{}, now: noon}
	w.Quarantine = New(Deps{Store: w.store, Boxes: w, Book: settings.New(w.state, nil), Agreed: w.state, Submit: w.submit, Now: func() time.Time { return w.now }})
	return w
}

func (w *world) submit(_ context.Context, s mail.Submission) (mail.Receipt, error) {
	if w.full {
		return mail.Receipt{}, kind.Errorf(kind.Full, "queue is full")
	}
	w.sent = append(w.sent, s)
	return mail.Receipt{Trace: s.Trace}, nil
}

func (w *world) SystemMailbox(_ context.Context, o org.OrganizationID, purpose string) (org.MailboxRef, error) {
	if purpose != Purpose {
		return org.MailboxRef{}, kind.Errorf(kind.Invalid, "purpose %s", purpose)
	}
	if _, ok := w.refs[o]; !ok {
		w.refs[o] = org.MailboxRef{ID: org.NewMailboxID(), Database: "DB01"}
	}
	return w.refs[o], nil
}

func (w *world) FindSystemMailbox(o org.OrganizationID, _ string) (org.MailboxRef, bool) {
	ref, ok := w.refs[o]
	return ref, ok
}

func (w *world) OrganizationIDs() []org.OrganizationID { return []org.OrganizationID{"red", "blue"} }

func (w *world) policy(t *testing.T, p settings.Policy) {
	t.Helper()
	var x settings.Txn
	if err := x.Put(settings.PolicyKey(p.Organization), 0, p); err != nil {
		t.Fatal(err)
	}
	if _, err := w.state.Commit(t.Context(), x.Txn); err != nil {
		t.Fatal(err)
	}
}
