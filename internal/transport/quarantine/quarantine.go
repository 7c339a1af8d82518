package quarantine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/quarantine/mark"
	"github.com/postern-mail/postern/internal/transport/settings"
)

const (
	// Purpose of the system mailbox that holds it.
	Purpose = "quarantine"
	// MaxList is the most entries of one answer.
	MaxList = 1000
	// maxLooked bounds the entries a listing looks at for its filter.
	maxLooked = 50_000
	page      = 200
	maxShown  = 16 << 10 // bytes of a header that is shown
)

// Boxes are the system mailboxes of organizations.
type Boxes interface {
	// SystemMailbox tells which mailbox of the organization is for a purpose;
	// it is made where there is none.
	SystemMailbox(ctx context.Context, o org.OrganizationID, purpose string) (org.MailboxRef, error)
	// FindSystemMailbox tells which there is.
	FindSystemMailbox(o org.OrganizationID, purpose string) (org.MailboxRef, bool)
	// OrganizationIDs lists all organizations.
	OrganizationIDs() []org.OrganizationID
}

// Deps is what a quarantine works with.
type Deps struct {
	Store  mail.Store
	Boxes  Boxes
	Book   *settings.Book
	Agreed settings.Agreed
	// Submit takes what is released, and digests, as transport accepts mail.
	Submit func(ctx context.Context, s mail.Submission) (mail.Receipt, error)
	Log    *slog.Logger
	Now    func() time.Time // guarded time; nil: time.Now
}

// Quarantine keeps mail aside. It is safe for concurrent use.
type Quarantine struct{ d Deps }

// New makes a quarantine; it starts nothing.
func New(d Deps) *Quarantine {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Quarantine{d}
}

// Put keeps a message aside; body is the message as it would have been
// delivered. It may be repeated. Busy where the database is away.
func (q *Quarantine) Put(ctx context.Context, it Item, body []byte) error {
	at, err := q.d.Boxes.SystemMailbox(ctx, it.Organization, Purpose)
	if err != nil {
		return fmt.Errorf("quarantine %s: %w", it.ID, err)
	}
	whole, err := mark.Wrap(it, body)
	if err != nil {
		return err
	}
	id := digest(append([]string{"postern quarantine", it.ID.String(), string(it.Organization)}, addresses(it.Envelope.Recipients)...)...)
	done, err := q.d.Store.Deliver(ctx, mail.Delivery{Key: mail.Key(id[:16]), Recipients: []mail.Recipient{{Mailbox: at}}, Body: whole,
		Date: arrived(it.ID).UnixNano(), Identity: id, TraceID: it.Trace.String()})
	if err != nil {
		return fmt.Errorf("quarantine %s: %w", it.ID, err)
	}
	if len(done) == 1 && done[0].Refused != "" {
		return kind.Errorf(kind.Kind(done[0].RefusedKind), "quarantine %s: %s", it.ID, done[0].Refused)
	}
	return nil
}

func addresses(rcpts []mail.EnvelopeRecipient) []string {
	out := make([]string, len(rcpts))
	for i, r := range rcpts {
		out[i] = r.Address
	}
	return out
}

func digest(parts ...string) [32]byte {
	h := sha256.New()
	for _, p := range parts {
		fmt.Fprintf(h, "%d:%s", len(p), p)
	}
	return [32]byte(h.Sum(nil))
}

// Entry is a message that is kept.
type Entry struct {
	Item
	From    string // of its header
	Subject string
	Size    int64 // bytes, without our field where that is known
	Expires time.Time

	uid  mail.UID
	blob mail.BlobID
	skip int64 // bytes of our field
}

// Filter chooses entries of a listing. Texts match as parts, without case.
type Filter struct {
	Sender, Recipient, Reason string
	Since                     time.Time
	Limit                     int // 0: 100
}

func (f Filter) matches(it Item) bool {
	part := func(s, want string) bool { return strings.Contains(strings.ToLower(s), strings.ToLower(want)) }
	rcpt := func(r mail.EnvelopeRecipient) bool { return part(r.Address, f.Recipient) }
	return part(it.Envelope.From, f.Sender) && part(it.Reason, f.Reason) && slices.ContainsFunc(it.Envelope.Recipients, rcpt)
}

// box is the quarantine of an organization, as the store has it.
type box struct {
	at     org.MailboxRef
	folder mail.FolderID
}

func (q *Quarantine) open(ctx context.Context, o org.OrganizationID) (box, bool, error) {
	at, ok := q.d.Boxes.FindSystemMailbox(o, Purpose)
	if !ok {
		return box{}, false, nil
	}
	all, err := q.d.Store.Folders(ctx, at)
	if kind.Is(err, kind.NotFound) { // nothing came into it yet
		return box{}, false, nil
	}
	if err != nil {
		return box{}, false, fmt.Errorf("quarantine of %s: %w", o, err)
	}
	i := slices.IndexFunc(all, func(f mail.Folder) bool { return f.Name == "INBOX" })
	if i < 0 {
		return box{}, false, kind.Errorf(kind.Corrupt, "quarantine of %s has no INBOX", o)
	}
	return box{at, all[i].ID}, true, nil
}

