package directory

import (
	"context"
	"slices"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

const maxAppPasswords = 50

// SetPassword gives a mailbox another password, made here if none is given. App
// passwords stay. Verified passwords that are remembered no longer count.
func (d *Directory) SetPassword(ctx context.Context, a mail.Address, password string) (made string, err error) {
	// Asked before the hash is paid for.
	if _, err := d.loginOf(d.state.View(), scopeOf(ctx), a); err != nil && kind.Is(err, kind.Denied) {
		return "", err
	}
	hash, made, err := d.secretHash(ctx, password)
	if err != nil {
		return "", err
	}
	return made, d.changeCredentials(ctx, a, func(c *credentials) error {
		c.Hash = hash
		return nil
	})
}

// loginOf finds a mailbox whose way to log in the caller may change.
func (d *Directory) loginOf(v View, s scope, a mail.Address) (*Recipient, error) {
	r, _, err := d.find(v, s, a, "mailbox")
	switch {
	case err != nil:
		return nil, err
	case r.Type != TypeUser:
		return nil, kind.Errorf(kind.Invalid, "mailbox %s is shared: nobody logs in to it", a)
	}
	return r, s.mayManage(r.Roles)
}

func (d *Directory) changeCredentials(ctx context.Context, a mail.Address, f func(c *credentials) error) error {
	s := scopeOf(ctx)
	return d.change(ctx, func(v View) (txn, error) {
		r, err := d.loginOf(v, s, a)
		if err != nil {
			return txn{}, err
		}
		var t txn
		key := credentialsKey(r.Organization, r.ID)
		c, rev, ok := row[credentials](v, key)
		if !ok {
			c = &credentials{}
		}
		c.Changed = now()
		if err := f(c); err != nil {
			return t, err
		}
		t.put(key, rev, c)
		// The decision depended on the mailbox's roles and state.
		if it, ok := v.Get(recipientKey(r.Organization, r.ID)); ok {
			t.If = append(t.If, Cond{Key: recipientKey(r.Organization, r.ID), Revision: it.Revision})
		}
		return t, nil
	})
}

// AddAppPassword makes a password for one device or program and returns it:
// it is never shown again. Services limits what it is good for; none means all
// but administration.
func (d *Directory) AddAppPassword(ctx context.Context, a mail.Address, name string, services []string) (string, error) {
	if err := checkName(name); err != nil || name == "" {
		return "", kind.Errorf(kind.Invalid, "app password: want a name")
	}
	for _, s := range services {
		if s != ServiceIMAP && s != ServiceSubmission {
			return "", kind.Errorf(kind.Invalid, "app password: service %q is not %s or %s", s, ServiceIMAP, ServiceSubmission)
		}
	}
	secret := newSecret()
	err := d.changeCredentials(ctx, a, func(c *credentials) error {
		switch {
		case slices.ContainsFunc(c.AppPasswords, func(p appPassword) bool { return p.Name == name }):
			return kind.Errorf(kind.Exists, "app password %q exists", name)
		case len(c.AppPasswords) >= maxAppPasswords:
			return kind.Errorf(kind.Invalid, "%s has %d app passwords already", a, maxAppPasswords)
		}
		c.AppPasswords = append(c.AppPasswords, appPassword{Name: name, Hash: appHash(secret), Services: services, Created: now()})
		return nil
	})
	if err != nil {
		return "", err
	}
	return secret, nil
}

// RemoveAppPassword takes an app password away.
func (d *Directory) RemoveAppPassword(ctx context.Context, a mail.Address, name string) error {
	return d.changeCredentials(ctx, a, func(c *credentials) error {
		n := len(c.AppPasswords)
		c.AppPasswords = slices.DeleteFunc(c.AppPasswords, func(p appPassword) bool { return p.Name == name })
		if len(c.AppPasswords) == n {
			return kind.Errorf(kind.NotFound, "app password %q: no such app password of %s", name, a)
		}
		return nil
	})
}

// appPasswords lists the app passwords of a mailbox, without their hashes.
func (d *Directory) appPasswords(s scope, a mail.Address) ([]appPassword, error) {
	v := d.state.View()
	r, _, err := d.find(v, s, a, "mailbox")
	if err != nil {
		return nil, err
	}
	c, _, ok := row[credentials](v, credentialsKey(r.Organization, r.ID))
	if !ok {
		return nil, nil
	}
	for i := range c.AppPasswords {
		c.AppPasswords[i].Hash = ""
	}
	return c.AppPasswords, nil
}
