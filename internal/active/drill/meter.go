package drill

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Store is what a meter needs of mailboxes; mail.Store is one.
type Store interface {
	Setup(ctx context.Context, at org.MailboxRef, r mail.MailboxSetup) error
	Append(ctx context.Context, at org.MailboxRef, r mail.Append) (mail.Appended, error)
	Folders(ctx context.Context, at org.MailboxRef) ([]mail.Folder, error)
	Messages(ctx context.Context, at org.MailboxRef, r mail.MessagesRequest) (mail.Messages, error)
}

// Pace of a meter.
const (
	meterEvery = 100 * time.Millisecond // between two operations, and two tries of one
	meterTry   = 2 * time.Second        // one try
	meterEnd   = time.Minute            // to count in the end
	inbox      = "INBOX"
)

// Meter writes and reads a mailbox of its own until it is told to stop. An
// operation that fails is tried again, with the same key, until it succeeds.
type Meter struct {
	Store    Store
	Server   org.ServerName
	Database org.DatabaseName
	Drill    string
	// Over is told once when an operation takes longer than Limit.
	Limit time.Duration
	Over  func(time.Duration)

	ref       org.MailboxRef
	folder    mail.FolderID
	confirmed map[mail.UID]bool
	open      bool // an operation has no answer
	sum       time.Duration
	got       Measure
}

// mailboxOf is the mailbox of a meter. Nobody's is the same.
func mailboxOf(drill string, s org.ServerName, db org.DatabaseName) org.MailboxRef {
	h := sha256.Sum256([]byte("postern drill\x00" + drill + "\x00" + string(s) + "\x00" + string(db)))
	var id org.MailboxID
	copy(id[:], h[:])
	return org.MailboxRef{ID: id, Database: db}
}

// Begin makes the mailbox; to be called before Run.
func (m *Meter) Begin(ctx context.Context) error {
	m.ref, m.confirmed = mailboxOf(m.Drill, m.Server, m.Database), map[mail.UID]bool{}
	m.got = Measure{Server: m.Server, Database: m.Database, Begun: time.Now().UTC()}
	if err := m.Store.Setup(ctx, m.ref, mail.MailboxSetup{Organization: "drill"}); err != nil {
		return fmt.Errorf("mailbox for the drill in %s: %w", m.Database, err)
	}
	folders, err := m.Store.Folders(ctx, m.ref)
	if err != nil {
		return fmt.Errorf("mailbox for the drill in %s: %w", m.Database, err)
	}
	for _, f := range folders {
		if f.Name == inbox {
			m.folder = f.ID
			return nil
		}
	}
	return kind.Errorf(kind.Internal, "mailbox for the drill in %s has no INBOX", m.Database)
}

// Run measures until ctx ends, counts, removes the mailbox and tells.
func (m *Meter) Run(ctx context.Context) Measure {
	tick := time.NewTicker(meterEvery)
	defer tick.Stop()
	for n := 1; ctx.Err() == nil; n++ {
		m.operation(ctx, tick.C, n)
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
	m.got.Ended = time.Now().UTC()
	if m.got.Operations > 0 {
		m.got.Mean = m.sum / time.Duration(m.got.Operations)
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), meterEnd)
	defer cancel()
	if err := m.count(end); err != nil {
		m.got.Error = err.Error()
	}
	if err := m.Store.Setup(end, m.ref, mail.MailboxSetup{Remove: true}); err != nil && m.got.Error == "" {
		m.got.Error = "its mailbox was not removed: " + err.Error()
	}
	return m.got
}

// operation writes one message and reads it back.
func (m *Meter) operation(ctx context.Context, tick <-chan time.Time, n int) {
	var key mail.Key
	rand.Read(key[:]) // never fails (crypto/rand)
	body := fmt.Appendf(nil, "Subject: drill %s %d\r\nMessage-ID: <%x@drill.invalid>\r\n\r\n", m.Drill, n, key)
	begun := time.Now()
	told := false
	m.open = true
	for ctx.Err() == nil {
		err := m.once(ctx, key, body)
		took := time.Since(begun)
		if err == nil {
			m.open = false
			m.got.Operations++
			m.sum += took
			m.got.Longest = max(m.got.Longest, took)
			return
		}
		if ctx.Err() != nil {
			return // told to stop in the middle: that says nothing
		}
		m.got.Retries++
		m.got.Longest = max(m.got.Longest, took)
		if took > m.Limit && m.Over != nil && !told {
			told = true
			m.Over(took)
		}
		select {
		case <-ctx.Done():
		case <-tick:
		}
	}
}

func (m *Meter) once(ctx context.Context, key mail.Key, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, meterTry)
	defer cancel()
	a, err := m.Store.Append(ctx, m.ref, mail.Append{Key: key, Folder: inbox, Body: body})
	if err != nil {
		return err
	}
	m.confirmed[a.UID] = true
	got, err := m.Store.Messages(ctx, m.ref, mail.MessagesRequest{Folder: m.folder, UIDs: []mail.UIDRange{{First: a.UID, Last: a.UID}}})
	if err == nil && len(got.Messages) != 1 {
		err = kind.Errorf(kind.Corrupt, "message %d was confirmed and is not there", a.UID)
	}
	return err
}

// count compares what is there with what was confirmed.
func (m *Meter) count(ctx context.Context) error {
	there := map[mail.UID]int{}
	for from := mail.UID(1); ; {
		got, err := m.Store.Messages(ctx, m.ref, mail.MessagesRequest{Folder: m.folder, UIDs: []mail.UIDRange{{First: from, Last: ^mail.UID(0)}}})
		if err != nil {
			return fmt.Errorf("count in %s: %w", m.Database, err)
		}
		for _, x := range got.Messages {
			there[x.UID]++
			from = max(from, x.UID+1)
		}
		if !got.More || len(got.Messages) == 0 {
			break
		}
	}
	m.got.Lost, m.got.Doubled = tally(m.confirmed, there, m.open)
	return nil
}

// tally tells how many confirmed messages are not there, and how many are
// there that nobody confirmed; one more may be there whose answer did not come.
func tally(confirmed map[mail.UID]bool, there map[mail.UID]int, open bool) (lost, doubled int) {
	for uid := range confirmed {
		if there[uid] == 0 {
			lost++
		}
	}
	for uid, n := range there {
		doubled += n - 1
		if !confirmed[uid] {
			doubled++
		}
	}
	if open && doubled > 0 {
		doubled--
	}
	return lost, doubled
}
