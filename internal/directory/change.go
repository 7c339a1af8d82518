package directory

import (
	"context"
	"slices"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// changeTries is how often a change that lost a race is computed again.
const changeTries = 8

// change computes a transaction from the view and commits it, again where
// it lost a race. An error computed from a view that may be old is computed once
// more from a fresh one: what another server did a moment ago counts.
func (d *Directory) change(ctx context.Context, f func(v View) (txn, error)) error {
	synced := false
	var err error
	for range changeTries {
		var t txn
		if t, err = f(d.state.View()); err == nil {
			if _, err = d.state.Commit(ctx, cluster.Txn(t)); err == nil {
				return nil
			}
			if !kind.Is(err, kind.Conflict) {
				return err
			}
		} else if synced {
			return err
		}
		if e := d.state.Sync(ctx); e != nil {
			return e
		}
		synced = true
	}
	return err
}

// scope is what a caller may touch.
type scope struct {
	organization org.OrganizationID // empty: everything
	roles        []command.Role
}

func scopeOf(ctx context.Context) scope {
	c := command.CallerOf(ctx)
	return scope{org.OrganizationID(c.Organization), c.Roles}
}

// sees tells whether an organization exists for the caller.
func (s scope) sees(o org.OrganizationID) bool {
	return s.organization == "" || s.organization == o
}

// mayManage refuses callers that would gain by changing another's
// credentials: the help desk works for people without roles.
func (s scope) mayManage(roles []command.Role) error {
	if len(roles) == 0 || len(s.roles) == 0 || slices.Contains(s.roles, command.ServerAdmin) ||
		slices.Contains(s.roles, command.OrganizationAdmin) {
		return nil
	}
	return kind.Errorf(kind.Denied, "the account has a role: only an administrator may change how it logs in")
}

// noSuch is one answer for what does not exist and for what belongs to a
// stranger.
func noSuch(what string, name any) error {
	return kind.WithHint(kind.Errorf(kind.NotFound, "%s %s: no such %s", what, name, what), "postern "+what+" list")
}

// find looks an exact address up within a scope. Want says what it has to be: "mailbox",
// "group", or empty for any.
func (d *Directory) find(v View, s scope, a mail.Address, want string) (*Recipient, int64, error) {
	what := want
	if what == "" {
		what = "mailbox"
	}
	r, rev, ok := d.byAddress(v, a)
	if !ok || !s.sees(r.Organization) || want == "mailbox" && !r.IsMailbox() || want == "group" && r.IsMailbox() {
		return nil, 0, noSuch(what, a)
	}
	return r, rev, nil
}

// update changes one recipient by f, which may add to the transaction, and
// returns the recipient as it is then.
func (d *Directory) update(ctx context.Context, s scope, a mail.Address, want string,
	f func(v View, r *Recipient, t *txn) error) (*Recipient, error) {
	var out *Recipient
	err := d.change(ctx, func(v View) (txn, error) {
		r, rev, err := d.find(v, s, a, want)
		if err != nil {
			return txn{}, err
		}
		var t txn
		r = r.clone()
		if err := f(v, r, &t); err != nil {
			return txn{}, err
		}
		t.put(recipientKey(r.Organization, r.ID), rev, r)
		out = r
		return t, nil
	})
	return out, err
}

// claim adds to a transaction that an address belongs to a recipient: its
// domain is the organization's and stays so, and nobody else has it.
func claim(v View, t *txn, o org.OrganizationID, id org.MailboxID, a mail.Address) error {
	if a.IsZero() || a.IsLiteral() {
		return kind.Errorf(kind.Invalid, "address %s: want one with a domain", a)
	}
	dom, rev, ok := row[Domain](v, domainKey(a.Domain))
	if !ok || dom.Organization != o {
		return kind.WithHint(kind.Errorf(kind.Invalid, "address %s: %s is not a domain of the organization", a, a.Domain), "postern domain list")
	}
	if dom.Removing {
		return kind.Errorf(kind.Conflict, "address %s: the domain is being removed", a)
	}
	if _, taken := v.Get(addressKey(a)); taken || slices.Contains(t.If, Cond{Key: addressKey(a), Revision: 0}) {
		return kind.WithHint(kind.Errorf(kind.Exists, "address %s is taken", a), "a removed mailbox keeps its addresses until it is purged")
	}
	t.put(addressKey(a), 0, owner{o, id})
	if c := (Cond{Key: domainKey(a.Domain), Revision: rev}); !slices.Contains(t.If, c) {
		t.If = append(t.If, c)
	}
	return nil
}

// checkName bounds a display name.
func checkName(s string) error {
	if len(s) > 256 || !utf8.ValidString(s) {
		return kind.Errorf(kind.Invalid, "name: want at most 256 octets of UTF-8")
	}
	for _, r := range s {
		if unicode.IsControl(r) {
			return kind.Errorf(kind.Invalid, "name: control characters are not allowed")
		}
	}
	return nil
}

// checkPassword bounds a password a person chose.
func (d *Directory) checkPassword(s string) error {
	if n, least := utf8.RuneCountInString(s), d.opt.PasswordMinimum; n < least || len(s) > maxPassword {
		return kind.Errorf(kind.Invalid, "password: want %d characters to %d octets", least, maxPassword)
	}
	return nil
}

// secretHash makes the hash to store: of the given password, or of one made
// here, which is returned.
func (d *Directory) secretHash(ctx context.Context, given string) (hash, made string, err error) {
	if given == "" {
		made = newSecret()
		given = made
	} else if err := d.checkPassword(given); err != nil {
		return "", "", err
	}
	hash, err = d.hasher.hash(ctx, given)
	return hash, made, err
}

func now() time.Time { return time.Now().UTC().Truncate(time.Millisecond) }
