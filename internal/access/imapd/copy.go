package imapd

import (
	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// Copy implements imapserver.Session.
func (s *session) Copy(set imap.NumSet, dest string) (*imap.CopyData, error) {
	if s.sel == nil {
		return nil, errNothingSelected
	}
	done, err := s.copy(set, dest, false)
	if err != nil {
		return nil, err
	}
	return copyData(done), nil
}

// copyData is COPYUID, nil where nothing was copied. Store and client agree
// on the order: both sets go up.
func copyData(done mail.Copied) *imap.CopyData {
	if len(done.Source) == 0 {
		return nil
	}
	return &imap.CopyData{UIDValidity: done.UIDValidity, SourceUIDs: uidSet(done.Source), DestUIDs: uidSet(done.Target)}
}

func uidSet(uids []mail.UID) imap.UIDSet {
	var out imap.UIDSet
	for _, r := range rangesOf(uids) {
		out = append(out, imap.UIDRange{Start: imap.UID(r.First), Stop: imap.UID(r.Last)})
	}
	return out
}

func (s *session) copy(set imap.NumSet, dest string, move bool) (mail.Copied, error) {
	if err := s.settled(); err != nil {
		return mail.Copied{}, err
	}
	ctx, cancel := s.wait()
	defer cancel()
	uids := s.sel.uids.Intersect(s.resolve(set))
	if len(uids) == 0 {
		if _, err := s.folder(ctx, dest); err == errNonExistent {
			return mail.Copied{}, errTryCreate
		}
		return mail.Copied{}, nil
	}
	s.sel.dirty = true
	done, err := s.srv.deps.Store.Copy(ctx, s.account.Mailbox, mail.CopyRequest{
		Key: newKey(), Folder: s.sel.folder, UIDs: uids, Target: canonical(dest), Move: move,
	})
	if kind.Is(err, kind.NotFound) {
		return done, errTryCreate
	}
	if err == nil {
		s.owe() // the target may be the selected mailbox
	}
	return done, s.answer("copy", err)
}

// Move implements imapserver.Session (RFC 6851).
func (s *session) Move(w *imapserver.MoveWriter, set imap.NumSet, dest string) error {
	if err := s.writable(); err != nil {
		return err
	}
	done, err := s.copy(set, dest, true)
	if err != nil {
		return err
	}
	if data := copyData(done); data != nil {
		if err := w.WriteCopyData(data); err != nil {
			return err
		}
	}
	return s.left(rangesOf(done.Source), w.WriteExpunge)
}

// Expunge implements imapserver.Session.
func (s *session) Expunge(w *imapserver.ExpungeWriter, uids *imap.UIDSet) error {
	if err := s.writable(); err != nil {
		if s.sel != nil && w.Silent() {
			return nil // CLOSE removes nothing then (RFC 9051 section 6.4.1)
		}
		return err
	}
	ctx, cancel := s.wait()
	defer cancel()
	r := mail.Expunge{Key: newKey(), Folder: s.sel.folder, OnlyDeleted: true}
	if uids != nil {
		if err := s.settled(); err != nil {
			return err
		}
		if r.UIDs = s.sel.uids.Intersect(s.resolve(*uids)); len(r.UIDs) == 0 {
			return nil
		}
	}
	s.sel.dirty = true
	done, err := s.srv.deps.Store.Expunge(ctx, s.account.Mailbox, r)
	if err != nil {
		return s.answer("expunge", err)
	}
	return s.left(done.UIDs, w.WriteExpunge)
}

// left tells that messages left the mailbox by a command of this session.
func (s *session) left(uids []mail.UIDRange, write func(seq uint32) error) error {
	s.sel.gone = unionRanges(s.sel.gone, s.sel.uids.Intersect(unionRanges(uids)))
	return s.tellGone(write)
}
