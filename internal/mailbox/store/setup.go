package store

import (
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// firstFolders are in every new mailbox.
func firstFolders() []mail.Folder {
	return []mail.Folder{
		{Name: inbox},
		{Name: "Drafts", SpecialUse: `\Drafts`},
		{Name: "Sent", SpecialUse: `\Sent`},
		{Name: "Junk", SpecialUse: `\Junk`},
		{Name: "Trash", SpecialUse: `\Trash`},
		{Name: "Archive", SpecialUse: `\Archive`},
	}
}

func (t *txn) setup(r *SetupReq) (Planned, error) {
	if r.QuotaBytes < 0 || r.QuotaMessages < 0 {
		return Planned{}, kind.Errorf(kind.Invalid, "mailbox %s: negative quota", r.Mailbox)
	}
	b, err := t.box(r.Mailbox)
	switch {
	case err != nil:
		return Planned{}, err
	case r.Remove && b == nil:
		return Planned{NoOp: true}, nil
	case r.Remove:
		return Planned{}, t.remove(b)
	case b == nil:
		return Planned{}, t.create(r)
	}
	row := &b.row
	if row.Org == r.Organization && row.QuotaBytes == r.QuotaBytes && row.QuotaMessages == r.QuotaMessages {
		return Planned{NoOp: true}, nil
	}
	row.Org, row.QuotaBytes, row.QuotaMessages = r.Organization, r.QuotaBytes, r.QuotaMessages
	b.stamp()
	return Planned{}, nil
}

func (t *txn) create(r *SetupReq) error {
	b := &box{id: r.Mailbox, folders: map[mail.FolderID]*mail.Folder{}}
	var grave graveRow
	if _, err := load(t, graveKey(r.Mailbox), &grave, "grave"); err != nil {
		return err
	}
	b.row = mailboxRow{
		Org: r.Organization, QuotaBytes: r.QuotaBytes, QuotaMessages: r.QuotaMessages,
		ModSeq: grave.ModSeq, Floor: grave.ModSeq, Validity: grave.Validity,
		NextFolder: grave.NextFolder, NextEmail: grave.NextEmail,
	}
	t.boxes = append(t.boxes, b)
	for _, first := range firstFolders() {
		f, err := t.makeFolder(b, first.Name, first.SpecialUse)
		if err != nil {
			return err
		}
		f.Subscribed = true
		t.set(subKey(b.id, first.Name), nil)
	}
	return nil
}

// remove deletes all rows of a mailbox. Only what is shared with other
// mailboxes, the blobs, is counted down one by one.
func (t *txn) remove(b *box) error {
	prefix := keyOf(kEmail, b.id, 0)
	err := each(t, prefix, after(prefix), func(_, v []byte) error {
		var row emailRow
		if err := decode(v, &row, "email"); err != nil {
			return err
		}
		return t.refBlob(row.Blob, -1)
	})
	if err != nil {
		return err
	}
	t.setRow(graveKey(b.id), graveRow{
		ModSeq: b.stamp(), Validity: b.row.Validity, NextFolder: b.row.NextFolder, NextEmail: b.row.NextEmail,
	})
	for _, k := range []byte{kMailbox, kFolder, kName, kSub, kMessage, kEmail, kSummary, kChange, kVanished, kThread, kSeen} {
		lo := keyOf(k, b.id, 0)
		t.delRange(lo, after(lo))
	}
	b.gone = true
	return nil
}
