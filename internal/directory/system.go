package directory

import (
	"context"
	"crypto/sha256"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// systemID is the identity of an organization's mailbox for a purpose: known
// without looking, so that two servers that need it at once make one.
func systemID(o org.OrganizationID, purpose string) org.MailboxID {
	sum := sha256.Sum256([]byte("postern system mailbox\x00" + string(o) + "\x00" + purpose))
	return org.MailboxID(sum[:16])
}

// SystemMailbox tells which mailbox of an organization the system keeps
// something in; the purpose is a short name, such as quarantine. It has no
// address, nobody logs in to it, and it is made at the first call. Errors: Busy
// while it cannot be made or its database not be told, NotFound for an
// organization that is not there.
func (d *Directory) SystemMailbox(ctx context.Context, o org.OrganizationID, purpose string) (org.MailboxRef, error) {
	if err := org.ValidName(purpose); err != nil {
		return org.MailboxRef{}, kind.Errorf(kind.Invalid, "system mailbox: %w", err)
	}
	id := systemID(o, purpose)
	err := d.changeUnless(ctx,
		func(v View) bool { _, _, ok := d.recipient(v, o, id); return ok },
		func(v View) (txn, error) { return d.systemTxn(v, o, id, purpose) })
	if err != nil {
		return org.MailboxRef{}, err
	}
	if err := d.provision(ctx, o, id); err != nil {
		return org.MailboxRef{}, kind.Errorf(kind.Busy, "system mailbox %s of %s: %w", purpose, o, err)
	}
	r, _, ok := d.recipient(d.state.View(), o, id)
	if !ok || r.Deleted != nil {
		return org.MailboxRef{}, kind.Errorf(kind.Busy, "system mailbox %s of %s is being removed", purpose, o)
	}
	return r.Ref(), nil
}

// changeUnless makes a change that may have been made already.
func (d *Directory) changeUnless(ctx context.Context, done func(View) bool, f func(View) (txn, error)) error {
	if done(d.state.View()) {
		return nil
	}
	err := d.change(ctx, func(v View) (txn, error) {
		if done(v) {
			return txn{}, kind.Errorf(kind.Exists, "it is there")
		}
		return f(v)
	})
	if kind.Is(err, kind.Exists) {
		return nil
	}
	return err
}

func (d *Directory) systemTxn(v View, o org.OrganizationID, id org.MailboxID, purpose string) (txn, error) {
	var t txn
	tenant, rev, ok := row[Organization](v, organizationKey(o))
	if !ok || tenant.Removing {
		return t, noSuch("organization", o)
	}
	t.If = append(t.If, Cond{Key: organizationKey(o), Revision: rev})
	db, err := d.place(v, &t, "")
	if err != nil {
		return t, err
	}
	t.put(recipientKey(o, id), 0, &Recipient{ID: id, Organization: o, Type: TypeSystem, Name: purpose, Created: now(), Database: db})
	return t, nil
}

// removeSystem deletes the system mailboxes of an organization that is being
// removed, with what is in them.
func (d *Directory) removeSystem(ctx context.Context, o org.OrganizationID) error {
	for r, rev := range d.recipients(d.state.View(), o) {
		if r.Type != TypeSystem {
			continue
		}
		if r.Deleted == nil {
			at := now()
			r = r.clone()
			r.Deleted, r.Purging = &at, true
			var t txn
			t.put(recipientKey(o, r.ID), rev, r)
			if _, err := d.state.Commit(ctx, cluster.Txn(t)); err != nil {
				return err
			}
		}
		if err := d.purge(ctx, o, r.ID); err != nil {
			return kind.Errorf(kind.Busy, "remove %s: %w", r.label(), err)
		}
	}
	return nil
}

// FindSystemMailbox tells which mailbox of an organization there is for a
// purpose; it makes none.
func (d *Directory) FindSystemMailbox(o org.OrganizationID, purpose string) (org.MailboxRef, bool) {
	r, _, ok := d.recipient(d.state.View(), o, systemID(o, purpose))
	if !ok || r.Deleted != nil {
		return org.MailboxRef{}, false
	}
	return r.Ref(), true
}
