package store

import (
	"cmp"
	"maps"
	"slices"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// box returns the mailbox, nil when there is none.
func (t *txn) box(id org.MailboxID) (*box, error) {
	for _, b := range t.boxes {
		if b.id == id {
			return b, nil
		}
	}
	b := &box{id: id, folders: map[mail.FolderID]*mail.Folder{}}
	ok, err := load(t, mailboxKey(id), &b.row, "mailbox")
	if err != nil || !ok {
		return nil, err
	}
	t.boxes = append(t.boxes, b)
	return b, nil
}

// mustBox is box for requests that cannot go on without it.
func (t *txn) mustBox(id org.MailboxID) (*box, error) {
	b, err := t.box(id)
	if err == nil && b == nil {
		err = errNoMailbox(id)
	}
	return b, err
}

func errNoMailbox(id org.MailboxID) error {
	return kind.Errorf(kind.NotFound, "mailbox %s: not in this database", id)
}

func errNoFolder(f mail.FolderID) error {
	return kind.Errorf(kind.NotFound, "folder %d: no such folder", f)
}

// stamp returns the modification number of this request for the mailbox.
func (b *box) stamp() mail.ModSeq {
	if !b.stamped {
		b.stamped = true
		b.row.ModSeq++
	}
	return b.row.ModSeq
}

// folder loads a folder for reading. A request that changes it calls touch.
func (t *txn) folderOf(b *box, id mail.FolderID) (mail.Folder, error) {
	if f := b.folders[id]; f != nil {
		return *f, nil
	}
	f, ok, err := loadFolder(t, b.id, id)
	if err == nil && !ok {
		err = errNoFolder(id)
	}
	return f, err
}

// touch stamps a folder and returns it for changing; finish writes it.
func (t *txn) touch(b *box, id mail.FolderID) (*mail.Folder, error) {
	m := b.stamp()
	f := b.folders[id]
	if f == nil {
		row, err := t.folderOf(b, id)
		if err != nil {
			return nil, err
		}
		f = &row
		b.folders[id] = f
	}
	f.HighestModSeq = m
	return f, nil
}

func sortedFolders(b *box) []*mail.Folder {
	return slices.SortedFunc(maps.Values(b.folders), func(x, y *mail.Folder) int { return cmp.Compare(x.ID, y.ID) })
}

// named finds a folder by its canonical name.
func (t *txn) named(b *box, name string) (mail.FolderID, bool, error) {
	v, err := t.get(nameKey(b.id, name))
	if err != nil || v == nil {
		return 0, false, err
	}
	if len(v) != 4 {
		return 0, false, kind.Errorf(kind.Corrupt, "index: name row of %d bytes", len(v))
	}
	return mail.FolderID(be.Uint32(v)), true, nil
}

// makeFolder adds an empty folder under a free name.
func (t *txn) makeFolder(b *box, name, use string) (*mail.Folder, error) {
	if b.row.Folders >= maxFolders {
		return nil, kind.Errorf(kind.Full, "folder %q: the mailbox has %d folders", name, b.row.Folders)
	}
	sub, err := t.get(subKey(b.id, name))
	if err != nil {
		return nil, err
	}
	// UIDVALIDITY is unique within the mailbox, which is more than a name
	// needs: a folder also keeps it over renames (RFC 9051 section 2.3.1.1).
	b.row.Validity = max(b.row.Validity+1, uint32(max(t.now/1e9, 1)))
	b.row.NextFolder++
	b.row.Folders++
	f := &mail.Folder{
		ID: b.row.NextFolder, Name: name, UIDValidity: b.row.Validity, UIDNext: 1,
		HighestModSeq: b.stamp(), SpecialUse: use, Subscribed: sub != nil,
	}
	b.folders[f.ID] = f
	t.set(nameKey(b.id, name), be.AppendUint32(nil, uint32(f.ID)))
	return f, nil
}

// count adds (sign 1) or takes away (sign -1) a message in all counters.
func (b *box) count(f *mail.Folder, m *mail.Message, sign int) {
	f.Messages += uint32(sign)
	f.Size += int64(sign) * m.Size
	if m.Flags&mail.Seen == 0 {
		f.Unseen += uint32(sign)
	}
	if m.Flags&mail.Deleted != 0 {
		f.Deleted += uint32(sign)
	}
	b.row.Messages += int64(sign)
	b.row.Used += int64(sign) * m.Size
}

// enter puts a message into a folder under the next UID.
func (t *txn) enter(b *box, f *mail.Folder, m mail.Message) (mail.UID, error) {
	if f.UIDNext == 1<<32-1 {
		return 0, kind.Errorf(kind.Full, "folder %q: no UIDs left", f.Name)
	}
	m.UID, m.ModSeq, m.Created, m.SaveDate = f.UIDNext, b.stamp(), b.stamp(), t.now
	f.UIDNext++
	b.count(f, &m, 1)
	t.setRow(messageKey(b.id, f.ID, m.UID), m)
	t.set(changeKey(b.id, f.ID, m.ModSeq, m.UID), nil)
	return m.UID, nil
}

// rewrite changes the flags of a message in place.
func (t *txn) rewrite(b *box, f *mail.Folder, old, m mail.Message) mail.Message {
	m.ModSeq = b.stamp()
	b.count(f, &old, -1)
	b.count(f, &m, 1)
	t.setRow(messageKey(b.id, f.ID, m.UID), m)
	t.del(changeKey(b.id, f.ID, old.ModSeq, m.UID))
	t.set(changeKey(b.id, f.ID, m.ModSeq, m.UID), nil)
	return m
}

// leave takes a message out of a folder, not its content out of the mailbox.
func (t *txn) leave(b *box, f *mail.Folder, m mail.Message) {
	b.count(f, &m, -1)
	t.del(messageKey(b.id, f.ID, m.UID))
	t.del(changeKey(b.id, f.ID, m.ModSeq, m.UID))
}

// refEmail changes how many messages share an email; at zero the email, its
// thread keys and its share of the blob go.
func (t *txn) refEmail(b *box, id mail.EmailID, by int64) error {
	var row emailRow
	key := emailKey(b.id, id)
	ok, err := load(t, key, &row, "email")
	if err != nil {
		return err
	}
	if !ok {
		return kind.Errorf(kind.Corrupt, "index: mailbox %s: email %d is missing", b.id, id)
	}
	if row.Refs += by; row.Refs > 0 {
		t.setRow(key, row)
		return nil
	}
	t.del(key)
	t.del(summaryKey(b.id, id))
	if err := t.dropThreads(b.id, row.Threads); err != nil {
		return err
	}
	return t.refBlob(row.Blob, -1)
}

// refBlob changes how many emails share a blob; at zero its body is free.
func (t *txn) refBlob(id mail.BlobID, by int64) error {
	var row blobRow
	ok, err := load(t, blobKey(id), &row, "blob")
	if err != nil {
		return err
	}
	if !ok {
		return kind.Errorf(kind.Corrupt, "index: blob %d is missing", id)
	}
	if row.Refs += by; row.Refs > 0 {
		t.setRow(blobKey(id), row)
		return nil
	}
	t.del(blobKey(id))
	t.del(bodyKey(row.LSN))
	return nil
}

// room checks the mailbox's quotas for more messages.
func (b *box) room(messages, bytes int64) error {
	r := &b.row
	if r.QuotaMessages > 0 && r.Messages+messages > r.QuotaMessages {
		return kind.Errorf(kind.Full, "mailbox %s: %d of %d messages are used", b.id, r.Messages, r.QuotaMessages)
	}
	if r.QuotaBytes > 0 && r.Used+bytes > r.QuotaBytes {
		return kind.Errorf(kind.Full, "mailbox %s: %d of %d bytes are used", b.id, r.Used, r.QuotaBytes)
	}
	return nil
}
