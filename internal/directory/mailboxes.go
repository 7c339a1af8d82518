package directory

import (
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// NewMailbox says what mailbox to create.
type NewMailbox struct {
	Address       mail.Address
	Aliases       []mail.Address
	Name          string
	Shared        bool   // nobody logs in to it
	Password      string // empty: one is made
	Hash          string // instead of a password, from another system
	Database      org.DatabaseName
	QuotaBytes    int64
	QuotaMessages int64
}

// CreateMailbox creates a mailbox in the organization of its domain and sets it up
// in its database. Where that is not possible now, Run does it later
// (Provisioned is false). It returns the password if one was made.
func (d *Directory) CreateMailbox(ctx context.Context, n NewMailbox) (Recipient, string, error) {
	if err := checkName(n.Name); err != nil {
		return Recipient{}, "", err
	}
	if n.QuotaBytes < 0 || n.QuotaMessages < 0 || len(n.Aliases) > d.opt.MaxAliases {
		return Recipient{}, "", kind.Errorf(kind.Invalid, "mailbox %s: quota below zero or too many aliases", n.Address)
	}
	// Without a look first, an attempt that cannot succeed would cost a hash.
	if _, _, ok := d.byAddress(d.state.View(), n.Address); ok && d.sees(ctx, n.Address.Domain) {
		return Recipient{}, "", kind.WithHint(kind.Errorf(kind.Exists, "address %s is taken", n.Address),
			"a removed mailbox keeps its addresses until it is purged")
	}
	hash, made, err := d.firstHash(ctx, n)
	if err != nil {
		return Recipient{}, "", err
	}
	r := &Recipient{
		ID: org.NewMailboxID(), Type: TypeUser, Address: n.Address, Aliases: n.Aliases, Name: n.Name,
		Created: now(), QuotaBytes: n.QuotaBytes, QuotaMessages: n.QuotaMessages,
	}
	if n.Shared {
		r.Type = TypeShared
	}
	err = d.change(ctx, func(v View) (txn, error) { return d.createTxn(v, scopeOf(ctx), r, n.Database, hash) })
	if err != nil {
		return Recipient{}, "", err
	}
	if err := d.provision(ctx, r.Organization, r.ID); err != nil {
		d.opt.Events.Emit(evSetupWaits, "mailbox %s waits for database %s: %v", r.label(), r.Database, err)
	}
	created, _ := d.ByID(r.Organization, r.ID)
	return created, made, nil
}

// sees tells whether the caller may know about a domain.
func (d *Directory) sees(ctx context.Context, domain string) bool {
	o, ok := organizationOf(d.state.View(), domain)
	return ok && scopeOf(ctx).sees(o)
}

func (d *Directory) firstHash(ctx context.Context, n NewMailbox) (hash, made string, err error) {
	switch {
	case n.Shared && (n.Password != "" || n.Hash != ""):
		return "", "", kind.Errorf(kind.Invalid, "mailbox %s: a shared mailbox has no password", n.Address)
	case n.Shared:
		return "", "", nil
	case n.Hash != "" && !d.hasher.importable(n.Hash):
		return "", "", kind.Errorf(kind.Invalid, "mailbox %s: password hash is of no known form", n.Address)
	case n.Hash != "":
		return n.Hash, "", nil
	}
	return d.secretHash(ctx, n.Password)
}

// createTxn fills in organization and database and writes all rows of a new recipient.
func (d *Directory) createTxn(v View, s scope, r *Recipient, wanted org.DatabaseName, hash string) (txn, error) {
	var t txn
	o, ok := organizationOf(v, r.Address.Domain)
	if !ok || !s.sees(o) {
		return t, noSuch("domain", r.Address.Domain)
	}
	tenant, rev, ok := row[Organization](v, organizationKey(o))
	if !ok || tenant.Removing {
		return t, noSuch("organization", o)
	}
	t.If = append(t.If, Cond{Key: organizationKey(o), Revision: rev})
	r.Organization = o
	for _, a := range append([]mail.Address{r.Address}, r.Aliases...) {
		if err := claim(v, &t, o, r.ID, a); err != nil {
			return t, err
		}
	}
	if r.IsMailbox() {
		db, err := d.place(v, &t, wanted)
		if err != nil {
			return t, err
		}
		r.Database = db
	}
	t.put(recipientKey(o, r.ID), 0, r)
	if r.Type == TypeUser {
		t.put(credentialsKey(o, r.ID), 0, credentials{Hash: hash, Changed: r.Created})
	}
	return t, nil
}

// RemoveMailbox takes a mailbox out of use. It is kept, with its addresses,
// for the retention time and can be restored until then; with purge it is
// deleted at once, as far as its database can be reached.
func (d *Directory) RemoveMailbox(ctx context.Context, a mail.Address, purge bool) (Recipient, error) {
	r, err := d.update(ctx, scopeOf(ctx), a, "mailbox", func(_ View, r *Recipient, _ *txn) error {
		if r.Deleted == nil {
			at := now()
			r.Deleted = &at
		}
		r.Purging = r.Purging || purge
		return nil
	})
	if err != nil {
		return Recipient{}, err
	}
	if purge {
		if err := d.purge(ctx, r.Organization, r.ID); err != nil {
			d.opt.Events.Emit(evPurgeWaits, "removed mailbox %s waits for database %s: %v", r.label(), r.Database, err)
		}
	}
	return *r, nil
}

// RestoreMailbox brings a removed mailbox back.
func (d *Directory) RestoreMailbox(ctx context.Context, a mail.Address) (Recipient, error) {
	r, err := d.update(ctx, scopeOf(ctx), a, "mailbox", func(_ View, r *Recipient, _ *txn) error {
		switch {
		case r.Deleted == nil:
			return kind.Errorf(kind.Invalid, "mailbox %s is not removed", a)
		case r.Purging:
			return kind.Errorf(kind.Invalid, "mailbox %s is being deleted for good", a)
		}
		r.Deleted = nil
		return nil
	})
	if err != nil {
		return Recipient{}, err
	}
	return *r, nil
}

// MailboxChange says what to change of a mailbox; nil fields stay.
type MailboxChange struct {
	Name          *string
	QuotaBytes    *int64
	QuotaMessages *int64
	Disabled      *bool
	Forward       *[]mail.Address
	ForwardKeep   *bool
	Route         *string // a connector's name
	Language      *string
	MaxMessage    *int64
}

// ChangeMailbox changes limits, name and state of a mailbox, and where its mail
// goes.
func (d *Directory) ChangeMailbox(ctx context.Context, a mail.Address, c MailboxChange) (Recipient, error) {
	r, err := d.update(ctx, scopeOf(ctx), a, "mailbox", func(v View, r *Recipient, t *txn) error {
		set(&r.Name, c.Name)
		set(&r.Disabled, c.Disabled)
		if set(&r.QuotaBytes, c.QuotaBytes) || set(&r.QuotaMessages, c.QuotaMessages) {
			r.Provisioned = false // the database has to hear of it
		}
		set(&r.QuotaMessages, c.QuotaMessages)
		if r.QuotaBytes < 0 || r.QuotaMessages < 0 {
			return kind.Errorf(kind.Invalid, "mailbox %s: quota below zero", a)
		}
		if err := d.mailFlow(v, r, t, c); err != nil {
			return err
		}
		return checkName(r.Name)
	})
	if err != nil {
		return Recipient{}, err
	}
	if !r.Provisioned {
		if err := d.provision(ctx, r.Organization, r.ID); err != nil {
			d.opt.Events.Emit(evSetupWaits, "mailbox %s waits for database %s: %v", r.label(), r.Database, err)
		}
		changed, _ := d.ByID(r.Organization, r.ID)
		return changed, nil
	}
	return *r, nil
}

// set takes over a value that was given and tells whether it is another.
func set[T comparable](to *T, from *T) bool {
	if from == nil || *to == *from {
		return false
	}
	*to = *from
	return true
}

// AddAlias gives a mailbox or group one more address.
func (d *Directory) AddAlias(ctx context.Context, a, alias mail.Address) (Recipient, error) {
	r, err := d.update(ctx, scopeOf(ctx), a, "", func(v View, r *Recipient, t *txn) error {
		if len(r.Aliases) >= d.opt.MaxAliases {
			return kind.Errorf(kind.Invalid, "%s has %d aliases already", a, d.opt.MaxAliases)
		}
		r.Aliases = append(r.Aliases, alias)
		return claim(v, t, r.Organization, r.ID, alias)
	})
	if err != nil {
		return Recipient{}, err
	}
	return *r, nil
}

// RemoveAlias takes an alias away; the primary address stays.
func (d *Directory) RemoveAlias(ctx context.Context, a, alias mail.Address) (Recipient, error) {
	r, err := d.update(ctx, scopeOf(ctx), a, "", func(v View, r *Recipient, t *txn) error {
		i := slices.IndexFunc(r.Aliases, func(b mail.Address) bool { return b.Key() == alias.Key() })
		if i < 0 {
			return kind.Errorf(kind.NotFound, "%s has no alias %s", a, alias)
		}
		_, rev, ok := row[owner](v, addressKey(alias))
		if !ok {
			return kind.Errorf(kind.Corrupt, "alias %s of %s has no row", alias, a)
		}
		r.Aliases = slices.Delete(r.Aliases, i, i+1)
		t.drop(addressKey(alias), rev)
		return nil
	})
	if err != nil {
		return Recipient{}, err
	}
	return *r, nil
}

// maxGrants bounds who may use a mailbox.
const maxGrants = 500

// GrantAccess lets another mailbox of the same organization send as a mailbox or group, or
// open it. A grant of nothing takes it back.
func (d *Directory) GrantAccess(ctx context.Context, a, to mail.Address, sendAs, access bool) (Recipient, error) {
	s := scopeOf(ctx)
	r, err := d.update(ctx, s, a, "", func(v View, r *Recipient, _ *txn) error {
		other, _, err := d.find(v, scope{organization: r.Organization}, to, "mailbox")
		if err != nil {
			return err
		}
		r.Grants = slices.DeleteFunc(r.Grants, func(g Grant) bool {
			_, _, there := d.recipient(v, r.Organization, g.Mailbox)
			return g.Mailbox == other.ID || !there
		})
		if sendAs || access {
			r.Grants = append(r.Grants, Grant{other.ID, sendAs, access})
		}
		if len(r.Grants) > maxGrants {
			return kind.Errorf(kind.Invalid, "%s: more than %d grants", a, maxGrants)
		}
		return nil
	})
	if err != nil {
		return Recipient{}, err
	}
	return *r, nil
}

// expired tells whether a removed mailbox is due.
func (d *Directory) expired(r *Recipient, at time.Time) bool {
	return r.Purging || r.Deleted != nil && at.Sub(*r.Deleted) >= d.opt.Retention
}
