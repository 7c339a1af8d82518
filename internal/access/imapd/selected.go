package imapd

import (
	"context"
	"errors"
	"sort"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/mail"
)

// selected is what a session remembers of its selected mailbox: what the
// client knows, and from where to ask what changed. Flags are not kept.
type selected struct {
	folder   mail.FolderID
	validity uint32
	readOnly bool
	watch    mail.Watch

	uids  uidList         // what the client knows
	gone  []mail.UIDRange // left the mailbox, but the client was not told yet
	since mail.ModSeq     // changes up to here were told
	own   modSeqs         // changes above since that the client made itself
	saved []mail.UIDRange // result of SEARCH RETURN (SAVE)
	dirty bool            // something may have changed since since
	owes  bool            // the client may hold UIDs that are not in uids yet
}

// modSeqs are mod-sequences of own changes: their effect was told to the
// client in the answer. It is bounded; one that is not kept is told again.
type modSeqs []mail.ModSeq

const maxOwn = 4096

func (m *modSeqs) add(v mail.ModSeq) {
	i := sort.Search(len(*m), func(i int) bool { return (*m)[i] >= v })
	if i < len(*m) && (*m)[i] == v || len(*m) >= maxOwn {
		return
	}
	*m = append(*m, 0)
	copy((*m)[i+1:], (*m)[i:])
	(*m)[i] = v
}

func (m modSeqs) has(v mail.ModSeq) bool {
	i := sort.Search(len(m), func(i int) bool { return m[i] >= v })
	return i < len(m) && m[i] == v
}

// permanentFlags are told on SELECT; any keyword may be added.
var permanentFlags = []imap.Flag{imap.FlagAnswered, imap.FlagFlagged, imap.FlagDeleted, imap.FlagSeen, imap.FlagDraft,
	imap.FlagForwarded, imap.FlagMDNSent, imap.FlagJunk, imap.FlagNotJunk, imap.FlagPhishing}

// Select implements imapserver.Session.
func (s *session) Select(mailbox string, options *imap.SelectOptions) (*imap.SelectData, error) {
	ctx, cancel := s.wait()
	defer cancel()
	// The watch is there before the first look, so no change falls between.
	watch := s.srv.deps.Store.Watch(s.account.Mailbox)
	sel, folder, unseen, err := s.open(ctx, mailbox)
	if err != nil {
		watch.Close()
		return nil, s.answer("select", err)
	}
	sel.watch, sel.readOnly, sel.dirty = watch, options.ReadOnly, true
	s.sel = sel
	data := &imap.SelectData{
		Flags:             permanentFlags,
		NumMessages:       sel.uids.Len(),
		FirstUnseenSeqNum: unseen,
		UIDNext:           imap.UID(max(folder.UIDNext, sel.uids.next)),
		UIDValidity:       folder.UIDValidity,
		List:              &imap.ListData{Delim: delim, Mailbox: folder.Name, Attrs: folderAttrs(folder)},
	}
	if !options.ReadOnly {
		data.PermanentFlags = append(permanentFlags[:len(permanentFlags):len(permanentFlags)], imap.FlagWildcard)
	}
	return data, nil
}

// maxFirstUnseen is up to how many messages SELECT looks for the first unseen
// one: RFC 3501 wants it told, RFC 9051 has dropped it, and it costs a scan.
const maxFirstUnseen = 2000

// open reads what SELECT needs. The mod-sequence is read first: what changes
// after that is told again, and telling again does no harm.
func (s *session) open(ctx context.Context, mailbox string) (*selected, mail.Folder, uint32, error) {
	folder, err := s.folder(ctx, mailbox)
	if err != nil {
		return nil, folder, 0, err
	}
	sel := &selected{folder: folder.ID, validity: folder.UIDValidity, since: folder.HighestModSeq}
	if sel.uids, err = s.load(ctx, folder.ID); err != nil {
		return nil, folder, 0, err
	}
	sel.uids.next = max(sel.uids.next, folder.UIDNext)
	if folder.Unseen == 0 || folder.Messages > maxFirstUnseen {
		return sel, folder, 0, nil
	}
	found, err := s.srv.deps.Store.Search(ctx, s.account.Mailbox, mail.SearchRequest{Folder: folder.ID, Criteria: mail.Criteria{NotFlags: mail.Seen}})
	if err != nil {
		return nil, folder, 0, err
	}
	for _, u := range found.UIDs {
		if seq := sel.uids.Seq(u); seq != 0 {
			return sel, folder, seq, nil
		}
	}
	return sel, folder, 0, nil
}

// load reads all UIDs of a folder.
func (s *session) load(ctx context.Context, folder mail.FolderID) (uidList, error) {
	found, err := s.srv.deps.Store.Search(ctx, s.account.Mailbox, mail.SearchRequest{Folder: folder})
	if err != nil {
		return uidList{}, err
	}
	var l uidList
	for _, u := range found.UIDs {
		l.Append(u)
	}
	return l, nil
}

// Unselect implements imapserver.Session.
func (s *session) Unselect() error {
	s.deselect()
	return nil
}

func (s *session) deselect() {
	if s.sel != nil && s.sel.watch != nil {
		s.sel.watch.Close()
	}
	s.sel = nil
}

var errNothingSelected = errors.New("imapd: no mailbox is selected") // imapserver checks the state before

// writable refuses changes in a mailbox that was opened by EXAMINE.
func (s *session) writable() error {
	if s.sel == nil {
		return errNothingSelected
	}
	if s.sel.readOnly {
		return errReadOnly
	}
	return nil
}

// owe notes that APPENDUID or COPYUID gave the client UIDs it was not told of
// by EXISTS. A command that names them must not take them for messages that
// do not exist.
func (s *session) owe() {
	if s.sel != nil {
		s.sel.dirty, s.sel.owes = true, true
	}
}

// settled refuses commands on UIDs while what is owed could not be learned
// from the store.
func (s *session) settled() error {
	if s.sel != nil && s.sel.owes {
		return no(imap.ResponseCodeUnavailable, "The mailbox is temporarily unavailable, try again")
	}
	return nil
}

// resolve turns a set of the client into ranges of UIDs. They may hold UIDs
// that the client does not know; nobody has those, or they are new.
func (s *session) resolve(set imap.NumSet) []mail.UIDRange {
	sel := s.sel
	if imap.IsSearchRes(set) {
		return sel.uids.Intersect(sel.saved)
	}
	n, last := sel.uids.Len(), sel.uids.Last()
	if n == 0 {
		return nil
	}
	var out []mail.UIDRange
	switch set := set.(type) {
	case imap.SeqSet:
		for _, r := range set {
			if first, stop, ok := bound(r.Start, r.Stop, n); ok {
				out = append(out, mail.UIDRange{First: sel.uids.UID(first), Last: sel.uids.UID(stop)})
			}
		}
	case imap.UIDSet:
		for _, r := range set {
			if first, stop, ok := bound(uint32(r.Start), uint32(r.Stop), uint32(last)); ok {
				out = append(out, mail.UIDRange{First: mail.UID(first), Last: mail.UID(stop)})
			}
		}
	}
	return unionRanges(out)
}

// bound replaces "*" (0) by last and cuts what lies behind it.
func bound(start, stop, last uint32) (uint32, uint32, bool) {
	if start == 0 { // "*"
		return last, last, true
	}
	if stop == 0 { // "n:*", which is "*:n" if n is larger
		return min(start, last), last, true
	}
	return start, min(stop, last), start <= last
}
