package imapd

import (
	"context"
	"slices"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// folder finds a folder by its name.
func (s *session) folder(ctx context.Context, name string) (mail.Folder, error) {
	folders, err := s.srv.deps.Store.Folders(ctx, s.account.Mailbox)
	if err != nil {
		return mail.Folder{}, err
	}
	name = canonical(name)
	i := slices.IndexFunc(folders, func(f mail.Folder) bool { return f.Name == name })
	if i < 0 {
		return mail.Folder{}, errNonExistent
	}
	return folders[i], nil
}

func (s *session) changeFolder(c mail.FolderChange) error {
	ctx, cancel := s.wait()
	defer cancel()
	c.Key = newKey()
	_, err := s.srv.deps.Store.ChangeFolder(ctx, s.account.Mailbox, c)
	return err
}

// Create implements imapserver.Session. Levels above that do not exist are
// created, too (RFC 9051 section 6.3.4).
func (s *session) Create(name string, o *imap.CreateOptions) error {
	name = canonical(strings.TrimSuffix(name, string(delim)))
	if err := checkName(name); err != nil {
		return err
	}
	use := ""
	switch {
	case len(o.SpecialUse) > 1:
		return no("USEATTR", "A mailbox has at most one special use")
	case len(o.SpecialUse) == 1:
		use = string(o.SpecialUse[0])
		if !slices.Contains(specialUses, o.SpecialUse[0]) {
			return no("USEATTR", "This special use is not supported")
		}
	}
	if err := s.createAbove(name); err != nil {
		return s.answer("create", err)
	}
	return s.answer("create", s.changeFolder(mail.FolderChange{Op: "create", Name: name, SpecialUse: use}))
}

func (s *session) createAbove(name string) error {
	for _, a := range ancestors(name) {
		err := s.changeFolder(mail.FolderChange{Op: "create", Name: a})
		if err != nil && !kind.Is(err, kind.Exists) {
			return err
		}
	}
	return nil
}

// Delete implements imapserver.Session.
func (s *session) Delete(name string) error {
	name = canonical(name)
	if name == "INBOX" {
		return no(imap.ResponseCodeCannot, "INBOX cannot be deleted")
	}
	return s.answer("delete", s.changeFolder(mail.FolderChange{Op: "delete", Name: name}))
}

// Rename implements imapserver.Session. The store renames what is below, and
// of INBOX it moves just the messages (RFC 9051 section 6.3.6).
func (s *session) Rename(from, to string) error {
	from, to = canonical(from), canonical(strings.TrimSuffix(to, string(delim)))
	if err := checkName(to); err != nil {
		return err
	}
	if strings.HasPrefix(to, from+string(delim)) && from != "INBOX" {
		return no(imap.ResponseCodeCannot, "A mailbox cannot be moved below itself")
	}
	ctx, cancel := s.wait()
	defer cancel()
	_, err := s.folder(ctx, from)
	if err == errNonExistent && s.isLevel(ctx, from) {
		return no(imap.ResponseCodeCannot, "This level holds no mailbox, rename those below it")
	}
	if err == nil {
		err = s.createAbove(to)
	}
	if err != nil {
		return s.answer("rename", err)
	}
	return s.answer("rename", s.changeFolder(mail.FolderChange{Op: "rename", Name: from, NewName: to}))
}

// isLevel tells whether folders are below the name.
func (s *session) isLevel(ctx context.Context, name string) bool {
	folders, err := s.srv.deps.Store.Folders(ctx, s.account.Mailbox)
	return err == nil && slices.ContainsFunc(folders, func(f mail.Folder) bool {
		return strings.HasPrefix(f.Name, name+string(delim))
	})
}

// Subscribe implements imapserver.Session.
func (s *session) Subscribe(name string) error {
	return s.answer("subscribe", s.changeFolder(mail.FolderChange{Op: "subscribe", Name: canonical(name)}))
}

// Unsubscribe implements imapserver.Session.
func (s *session) Unsubscribe(name string) error {
	return s.answer("unsubscribe", s.changeFolder(mail.FolderChange{Op: "unsubscribe", Name: canonical(name)}))
}
