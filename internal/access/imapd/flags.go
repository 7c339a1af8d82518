package imapd

import (
	"fmt"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/mail"
)

// Limits of keywords (faults.md B48).
const (
	maxKeywords      = 64  // in a command
	maxKeywordLength = 128 // bytes
)

// storeBatch is how many messages one call of the store changes.
const storeBatch = 2000

var systemFlags = []struct {
	flag mail.Flags
	name imap.Flag
}{
	{mail.Answered, imap.FlagAnswered}, {mail.Flagged, imap.FlagFlagged}, {mail.Deleted, imap.FlagDeleted},
	{mail.Seen, imap.FlagSeen}, {mail.Draft, imap.FlagDraft},
}

// wireFlags are the flags of a message as clients read them. Keywords that
// another door let in and IMAP cannot spell are left out.
func wireFlags(m mail.Message) []imap.Flag {
	out := make([]imap.Flag, 0, 5+len(m.Keywords))
	for _, f := range systemFlags {
		if m.Flags&f.flag != 0 {
			out = append(out, f.name)
		}
	}
	for _, k := range m.Keywords {
		if validKeyword(k) {
			out = append(out, imap.Flag(k))
		}
	}
	return out
}

// validKeyword tells whether k is an atom of ASCII.
func validKeyword(k string) bool {
	return k != "" && strings.IndexFunc(k, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune(`(){%*"\]`, r)
	}) < 0
}

// splitFlags checks flags of a client and splits them into system flags and
// keywords.
func splitFlags(flags []imap.Flag) (sys mail.Flags, keywords []string, err error) {
next:
	for _, f := range flags {
		for _, known := range systemFlags {
			if strings.EqualFold(string(f), string(known.name)) {
				sys |= known.flag
				continue next
			}
		}
		switch k := string(f); {
		case strings.EqualFold(k, `\Recent`): // nobody may change it, many clients send it
		case strings.HasPrefix(k, `\`):
			return 0, nil, bad("Unknown system flag")
		case !validKeyword(k):
			return 0, nil, bad("Keywords are atoms of ASCII")
		case len(k) > maxKeywordLength:
			return 0, nil, no(imap.ResponseCodeLimit, fmt.Sprintf("Keywords are limited to %d bytes", maxKeywordLength))
		case !slices.Contains(keywords, k):
			keywords = append(keywords, k)
		}
		if len(keywords) > maxKeywords {
			return 0, nil, no(imap.ResponseCodeLimit, fmt.Sprintf("Messages are limited to %d keywords", maxKeywords))
		}
	}
	slices.Sort(keywords)
	return sys, keywords, nil
}

// Store implements imapserver.Session.
func (s *session) Store(w *imapserver.FetchWriter, set imap.NumSet, flags *imap.StoreFlags) error {
	if err := s.writable(); err != nil {
		return err
	}
	sys, keywords, err := splitFlags(flags.Flags)
	if err != nil {
		return err
	}
	change := mail.FlagsChange{Folder: s.sel.folder, Flags: sys, Keywords: keywords}
	switch flags.Op {
	case imap.StoreFlagsSet:
		change.Op = "set"
	case imap.StoreFlagsAdd:
		change.Op = "add"
	case imap.StoreFlagsDel:
		change.Op = "remove"
	}
	if err := s.settled(); err != nil {
		return err
	}
	return s.changeFlags(w, s.resolve(set), change, flags.Silent)
}

// changeFlags changes flags of known messages batch by batch.
func (s *session) changeFlags(w *imapserver.FetchWriter, set []mail.UIDRange, change mail.FlagsChange, silent bool) error {
	for rest := s.sel.uids.Intersect(set); len(rest) > 0; {
		change.UIDs, rest = cutRanges(rest, storeBatch)
		if err := s.changeBatch(w, change, silent); err != nil {
			return err
		}
	}
	return nil
}

// changeBatch changes one batch. What the client asked to be silent about is
// not told, except for messages that somebody else changed since it was last
// told of them (RFC 9051 section 6.4.6): those are found by UnchangedSince
// and changed in a second step.
func (s *session) changeBatch(w *imapserver.FetchWriter, change mail.FlagsChange, silent bool) error {
	if silent {
		since := s.sel.since
		change.UnchangedSince = &since
	}
	for {
		clean := !s.sel.dirty
		done, err := s.changeOnce(change)
		if err != nil {
			return s.answer("store", err)
		}
		if clean && done.Changed && done.ModSeq == s.sel.since+1 {
			// Nothing happened since but this, and its answer tells all of it.
			s.sel.dirty = false
			s.sel.told(done.ModSeq)
		}
		if done.Changed {
			s.sel.own.add(done.ModSeq)
		}
		for _, m := range done.Messages {
			seq := s.sel.uids.Seq(m.UID)
			if seq == 0 {
				continue
			}
			if silent && change.UnchangedSince != nil {
				continue
			}
			fw := w.CreateMessage(seq)
			fw.WriteUID(imap.UID(m.UID))
			fw.WriteFlags(wireFlags(m))
			if err := fw.Close(); err != nil {
				return err
			}
		}
		if change.UnchangedSince == nil || len(done.Modified) == 0 {
			return nil
		}
		change.UIDs, change.UnchangedSince = unionRanges(done.Modified), nil
	}
}

func (s *session) changeOnce(change mail.FlagsChange) (mail.FlagsChanged, error) {
	ctx, cancel := s.wait()
	defer cancel()
	change.Key = newKey()
	s.sel.dirty = true
	return s.srv.deps.Store.ChangeFlags(ctx, s.account.Mailbox, change)
}
