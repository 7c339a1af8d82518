package store

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"github.com/cockroachdb/pebble/v2"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Limits of one answer of Messages.
const (
	pageMessages = 5_000
	pageSummary  = 1_000
	pageBytes    = 8 << 20 // of encoded summaries
)

// Reader is the index at one moment. It is cheap to make; while it is open the
// index keeps what later changes replaced, and Close of the index waits for it.
// It is for one goroutine.
type Reader struct {
	ix   *Index
	snap *pebble.Snapshot // nil: the index was closed already
	sums summaryWalk
}

// Reader opens a view of what is applied now. On a closed index its methods
// answer Busy.
func (ix *Index) Reader() *Reader {
	ix.mu.Lock()
	defer ix.mu.Unlock()
	if ix.closed {
		return &Reader{ix: ix}
	}
	ix.readers.Add(1)
	return &Reader{ix: ix, snap: ix.db.NewSnapshot()}
}

// Close ends the reader; it may be called more than once.
func (r *Reader) Close() error {
	if r.snap == nil {
		return nil
	}
	err := errors.Join(r.sums.close(), r.snap.Close())
	r.snap = nil
	r.ix.readers.Done()
	return wrap(err, "close reader of")
}

func (r *Reader) usable() error {
	if r.snap == nil {
		return kind.Errorf(kind.Busy, "index is closed")
	}
	return r.ix.health()
}

func (r *Reader) get(key []byte) ([]byte, error) {
	if err := r.usable(); err != nil {
		return nil, err
	}
	v, closer, err := r.snap.Get(key)
	return taken(v, closer, err)
}

func (r *Reader) scan(lo, hi []byte) (*cursor, error) {
	if err := r.usable(); err != nil {
		return nil, err
	}
	return newCursor(r.snap, lo, hi, nil, nil)
}

// At is the position of the reader's view.
func (r *Reader) At() (journal.Position, error) {
	var row appliedRow
	_, err := load(r, appliedKey, &row, "position")
	return journal.Position{LSN: row.LSN, Chain: row.Chain, Term: row.Term}, err
}

// MailboxInfo is a mailbox of the database.
type MailboxInfo struct {
	ID           org.MailboxID
	Organization org.OrganizationID
	Usage        mail.Usage
}

func (m *mailboxRow) usage() mail.Usage {
	return mail.Usage{
		Bytes: m.Used, Messages: m.Messages, QuotaBytes: m.QuotaBytes, QuotaMessages: m.QuotaMessages, ModSeq: m.ModSeq,
	}
}

// Mailboxes lists the mailboxes of the database by identity.
func (r *Reader) Mailboxes() ([]MailboxInfo, error) {
	var out []MailboxInfo
	err := each(r, []byte{kMailbox}, []byte{kMailbox + 1}, func(k, v []byte) error {
		var row mailboxRow
		if err := decode(v, &row, "mailbox"); err != nil {
			return err
		}
		out = append(out, MailboxInfo{ID: org.MailboxID(k[1:]), Organization: row.Org, Usage: row.usage()})
		return nil
	})
	return out, err
}

func (r *Reader) mailbox(id org.MailboxID) (mailboxRow, error) {
	var row mailboxRow
	ok, err := load(r, mailboxKey(id), &row, "mailbox")
	if err == nil && !ok {
		err = errNoMailbox(id)
	}
	return row, err
}

func (r *Reader) folder(id org.MailboxID, f mail.FolderID) (mail.Folder, error) {
	row, ok, err := loadFolder(r, id, f)
	if err != nil || ok {
		return row, err
	}
	if _, err := r.mailbox(id); err != nil {
		return row, err
	}
	return row, errNoFolder(f)
}

// Usage tells size and limits of a mailbox.
func (r *Reader) Usage(id org.MailboxID) (mail.Usage, error) {
	row, err := r.mailbox(id)
	return row.usage(), err
}