// List finds entries of an organization, the newest first.
func (q *Quarantine) List(ctx context.Context, o org.OrganizationID, f Filter) ([]Entry, error) {
	if f.Limit <= 0 {
		f.Limit = 100
	}
	f.Limit = min(f.Limit, MaxList)
	b, ok, err := q.open(ctx, o)
	if err != nil || !ok {
		return nil, err
	}
	var c mail.Criteria
	if !f.Since.IsZero() {
		c.Since = f.Since.Unix()
	}
	found, err := q.d.Store.Search(ctx, b.at, mail.SearchRequest{Folder: b.folder, Criteria: c})
	if err != nil {
		return nil, fmt.Errorf("list quarantine of %s: %w", o, err)
	}
	uids := found.UIDs[max(0, len(found.UIDs)-maxLooked):]
	slices.Reverse(uids)
	var out []Entry
	for some := range slices.Chunk(uids, page) {
		all, err := q.read(ctx, o, b, some)
		if err != nil {
			return nil, err
		}
		for _, e := range all {
			if f.matches(e.Item) {
				if out = append(out, e); len(out) == f.Limit {
					return out, nil
				}
			}
		}
	}
	return out, nil
}

// read reads entries, newest first. What is not ours is left out and logged.
func (q *Quarantine) read(ctx context.Context, o org.OrganizationID, b box, uids []mail.UID) ([]Entry, error) {
	var ranges []mail.UIDRange
	for _, u := range uids {
		ranges = append(ranges, mail.UIDRange{First: u, Last: u})
	}
	slices.SortFunc(ranges, func(a, b mail.UIDRange) int { return int(a.First) - int(b.First) })
	days := time.Duration(q.d.Book.Policy(o).QuarantineDays) * 24 * time.Hour
	var out []Entry
	for len(ranges) > 0 {
		got, err := q.d.Store.Messages(ctx, b.at, mail.MessagesRequest{Folder: b.folder, UIDs: ranges, Headers: true})
		if err != nil {
			return nil, fmt.Errorf("read quarantine of %s: %w", o, err)
		}
		for _, m := range got.Messages {
			head := m.Header
			if len(head) == 0 {
				if head, err = q.d.Store.Body(ctx, b.at, mail.BodyRequest{Blob: m.Blob, Length: min(m.Size, mark.Max+64<<10)}); err != nil {
					return nil, fmt.Errorf("read quarantine of %s: %w", o, err)
				}
			}
			it, skip, err := mark.Unwrap(head)
			if err != nil || it.Organization != o {
				q.d.Log.Warn("a message in quarantine is not ours", "organization", o, "uid", m.UID, "error", err)
				continue
			}
			look := message.Look(head[skip:])
			out = append(out, Entry{Item: it, From: strings.Join(look.From, ", "), Subject: look.Subject, Size: m.Size - int64(skip),
				Expires: arrived(it.ID).Add(days), uid: m.UID, blob: m.Blob, skip: int64(skip)})
		}
		if !got.More || len(got.Messages) == 0 {
			break
		}
		last := got.Messages[len(got.Messages)-1].UID
		ranges = slices.DeleteFunc(ranges, func(r mail.UIDRange) bool { return r.Last <= last })
	}
	slices.Reverse(out)
	return out, nil
}

// find looks an entry up, by its identity or the message's trace: it lies under
// the second in which that was made.
func (q *Quarantine) find(ctx context.Context, o org.OrganizationID, id mail.TraceID) (box, Entry, error) {
	missing := kind.WithHint(kind.Errorf(kind.NotFound, "quarantine: no message %s", id), "postern quarantine list")
	b, ok, err := q.open(ctx, o)
	if err != nil {
		return b, Entry{}, err
	}
	if !ok {
		return b, Entry{}, missing
	}
	at := arrived(id).Unix()
	found, err := q.d.Store.Search(ctx, b.at, mail.SearchRequest{Folder: b.folder, Criteria: mail.Criteria{Since: at, Before: at + 1}})
	if err != nil {
		return b, Entry{}, fmt.Errorf("look into quarantine of %s: %w", o, err)
	}
	for some := range slices.Chunk(found.UIDs, page) {
		all, err := q.read(ctx, o, b, some)
		if err != nil {
			return b, Entry{}, err
		}
		if i := slices.IndexFunc(all, func(e Entry) bool { return e.ID == id || e.Trace == id }); i >= 0 {
			return b, all[i], nil
		}
	}
	return b, Entry{}, missing
}

