package store

import (
	"github.com/postern-mail/postern/internal/mail"
)

func (t *txn) copy(r *CopyReq) (Planned, error) {
	var past copyDone
	if again, err := t.replay(r.Key, r.Mailbox, verbCopy, &past); err != nil || again {
		return Planned{NoOp: true, Result: past.answer()}, err
	}
	b, err := t.mustBox(r.Mailbox)
	if err != nil {
		return Planned{}, err
	}
	if _, err := t.folderOf(b, r.Folder); err != nil {
		return Planned{}, err
	}
	id, err := t.target(b, r.Target)
	if err != nil {
		return Planned{}, err
	}
	to, err := t.folderOf(b, id)
	if err != nil {
		return Planned{}, err
	}
	past = copyDone{Validity: to.UIDValidity}
	past.Source, past.Target, err = t.transfer(b, r.Folder, id, normalize(r.UIDs), r.Move)
	past.ModSeq = b.row.ModSeq
	if err != nil || past.Source == nil {
		return Planned{NoOp: true, Result: past.answer()}, err
	}
	t.remember(r.Key, r.Mailbox, verbCopy, past)
	return Planned{Result: past.answer()}, nil
}

func (d copyDone) answer() mail.Copied {
	return mail.Copied{UIDValidity: d.Validity, Source: expand(d.Source), Target: expand(d.Target), ModSeq: d.ModSeq}
}

// transfer copies or moves messages in UID order; the UIDs in target follow
// each other. Source and target may be one folder.
func (t *txn) transfer(b *box, source, target mail.FolderID, uids []mail.UIDRange, move bool) (from, to []mail.UIDRange, err error) {
	err = eachMessage(t, b.id, source, uids, func(m mail.Message) (bool, error) {
		tf, err := t.touch(b, target)
		if err != nil {
			return false, err
		}
		if move {
			sf, err := t.touch(b, source)
			if err != nil {
				return false, err
			}
			t.leave(b, sf, m)
		} else {
			if err := b.room(1, m.Size); err != nil {
				return false, err
			}
			if err := t.refEmail(b, m.Email, 1); err != nil {
				return false, err
			}
		}
		uid, err := t.enter(b, tf, m)
		if err != nil {
			return false, err
		}
		from, to = addUID(from, m.UID), addUID(to, uid)
		return t.err == nil, nil
	})
	if err = orElse(err, t.err); err != nil || !move || from == nil {
		return from, to, err
	}
	return from, to, t.vanish(b, source, from)
}