// Folders lists the folders of a mailbox by name, INBOX first.
func (r *Reader) Folders(id org.MailboxID) ([]mail.Folder, error) {
	if _, err := r.mailbox(id); err != nil {
		return nil, err
	}
	all, err := loadFolders(r, id)
	slices.SortFunc(all, func(a, b mail.Folder) int {
		if (a.Name == inbox) != (b.Name == inbox) {
			if a.Name == inbox {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.Name, b.Name)
	})
	return all, err
}

// Subscriptions lists the subscribed names, also those without a folder.
func (r *Reader) Subscriptions(id org.MailboxID) ([]string, error) {
	var out []string
	prefix := keyOf(kSub, id, 0)
	err := each(r, prefix, after(prefix), func(k, _ []byte) error {
		out = append(out, string(k[17:]))
		return nil
	})
	return out, err
}

// Blob tells which record holds a message's bytes and how many they are. A
// failure to read is logged and counts as not there.
func (r *Reader) Blob(id mail.BlobID) (lsn org.LSN, size int64, ok bool) {
	var row blobRow
	ok, err := load(r, blobKey(id), &row, "blob")
	if err != nil {
		r.ix.log.Warn("read blob row", "blob", uint64(id), "error", err)
		return 0, 0, false
	}
	return row.LSN, row.Size, ok
}

// DeliveryKnown tells whether the mailbox remembers a delivery identity, as
// what email, and when that came, Unix nanoseconds. A row that is older than the
// duplicate window may still be there.
func (r *Reader) DeliveryKnown(id org.MailboxID, identity [32]byte) (e mail.EmailID, at int64, known bool, err error) {
	var row seenRow
	known, err = load(r, seenKey(id, identity), &row, "delivery")
	return row.Email, row.At, known, err
}

// UIDs lists the UIDs of a folder in ranges.
func (r *Reader) UIDs(id org.MailboxID, f mail.FolderID) ([]mail.UIDRange, error) {
	var out []mail.UIDRange
	prefix := messageKey(id, f, 0)[:21]
	err := each(r, prefix, after(prefix), func(k, _ []byte) error {
		out = addUID(out, mail.UID(be.Uint32(k[21:])))
		return nil
	})
	return out, err
}

// Messages reads a page of a folder in UID order. A page holds at most Limit
// messages, and never more than 5,000 (1,000 with summaries).
func (r *Reader) Messages(id org.MailboxID, q mail.MessagesRequest) (mail.Messages, error) {
	var out mail.Messages
	var err error
	if out.Folder, err = r.folder(id, q.Folder); err != nil {
		return out, err
	}
	limit := pageMessages
	if q.Summaries {
		limit = pageSummary
	}
	if q.Limit > 0 {
		limit = min(limit, q.Limit)
	}
	uids := normalize(q.UIDs)
	if q.ChangedSince > 0 {
		if uids, err = r.changed(id, q.Folder, q.ChangedSince, uids); err != nil {
			return out, err
		}
	}
	size := 0
	err = eachMessage(r, id, q.Folder, uids, func(m mail.Message) (bool, error) {
		if len(out.Messages) == limit || size > pageBytes {
			out.More = true
			return false, nil
		}
		if q.Summaries {
			n, err := r.Summary(id, &m)
			if err != nil {
				return false, err
			}
			size += n
		}
		out.Messages = append(out.Messages, m)
		return true, nil
	})
	return out, err
}

// Summary fills in the summary of a message and returns its encoded size.
func (r *Reader) Summary(id org.MailboxID, m *mail.Message) (int, error) {
	v, err := r.summaryRow(id, m.Email)
	if err != nil {
		return 0, err
	}
	m.Summary = new(mail.Summary)
	return len(v), decode(v, m.Summary, "summary")
}

// Parts of a mail.Summary, for those who need no more: most of the work of
// reading one is making what is in it.
type (
	envelopeOnly struct {
		Envelope mail.MessageEnvelope `cbor:"1,keyasint"`
	}
	subjectOnly struct {
		Envelope struct {
			Subject string `cbor:"3,keyasint,omitempty"`
		} `cbor:"1,keyasint"`
	}
)

// envelope reads no more of a message's summary than the envelope.
func (r *Reader) envelope(id org.MailboxID, m *mail.Message) (*mail.MessageEnvelope, error) {
	v, err := r.summaryRow(id, m.Email)
	if err != nil {
		return nil, err
	}
	var row envelopeOnly
	return &row.Envelope, decode(v, &row, "summary")
}

// subject reads no more of a message's summary than the subject.
func (r *Reader) subject(id org.MailboxID, m *mail.Message) (string, error) {
	v, err := r.summaryRow(id, m.Email)
	if err != nil {
		return "", err
	}
	var row subjectOnly
	return row.Envelope.Subject, decode(v, &row, "summary")
}

// summaryRow returns an encoded summary, valid until the next call.
func (r *Reader) summaryRow(id org.MailboxID, e mail.EmailID) ([]byte, error) {
	v, err := r.sums.row(r, id, e)
	if err == nil && v == nil {
		err = kind.Errorf(kind.Corrupt, "index: mailbox %s: summary of email %d is missing", id, e)
	}
	return v, err
}

// summaryWalk finds summaries of one mailbox. Who asks for one asks for many,
// mostly in order: after a few, a walk is much cheaper than looking up each.
type summaryWalk struct {
	of    org.MailboxID
	asked int
	c     *cursor
}

// walkAfter is how many summaries are looked up one by one.
const walkAfter = 3

func (w *summaryWalk) row(r *Reader, id org.MailboxID, e mail.EmailID) ([]byte, error) {
	key := summaryKey(id, e)
	if id != w.of {
		if err := w.close(); err != nil {
			return nil, err
		}
		*w = summaryWalk{of: id}
	}
	if w.asked++; w.asked <= walkAfter {
		return r.get(key)
	}
	if err := r.usable(); err != nil {
		return nil, err
	}
	if w.c == nil {
		prefix := keyOf(kSummary, id, 0)
		var err error
		if w.c, err = openCursor(r.snap, prefix, after(prefix), nil, nil); err != nil {
			return nil, err
		}
	}
	w.c.seek(key)
	if w.c.err != nil {
		return nil, wrap(w.c.err, "read")
	}
	if !w.c.ok || !bytes.Equal(w.c.k, key) {
		return nil, nil
	}
	return w.c.v, nil
}

func (w *summaryWalk) close() error {
	if w.c == nil {
		return nil
	}
	c := w.c
	w.c = nil
	return c.close()
}

// changed lists which of the UIDs (nil: all) changed after since.
func (r *Reader) changed(id org.MailboxID, f mail.FolderID, since mail.ModSeq, uids []mail.UIDRange) ([]mail.UIDRange, error) {
	found := []mail.UID{}
	if since < 1<<63 {
		hi := after(messageKey(id, f, 0)[:21])
		hi[0] = kChange
		err := each(r, changeKey(id, f, since+1, 0), hi, func(k, _ []byte) error {
			if u := mail.UID(be.Uint32(k[29:])); holds(uids, u) {
				found = append(found, u)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(found)
	return append([]mail.UIDRange{}, compact(found)...), nil
}

// maxChanges is the most messages one answer of Changes tells of; a caller
// that is further behind starts over, which it can do in pages.
const maxChanges = 100_000

// Changes tells what happened to a folder after a modification number.
func (r *Reader) Changes(id org.MailboxID, q mail.ChangesRequest) (mail.Changes, error) {
	var out mail.Changes
	row, err := r.mailbox(id)
	if err != nil {
		return out, err
	}
	f, ok, err := loadFolder(r, id, q.Folder)
	if err != nil {
		return out, err
	}
	if !ok {
		out.Gone = true
		return out, nil
	}
	out.Folder = f
	if q.Since >= f.HighestModSeq {
		return out, nil
	}
	uids, err := r.changed(id, q.Folder, q.Since, nil)
	if err != nil {
		return out, err
	}
	if q.Since < row.Floor || countUIDs(uids) > maxChanges {
		out.Reset = true
		return out, nil
	}
	err = eachMessage(r, id, q.Folder, uids, func(m mail.Message) (bool, error) {
		out.Messages = append(out.Messages, m)
		return true, nil
	})
	if err != nil {
		return out, err
	}
	prefix := keyOf(kVanished, id, 0)
	err = each(r, vanishedKey(id, q.Since+1, 0), after(prefix), func(k, v []byte) error {
		if mail.FolderID(be.Uint32(k[25:])) != q.Folder {
			return nil
		}
		var row vanishedRow
		if err := decode(v, &row, "vanished"); err != nil {
			return err
		}
		out.Vanished = append(out.Vanished, row.UIDs...)
		return nil
	})
	out.Vanished = normalize(out.Vanished)
	return out, err
}

func countUIDs(r []mail.UIDRange) (n uint64) {
	for _, x := range r {
		n += uint64(x.Last-x.First) + 1
	}
	return n
}
