package store

import (
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/summary"
	"github.com/postern-mail/postern/internal/org"
)

// prepared is what a new message costs and does not depend on the mailbox.
type prepared struct {
	summary []byte // encoded
	threads []byte // hashes
}

func prepare(body []byte, sum *mail.Summary) *prepared {
	if sum == nil {
		sum = summary.Parse(body)
	}
	return &prepared{summary: codec.MustMarshal(sum), threads: threadHashes(&sum.Envelope)}
}

// Prepare does, outside the sequencer, the work that needs no mailbox. Plan
// does it where it was not done. The request must not change afterwards.
func (r *DeliverReq) Prepare() { r.prep = prepare(r.Body, r.Summary) }

// Prepare is as DeliverReq.Prepare.
func (r *AppendReq) Prepare() { r.prep = prepare(r.Body, r.Summary) }

func (t *txn) deliver(r *DeliverReq) (Planned, error) {
	var done []mail.Delivered
	if again, err := t.replay(r.Key, org.MailboxID{}, verbDeliver, &done); err != nil || again {
		return Planned{NoOp: true, Result: done}, err
	}
	if r.prep == nil {
		r.Prepare()
	}
	done = make([]mail.Delivered, len(r.Recipients))
	var refs int64
	for i, to := range r.Recipients {
		done[i].Mailbox = to.Mailbox
		if err := t.deliverTo(r, to, &done[i]); err != nil {
			return Planned{}, err
		}
		if done[i].UID != 0 && !done[i].Duplicate {
			refs++
		}
	}
	if refs == 0 {
		return Planned{NoOp: true, Result: done}, nil
	}
	t.newBlob(int64(len(r.Body)), refs)
	t.remember(r.Key, org.MailboxID{}, verbDeliver, done)
	return Planned{Body: r.Body, Result: done}, nil
}

// deliverTo plans the delivery for one recipient. An error is a failure of the
// index; what the mailbox cannot take is told in d.
func (t *txn) deliverTo(r *DeliverReq, to mail.Recipient, d *mail.Delivered) error {
	refuse := func(err error) error {
		d.Refused, d.RefusedKind = err.Error(), uint8(kind.Of(err))
		return nil
	}
	b, err := t.box(to.Mailbox.ID)
	if err != nil {
		return err
	}
	if b == nil {
		return refuse(errNoMailbox(to.Mailbox.ID))
	}
	var seen seenRow
	ident := r.Identity != [32]byte{}
	if ident {
		known, err := load(t, seenKey(b.id, r.Identity), &seen, "delivery")
		if err != nil {
			return err
		}
		if known && t.now-seen.At < int64(t.p.window) {
			d.Duplicate, d.Email, d.UID = true, seen.Email, seen.UID
			return nil
		}
		if known {
			t.del(seenAtKey(seen.At, b.id, r.Identity))
		}
	}
	size := int64(len(r.Body))
	if err := b.room(1, size); err != nil {
		return refuse(err)
	}
	f, err := t.deliveryFolder(b, to.Folder)
	if err != nil {
		return err
	}
	date := r.Date
	if date == 0 {
		date = t.now
	}
	m := mail.Message{InternalDate: date, Size: size}
	if err := t.newMessage(b, f, &m, r.prep); err != nil {
		if kind.Is(err, kind.Full) {
			return refuse(err)
		}
		return err
	}
	d.Email, d.UID = m.Email, m.UID
	if ident {
		t.setRow(seenKey(b.id, r.Identity), seenRow{At: t.now, Email: m.Email, UID: m.UID})
		t.set(seenAtKey(t.now, b.id, r.Identity), nil)
	}
	return nil
}

// deliveryFolder is the folder asked for or, rather than refuse mail for the
// sake of a folder that is not there, INBOX.
func (t *txn) deliveryFolder(b *box, name string) (*mail.Folder, error) {
	for _, n := range []string{name, inbox} {
		n, err := canonical(n)
		if err != nil {
			continue
		}
		id, ok, err := t.named(b, n)
		if err != nil {
			return nil, err
		}
		if ok {
			return t.touch(b, id)
		}
	}
	return nil, kind.Errorf(kind.Corrupt, "index: mailbox %s has no INBOX", b.id)
}

// newMessage puts the message of this record into a folder.
func (t *txn) newMessage(b *box, f *mail.Folder, m *mail.Message, p *prepared) error {
	if f.UIDNext == 1<<32-1 {
		return kind.Errorf(kind.Full, "folder %q: no UIDs left", f.Name)
	}
	b.row.NextEmail++
	m.Email, m.Blob = b.row.NextEmail, mail.BlobID(t.at)
	var err error
	if m.Thread, err = t.joinThread(b.id, m.Email, p.threads); err != nil {
		return err
	}
	if m.UID, err = t.enter(b, f, *m); err != nil {
		return err
	}
	t.setRow(emailKey(b.id, m.Email), emailRow{Blob: m.Blob, Thread: m.Thread, Size: m.Size, Refs: 1, Threads: p.threads})
	t.set(summaryKey(b.id, m.Email), p.summary)
	return nil
}

// newBlob records the body of this record, shared by refs emails. A blob is
// named after the position where it was first written.
func (t *txn) newBlob(size, refs int64) {
	t.setRow(blobKey(mail.BlobID(t.at)), blobRow{LSN: t.at, Size: size, Refs: refs})
	t.set(bodyKey(t.at), be.AppendUint64(nil, uint64(t.at)))
}

func (t *txn) append(r *AppendReq) (Planned, error) {
	var done mail.Appended
	if again, err := t.replay(r.Key, r.Mailbox, verbAppend, &done); err != nil || again {
		return Planned{NoOp: true, Result: done}, err
	}
	if r.prep == nil {
		r.Prepare()
	}
	words, err := checkKeywords(r.Keywords)
	if err != nil {
		return Planned{}, err
	}
	b, err := t.mustBox(r.Mailbox)
	if err != nil {
		return Planned{}, err
	}
	if r.Unless != 0 {
		there, err := t.get(emailKey(b.id, r.Unless))
		if err != nil {
			return Planned{}, err
		}
		if there != nil {
			return Planned{}, kind.Errorf(kind.Exists, "append: email %d is in the mailbox", r.Unless)
		}
	}
	id, err := t.target(b, r.Folder)
	if err != nil {
		return Planned{}, err
	}
	size := int64(len(r.Body))
	if err := b.room(1, size); err != nil {
		return Planned{}, err
	}
	f, err := t.touch(b, id)
	if err != nil {
		return Planned{}, err
	}
	m := mail.Message{
		Flags: r.Flags & allFlags, Keywords: mergeKeywords(nil, words), InternalDate: r.InternalDate, Size: size,
	}
	if m.InternalDate == 0 {
		m.InternalDate = t.now
	}
	if err := t.newMessage(b, f, &m, r.prep); err != nil {
		return Planned{}, err
	}
	t.newBlob(size, 1)
	done = mail.Appended{UIDValidity: f.UIDValidity, UID: m.UID, ModSeq: b.stamp()}
	t.remember(r.Key, r.Mailbox, verbAppend, done)
	return Planned{Body: r.Body, Result: done}, nil
}

// target finds the folder a client named.
func (t *txn) target(b *box, name string) (mail.FolderID, error) {
	canon, err := canonical(name)
	if err != nil {
		return 0, err
	}
	id, ok, err := t.named(b, canon)
	if err == nil && !ok {
		err = kind.Errorf(kind.NotFound, "folder %q: no such folder", name)
	}
	return id, err
}
