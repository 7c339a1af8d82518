package store

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// Limits of keywords.
const (
	maxKeywords     = 128
	maxKeywordBytes = 200
)

const allFlags = mail.Seen | mail.Answered | mail.Flagged | mail.Deleted | mail.Draft

// checkKeywords refuses what IMAP could not send (RFC 9051: flag-keyword is an
// atom) and returns the words sorted, each once.
func checkKeywords(words []string) ([]string, error) {
	if len(words) > maxKeywords {
		return nil, kind.Errorf(kind.Invalid, "%d keywords: at most %d", len(words), maxKeywords)
	}
	for _, w := range words {
		if w == "" || len(w) > maxKeywordBytes || strings.ContainsFunc(w, notAtom) {
			return nil, kind.Errorf(kind.Invalid, "keyword %.220q: not an atom of at most %d bytes", w, maxKeywordBytes)
		}
	}
	return words, nil
}

func notAtom(r rune) bool {
	return r <= ' ' || r >= 0x7f || strings.ContainsRune(`(){%*"\]`, r)
}

func sameWord(a, b string) bool { return strings.EqualFold(a, b) }

func hasWord(list []string, w string) bool {
	return slices.ContainsFunc(list, func(x string) bool { return sameWord(x, w) })
}

// mergeKeywords adds words to a sorted list; known ones keep their spelling.
func mergeKeywords(have, words []string) []string {
	out := slices.Clone(have)
	for _, w := range words {
		if !hasWord(out, w) {
			out = append(out, w)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return out
}

// flagged is the message with the change made.
func flagged(m mail.Message, c *mail.FlagsChange) mail.Message {
	set := c.Flags & allFlags
	switch c.Op {
	case "add":
		m.Flags |= set
		m.Keywords = mergeKeywords(m.Keywords, c.Keywords)
	case "remove":
		m.Flags &^= set
		m.Keywords = slices.DeleteFunc(slices.Clone(m.Keywords), func(w string) bool { return hasWord(c.Keywords, w) })
	case "set":
		kept := slices.DeleteFunc(slices.Clone(m.Keywords), func(w string) bool { return !hasWord(c.Keywords, w) })
		m.Flags, m.Keywords = set, mergeKeywords(kept, c.Keywords)
	}
	if len(m.Keywords) == 0 {
		m.Keywords = nil
	}
	return m
}

func (t *txn) flags(r *FlagsReq) (Planned, error) {
	var past flagsDone
	if again, err := t.replay(r.Key, r.Mailbox, verbFlags, &past); err != nil || again {
		return t.flagsAgain(r, past, err)
	}
	if r.Op != "add" && r.Op != "remove" && r.Op != "set" {
		return Planned{}, kind.Errorf(kind.Invalid, "flags: operation %q", r.Op)
	}
	if _, err := checkKeywords(r.Keywords); err != nil {
		return Planned{}, err
	}
	b, err := t.mustBox(r.Mailbox)
	if err != nil {
		return Planned{}, err
	}
	folder, err := t.folderOf(b, r.Folder)
	if err != nil {
		return Planned{}, err
	}
	var done mail.FlagsChanged
	changed := false
	err = eachMessage(t, b.id, r.Folder, normalize(r.UIDs), func(m mail.Message) (bool, error) {
		if r.UnchangedSince != nil && m.ModSeq > *r.UnchangedSince {
			done.Modified = addUID(done.Modified, m.UID)
			return true, nil
		}
		now := flagged(m, &r.FlagsChange)
		if now.Flags != m.Flags || !slices.Equal(now.Keywords, m.Keywords) {
			if len(now.Keywords) > maxKeywords {
				return false, kind.Errorf(kind.Invalid, "flags: message %d would have more than %d keywords", m.UID, maxKeywords)
			}
			f, err := t.touch(b, folder.ID)
			if err != nil {
				return false, err
			}
			now, changed = t.rewrite(b, f, m, now), true
		}
		done.Messages = append(done.Messages, now)
		return t.err == nil, nil
	})
	done.ModSeq = b.row.ModSeq
	if err != nil || t.err != nil || !changed {
		return Planned{NoOp: true, Result: done}, orElse(err, t.err)
	}
	past = flagsDone{Modified: done.Modified, ModSeq: done.ModSeq}
	for i := range done.Messages {
		past.UIDs = addUID(past.UIDs, done.Messages[i].UID)
	}
	t.remember(r.Key, r.Mailbox, verbFlags, past)
	done.Changed = true
	return Planned{Result: done}, nil
}

// flagsAgain answers a repeated change with the messages as they are now.
func (t *txn) flagsAgain(r *FlagsReq, past flagsDone, err error) (Planned, error) {
	done := mail.FlagsChanged{Modified: past.Modified, ModSeq: past.ModSeq, Changed: true}
	if err == nil && past.UIDs != nil {
		err = eachMessage(t, r.Mailbox, r.Folder, past.UIDs, func(m mail.Message) (bool, error) {
			done.Messages = append(done.Messages, m)
			return true, nil
		})
	}
	return Planned{NoOp: true, Result: done}, err
}

func orElse(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (t *txn) expunge(r *ExpungeReq) (Planned, error) {
	var done mail.Expunged
	if again, err := t.replay(r.Key, r.Mailbox, verbExpunge, &done); err != nil || again {
		return Planned{NoOp: true, Result: done}, err
	}
	b, err := t.mustBox(r.Mailbox)
	if err != nil {
		return Planned{}, err
	}
	folder, err := t.folderOf(b, r.Folder)
	if err != nil {
		return Planned{}, err
	}
	if !r.OnlyDeleted || folder.Deleted > 0 {
		done.UIDs, err = t.purge(b, folder.ID, normalize(r.UIDs), r.OnlyDeleted)
	}
	done.ModSeq = b.row.ModSeq
	if err != nil || len(done.UIDs) == 0 {
		return Planned{NoOp: true, Result: done}, err
	}
	t.remember(r.Key, r.Mailbox, verbExpunge, done)
	return Planned{Result: done}, nil
}

// purge removes messages for good and records that they vanished.
func (t *txn) purge(b *box, id mail.FolderID, uids []mail.UIDRange, onlyDeleted bool) ([]mail.UIDRange, error) {
	var gone []mail.UIDRange
	err := eachMessage(t, b.id, id, uids, func(m mail.Message) (bool, error) {
		if onlyDeleted && m.Flags&mail.Deleted == 0 {
			return true, nil
		}
		f, err := t.touch(b, id)
		if err != nil {
			return false, err
		}
		t.leave(b, f, m)
		gone = addUID(gone, m.UID)
		if err := t.refEmail(b, m.Email, -1); err != nil {
			return false, err
		}
		return t.err == nil, nil
	})
	if err = orElse(err, t.err); err != nil || gone == nil {
		return nil, err
	}
	return gone, t.vanish(b, id, gone)
}