// Show finds an entry and gives the beginning of its header.
func (q *Quarantine) Show(ctx context.Context, o org.OrganizationID, id mail.TraceID) (Entry, string, error) {
	b, e, err := q.find(ctx, o, id)
	if err != nil {
		return e, "", err
	}
	head, err := q.d.Store.Body(ctx, b.at, mail.BodyRequest{Blob: e.blob, Offset: e.skip, Length: min(e.Size, maxShown)})
	if err != nil {
		return e, "", fmt.Errorf("read quarantined message %s: %w", id, err)
	}
	return e, strings.ToValidUTF8(string(head[:message.Look(head).At]), "?"), nil
}

// Release hands a message to transport for some of its recipients, none given
// for all. It is delivered once however often it is released. When all have it, it
// leaves quarantine. Malware is released where administrator says that one of
// the servers asks. Errors: NotFound, Denied, Invalid, Busy.
func (q *Quarantine) Release(ctx context.Context, o org.OrganizationID, id mail.TraceID, recipients []string, administrator bool) (mail.Receipt, error) {
	b, e, err := q.find(ctx, o, id)
	if err != nil {
		return mail.Receipt{}, err
	}
	if e.Malware && !administrator {
		return mail.Receipt{}, kind.Errorf(kind.Denied, "release %s: it holds malware (%s); only an administrator of the servers releases it", id, e.Reason)
	}
	rcpts, err := choose(e.Envelope.Recipients, recipients)
	if err != nil {
		return mail.Receipt{}, fmt.Errorf("release %s: %w", id, err)
	}
	body, err := q.body(ctx, b, e)
	if err != nil {
		return mail.Receipt{}, fmt.Errorf("release %s: %w", id, err)
	}
	now := q.d.Now()
	s := mail.Submission{Trace: mail.NewTraceID(now), Envelope: e.Envelope, Origin: e.Origin, Body: body, Received: now, Priority: mail.PriorityNormal,
		Identity: digest("postern release", e.ID.String(), string(o), hex.EncodeToString(e.Identity))}
	s.Envelope.Recipients = rcpts
	s.Origin.Door = Door
	receipt, err := q.d.Submit(ctx, s)
	if err != nil {
		return mail.Receipt{}, fmt.Errorf("release %s: %w", id, err)
	}
	if len(rcpts) == len(e.Envelope.Recipients) {
		if err := q.expunge(ctx, b, []mail.UID{e.uid}); err != nil {
			q.d.Log.Warn("a released message stays in quarantine until its time is over", "id", id, "error", err)
		}
	}
	return receipt, nil
}

// choose are those of the envelope that are asked for.
func choose(all []mail.EnvelopeRecipient, asked []string) ([]mail.EnvelopeRecipient, error) {
	if len(asked) == 0 {
		return all, nil
	}
	var out []mail.EnvelopeRecipient
	for _, a := range asked {
		i := slices.IndexFunc(all, func(r mail.EnvelopeRecipient) bool { return strings.EqualFold(r.Address, a) })
		if i < 0 {
			return nil, kind.Errorf(kind.Invalid, "%.200q is no recipient of it", a)
		}
		if !slices.Contains(out, all[i]) {
			out = append(out, all[i])
		}
	}
	return out, nil
}

// body reads the message itself, which the store gives in pieces.
func (q *Quarantine) body(ctx context.Context, b box, e Entry) ([]byte, error) {
	out := make([]byte, 0, e.Size)
	for int64(len(out)) < e.Size {
		some, err := q.d.Store.Body(ctx, b.at, mail.BodyRequest{Blob: e.blob, Offset: e.skip + int64(len(out)), Length: e.Size - int64(len(out))})
		if err != nil {
			return nil, err
		}
		if len(some) == 0 {
			return nil, kind.Errorf(kind.Corrupt, "it ends after %d of %d bytes", len(out), e.Size)
		}
		out = append(out, some...)
	}
	return out, nil
}

// Delete removes a message for good.
func (q *Quarantine) Delete(ctx context.Context, o org.OrganizationID, id mail.TraceID) error {
	b, e, err := q.find(ctx, o, id)
	if err != nil {
		return err
	}
	return q.expunge(ctx, b, []mail.UID{e.uid})
}

func (q *Quarantine) expunge(ctx context.Context, b box, uids []mail.UID) error {
	for some := range slices.Chunk(uids, 1000) {
		var ranges []mail.UIDRange
		for _, u := range some {
			ranges = append(ranges, mail.UIDRange{First: u, Last: u})
		}
		if _, err := q.d.Store.Expunge(ctx, b.at, mail.Expunge{Folder: b.folder, UIDs: ranges}); err != nil {
			return fmt.Errorf("delete from quarantine: %w", err)
		}
	}
	return nil
}
