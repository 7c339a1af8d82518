package imapd

import (
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/mail"
)

// entry is a name of the hierarchy: a folder, or a level without one that has
// folders below.
type entry struct {
	name       string
	folder     *mail.Folder // nil where there is none
	children   bool
	subscribed bool // something below is subscribed
}

// hierarchy lists all names, in order.
func hierarchy(folders []mail.Folder) []*entry {
	byName := make(map[string]*entry, len(folders))
	get := func(name string) *entry {
		e := byName[name]
		if e == nil {
			e = &entry{name: name}
			byName[name] = e
		}
		return e
	}
	for i := range folders {
		f := &folders[i]
		get(f.Name).folder = f
		for _, a := range ancestors(f.Name) {
			e := get(a)
			e.children = true
			e.subscribed = e.subscribed || f.Subscribed
		}
	}
	out := make([]*entry, 0, len(byName))
	for _, e := range byName {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b *entry) int { return strings.Compare(a.name, b.name) })
	return out
}

// List implements imapserver.Session (RFC 9051 section 6.3.9, RFC 5258).
func (s *session) List(w *imapserver.ListWriter, ref string, patterns []string, o *imap.ListOptions) error {
	if len(patterns) == 0 { // asks for the delimiter
		return w.WriteList(&imap.ListData{Attrs: []imap.MailboxAttr{imap.MailboxAttrNoSelect}, Delim: delim})
	}
	if len(patterns) > 64 {
		return no(imap.ResponseCodeLimit, "Too many patterns")
	}
	var compiled []pattern
	for _, p := range patterns {
		c, err := newPattern(ref, p)
		if err != nil {
			return err
		}
		compiled = append(compiled, c)
	}
	ctx, cancel := s.wait()
	defer cancel()
	folders, err := s.srv.deps.Store.Folders(ctx, s.account.Mailbox)
	if err != nil {
		return s.answer("list", err)
	}
	for _, e := range hierarchy(folders) {
		if !matchAny(compiled, e.name) {
			continue
		}
		if data := s.listEntry(e, o, w.LSub()); data != nil {
			if err := w.WriteList(data); err != nil {
				return err
			}
		}
	}
	return nil
}

// listEntry decides whether a matching name is listed, and how; nil if not.
func (s *session) listEntry(e *entry, o *imap.ListOptions, lsub bool) *imap.ListData {
	data := &imap.ListData{Delim: delim, Mailbox: e.name}
	subscribed := e.folder != nil && e.folder.Subscribed
	switch {
	case lsub:
		// A level that is not subscribed stands for what is below it
		// (RFC 3501 section 6.3.9).
		if !subscribed && !e.subscribed {
			return nil
		}
		if !subscribed {
			data.Attrs = append(data.Attrs, imap.MailboxAttrNoSelect)
		}
		return data
	case o.SelectSubscribed && !subscribed:
		if !o.SelectRecursiveMatch || !e.subscribed {
			return nil
		}
	case o.SelectSpecialUse && (e.folder == nil || e.folder.SpecialUse == ""):
		return nil
	}
	if o.SelectRecursiveMatch && e.subscribed {
		data.ChildInfo = &imap.ListDataChildInfo{Subscribed: true}
	}
	if e.folder == nil {
		data.Attrs = append(data.Attrs, imap.MailboxAttrNonExistent, imap.MailboxAttrNoSelect)
	}
	if e.children {
		data.Attrs = append(data.Attrs, imap.MailboxAttrHasChildren)
	} else {
		data.Attrs = append(data.Attrs, imap.MailboxAttrHasNoChildren)
	}
	if subscribed && (o.SelectSubscribed || o.ReturnSubscribed) {
		data.Attrs = append(data.Attrs, imap.MailboxAttrSubscribed)
	}
	if e.folder != nil {
		data.Attrs = append(data.Attrs, folderAttrs(*e.folder)...)
		if o.ReturnStatus != nil {
			data.Status = s.status(*e.folder)
		}
	}
	return data
}

// folderAttrs is the special use, if it has one that can be spelled.
func folderAttrs(f mail.Folder) []imap.MailboxAttr {
	for _, u := range specialUses {
		if strings.EqualFold(string(u), f.SpecialUse) {
			return []imap.MailboxAttr{u}
		}
	}
	return nil
}

// specialUses are those of RFC 6154 that CREATE takes; \All and \Flagged are
// views, which this door has not.
var specialUses = []imap.MailboxAttr{imap.MailboxAttrArchive, imap.MailboxAttrDrafts, imap.MailboxAttrJunk,
	imap.MailboxAttrSent, imap.MailboxAttrTrash, imap.MailboxAttrImportant}

func (s *session) status(f mail.Folder) *imap.StatusData {
	recent, limit := uint32(0), s.AppendLimit()
	return &imap.StatusData{
		Mailbox: f.Name, NumMessages: &f.Messages, NumRecent: &recent, UIDNext: imap.UID(f.UIDNext),
		UIDValidity: f.UIDValidity, NumUnseen: &f.Unseen, NumDeleted: &f.Deleted, Size: &f.Size, AppendLimit: &limit,
	}
}

// Status implements imapserver.Session.
func (s *session) Status(mailbox string, o *imap.StatusOptions) (*imap.StatusData, error) {
	if o.DeletedStorage {
		return nil, bad("Unknown STATUS data item")
	}
	ctx, cancel := s.wait()
	defer cancel()
	f, err := s.folder(ctx, mailbox)
	if err != nil {
		return nil, s.answer("status", err)
	}
	return s.status(f), nil
}

// Namespace implements imapserver.Session.
func (s *session) Namespace() (*imap.NamespaceData, error) {
	return &imap.NamespaceData{Personal: []imap.NamespaceDescriptor{{Delim: delim}}}, nil
}
