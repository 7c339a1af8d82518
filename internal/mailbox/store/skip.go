package store

import (
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// skipGap is how far numbers are moved ahead after a lossy mount: more than a
// lost part of the log can have given out.
const skipGap = 1 << 20

// SkipReq moves the counters of mailboxes ahead, after a mount that may have
// lost the end of the log, so that no UID, mod-sequence or email number the
// lost part may have shown to a client is given another meaning. Whoever
// asks for changes since before starts over. Result: nil.
type SkipReq struct {
	Mailboxes []org.MailboxID
}

func (t *txn) skip(r *SkipReq) (Planned, error) {
	for _, id := range r.Mailboxes {
		b, err := t.box(id)
		if err != nil {
			return Planned{}, err
		}
		if b == nil {
			continue
		}
		b.row.ModSeq += skipGap
		b.row.NextEmail += skipGap
		b.row.Floor = b.stamp()
		var ids []mail.FolderID
		prefix := keyOf(kFolder, id, 0)
		err = each(t, prefix, after(prefix), func(_, v []byte) error {
			var f mail.Folder
			if err := decode(v, &f, "folder"); err != nil {
				return err
			}
			ids = append(ids, f.ID)
			return nil
		})
		if err != nil {
			return Planned{}, err
		}
		for _, fid := range ids {
			f, err := t.touch(b, fid)
			if err != nil {
				return Planned{}, err
			}
			f.UIDNext += skipGap
		}
	}
	return Planned{NoOp: len(t.boxes) == 0}, nil
}
