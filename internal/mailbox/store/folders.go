package store

import (
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// specialUses may be given to new folders (RFC 6154, RFC 8457).
func specialUse(use string) bool {
	switch use {
	case `\All`, `\Archive`, `\Drafts`, `\Flagged`, `\Junk`, `\Sent`, `\Trash`, `\Important`:
		return true
	}
	return false
}

func (t *txn) folder(r *FolderReq) (Planned, error) {
	var done mail.Folder
	if again, err := t.replay(r.Key, r.Mailbox, verbFolder, &done); err != nil || again {
		return Planned{NoOp: true, Result: done}, err
	}
	name, err := canonical(r.Name)
	if err != nil {
		return Planned{}, err
	}
	b, err := t.mustBox(r.Mailbox)
	if err != nil {
		return Planned{}, err
	}
	var f *mail.Folder
	switch r.Op {
	case "create":
		f, err = t.createFolder(b, name, r.SpecialUse)
	case "rename":
		f, err = t.renameFolder(b, name, r.NewName)
	case "delete":
		f, err = t.deleteFolder(b, name)
	case "subscribe", "unsubscribe":
		f, err = t.subscribe(b, name, r.Op == "subscribe")
	default:
		err = kind.Errorf(kind.Invalid, "folder %q: operation %q", name, r.Op)
	}
	if err != nil {
		return Planned{}, err
	}
	if !b.stamped {
		return Planned{NoOp: true, Result: *f}, nil
	}
	t.remember(r.Key, r.Mailbox, verbFolder, *f)
	return Planned{Result: *f}, t.err
}

func (t *txn) createFolder(b *box, name, use string) (*mail.Folder, error) {
	if use != "" {
		if !specialUse(use) {
			return nil, kind.Errorf(kind.Invalid, "folder %q: special use %.40q", name, use)
		}
		all, err := loadFolders(t, b.id)
		if err != nil {
			return nil, err
		}
		if i := slices.IndexFunc(all, func(f mail.Folder) bool { return f.SpecialUse == use }); i >= 0 {
			return nil, kind.Errorf(kind.Exists, "folder %q: %s is %q", name, use, all[i].Name)
		}
	}
	if err := t.free(b, name); err != nil {
		return nil, err
	}
	return t.makeFolder(b, name, use)
}

// free refuses a name that is in use.
func (t *txn) free(b *box, name string) error {
	_, taken, err := t.named(b, name)
	if err == nil && taken {
		err = kind.Errorf(kind.Exists, "folder %q: exists", name)
	}
	return err
}

// renameFolder renames a folder and those below it (RFC 9051 section 6.3.6).
// Renaming INBOX moves its messages to a new folder and leaves it empty, and
// leaves those below it alone.
func (t *txn) renameFolder(b *box, name, newName string) (*mail.Folder, error) {
	to, err := canonical(newName)
	if err != nil {
		return nil, err
	}
	id, ok, err := t.named(b, name)
	if err != nil {
		return nil, err
	}
	if !ok {
		return nil, kind.Errorf(kind.NotFound, "folder %q: no such folder", name)
	}
	if err := t.free(b, to); err != nil {
		return nil, err
	}
	if name == inbox {
		return t.renameInbox(b, id, to)
	}
	if strings.HasPrefix(to, name+"/") {
		return nil, kind.Errorf(kind.Invalid, "folder %q: cannot be below itself", to)
	}
	all, err := loadFolders(t, b.id)
	if err != nil {
		return nil, err
	}
	for i := range all {
		rest, below := strings.CutPrefix(all[i].Name, name+"/")
		if !below {
			continue
		}
		lower, err := canonical(to + "/" + rest)
		if err != nil {
			return nil, err
		}
		if err := t.free(b, lower); err != nil {
			return nil, err
		}
		if err := t.setName(b, all[i].ID, lower); err != nil {
			return nil, err
		}
	}
	if err := t.setName(b, id, to); err != nil {
		return nil, err
	}
	return b.folders[id], nil
}

// setName gives a folder another, free name. Subscriptions belong to names and
// stay (RFC 9051 section 6.3.6).
func (t *txn) setName(b *box, id mail.FolderID, name string) error {
	f, err := t.touch(b, id)
	if err != nil {
		return err
	}
	sub, err := t.get(subKey(b.id, name))
	if err != nil {
		return err
	}
	t.del(nameKey(b.id, f.Name))
	t.set(nameKey(b.id, name), be.AppendUint32(nil, uint32(id)))
	f.Name, f.Subscribed = name, sub != nil
	return nil
}

func (t *txn) renameInbox(b *box, id mail.FolderID, to string) (*mail.Folder, error) {
	f, err := t.makeFolder(b, to, "")
	if err != nil {
		return nil, err
	}
	_, _, err = t.transfer(b, id, f.ID, nil, true)
	return f, err
}

// deleteFolder removes a folder with its messages. Folders below it stay, and
// so does the subscription of its name (RFC 9051 section 6.3.8).
func (t *txn) deleteFolder(b *box, name string) (*mail.Folder, error) {
	if name == inbox {
		return nil, kind.Errorf(kind.Invalid, "folder %q: cannot be deleted", name)
	}
	id, ok, err := t.named(b, name)
	if err == nil && !ok {
		err = kind.Errorf(kind.NotFound, "folder %q: no such folder", name)
	}
	if err != nil {
		return nil, err
	}
	was, err := t.folderOf(b, id)
	if err != nil {
		return nil, err
	}
	if _, err := t.purge(b, id, nil, false); err != nil {
		return nil, err
	}
	b.stamp()
	delete(b.folders, id)
	b.row.Folders--
	t.del(folderKey(b.id, id))
	t.del(nameKey(b.id, name))
	return &was, nil
}

// subscribe changes the list of subscribed names, which need not be folders
// (RFC 9051 section 6.3.7).
func (t *txn) subscribe(b *box, name string, on bool) (*mail.Folder, error) {
	f := &mail.Folder{Name: name}
	id, ok, err := t.named(b, name)
	if err != nil {
		return nil, err
	}
	if ok {
		row, err := t.folderOf(b, id)
		if err != nil {
			return nil, err
		}
		f = &row
	}
	v, err := t.get(subKey(b.id, name))
	if err != nil {
		return nil, err
	}
	f.Subscribed = on
	if (v != nil) == on {
		return f, nil
	}
	if on {
		if err := t.roomForSub(b); err != nil {
			return nil, err
		}
		t.set(subKey(b.id, name), nil)
	} else {
		t.del(subKey(b.id, name))
	}
	b.stamp()
	if ok {
		if f, err = t.touch(b, id); err != nil {
			return nil, err
		}
		f.Subscribed = on
	}
	return f, nil
}

func (t *txn) roomForSub(b *box) error {
	n := 0
	prefix := keyOf(kSub, b.id, 0)
	err := each(t, prefix, after(prefix), func(_, _ []byte) error { n++; return nil })
	if err == nil && n >= maxFolders {
		err = kind.Errorf(kind.Full, "mailbox %s: %d subscriptions", b.id, n)
	}
	return err
}
