package directory

import (
	"context"
	"crypto/subtle"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
)

// candidate is what is known of a login before its password was looked at.
type candidate struct {
	name     string // what failures are counted under
	account  Account
	cred     credentials
	key      string // of the row that holds the hash
	revision int64
	usable   bool // exists and is not disabled
}

// Authenticate checks a login: an address of a mailbox, or an administrator's
// name. Every refusal is Denied and costs one password hash, whatever its
// reason. Busy means that the password was not judged: too many logins at once, or
// too many failures of this account or address; the caller may say "try again
// later" but not which of them it was.
func (d *Directory) Authenticate(ctx context.Context, login, password, service string, remote netip.Addr) (Account, error) {
	now := time.Now()
	if acc, is, err := d.healthLogin(ctx, login, password, service, remote, now); is {
		return acc, err
	}
	c := d.candidate(d.state.View(), login)
	if !d.throttle.allowed(c.name, remote, now) {
		d.tellThrottled(c, remote)
		return Account{}, kind.Errorf(kind.Busy, "log in: too many failures")
	}
	if acc, ok := c.byAppPassword(password, service); ok {
		d.throttle.succeeded(c.name, remote, nil, now)
		return acc, nil
	}
	mark := d.verified.mark(c.key, c.revision, password)
	if c.usable && c.cred.Hash != "" && d.verified.has(mark, now) {
		d.throttle.succeeded(c.name, remote, nil, now)
		return c.forService(service)
	}
	// Clients open several connections at once; one check serves them all.
	flight := string(mark[:]) + network(remote).String()
	match, err := d.flights.do(ctx, flight, func(ctx context.Context) (bool, error) {
		return d.check(ctx, c, password, remote)
	})
	if err != nil {
		return Account{}, err
	}
	if !match || !c.usable {
		return Account{}, denied()
	}
	d.verified.add(mark, now)
	return c.forService(service)
}

func denied() error { return kind.Errorf(kind.Denied, "log in: wrong name or password") }

// check compares the password and keeps the throttle's books.
func (d *Directory) check(ctx context.Context, c candidate, password string, remote netip.Addr) (bool, error) {
	charge, ok := d.throttle.begin(c.name, remote, time.Now())
	if !ok {
		d.tellThrottled(c, remote)
		return false, kind.Errorf(kind.Busy, "log in: too many failures")
	}
	match, stale, err := d.hasher.verify(ctx, c.cred.Hash, password)
	switch {
	case err != nil:
		d.throttle.cancel(charge, time.Now())
		return false, err
	case !match || !c.usable:
		return false, nil
	}
	d.throttle.succeeded(c.name, remote, charge, time.Now())
	if stale {
		d.rehash(ctx, c, password)
	}
	return true, nil
}

// candidate finds whom a login means. What is not found is a candidate too:
// it is counted and checked like the others.
func (d *Directory) candidate(v View, login string) candidate {
	login = strings.TrimSpace(login)
	if !strings.Contains(login, "@") {
		return d.administrator(v, login)
	}
	a, err := mail.ParseAddress(login)
	if err != nil {
		return candidate{name: "?" + strings.ToLower(login[:min(len(login), 320)])}
	}
	c := candidate{name: a.Key()}
	r, _, ok := d.byAddress(v, a)
	if !ok || r.Type != TypeUser {
		return c
	}
	c.name = r.ID.String()
	c.key = credentialsKey(r.Organization, r.ID)
	cred, rev, ok := row[credentials](v, c.key)
	if !ok {
		return c
	}
	c.cred, c.revision = *cred, rev
	c.usable = !r.Disabled && r.Deleted == nil
	c.account = Account{
		ID: r.ID, Organization: r.Organization, Login: r.Address, Name: r.Address.String(),
		Mailbox: r.Ref(), Roles: slices.Clone(r.Roles), Stamp: rev,
	}
	return c
}

func (d *Directory) administrator(v View, login string) candidate {
	name := strings.ToLower(login[:min(len(login), 64)])
	c := candidate{name: name, key: administratorKey(name)}
	adm, rev, ok := row[administrator](v, c.key)
	if !ok || !strings.EqualFold(adm.Name, login) {
		return c
	}
	c.cred, c.revision = credentials{Hash: adm.Hash}, rev
	c.usable = !adm.Disabled
	c.account = Account{
		Organization: adm.Organization, Name: adm.Name, Roles: slices.Clone(adm.Roles), Stamp: rev,
		ServerAdmin: adm.Organization == "" && slices.Contains(adm.Roles, command.ServerAdmin),
	}
	return c
}

// byAppPassword tries all app passwords; they are long and random, so that
// this costs almost nothing.
func (c candidate) byAppPassword(password, service string) (Account, bool) {
	if !c.usable || service == ServiceAdmin || len(password) > maxPassword {
		return Account{}, false
	}
	got, found := []byte(appHash(password)), -1
	for i, p := range c.cred.AppPasswords {
		if subtle.ConstantTimeCompare(got, []byte(p.Hash)) == 1 && (len(p.Services) == 0 || slices.Contains(p.Services, service)) {
			found = i
		}
	}
	if found < 0 {
		return Account{}, false
	}
	acc := c.account
	acc.AppPassword = c.cred.AppPasswords[found].Name
	acc.Roles = nil
	return acc, true
}

// forService refuses an account that has nothing to do with a service.
func (c candidate) forService(service string) (Account, error) {
	if service == ServiceAdmin && len(c.account.Roles) == 0 || service != ServiceAdmin && c.account.Mailbox.Database == "" {
		return Account{}, denied()
	}
	return c.account, nil
}

// rehash replaces a hash of another system, or one with other costs, now that
// the password is at hand. It may be lost to a race or for want of quorum: the next login
// tries again.
func (d *Directory) rehash(ctx context.Context, c candidate, password string) {
	hash, err := d.hasher.hash(ctx, password)
	if err != nil {
		return
	}
	var value []byte
	if c.account.Mailbox.Database == "" {
		adm, _, ok := row[administrator](d.state.View(), c.key)
		if !ok {
			return
		}
		adm.Hash = hash
		value = encode(adm)
	} else {
		cred := c.cred
		cred.Hash = hash
		value = encode(cred)
	}
	_, err = d.state.Commit(ctx, cluster.Txn{If: []Cond{{Key: c.key, Revision: c.revision}}, Then: []Op{{Key: c.key, Value: value}}})
	if err != nil {
		d.opt.Log.Debug("rehash password", "account", c.account.Name, "error", err)
	}
}

// flights lets equal checks that come at the same time share one.
type flights struct {
	mu  sync.Mutex // guards now
	now map[string]*flight
}

type flight struct {
	done  chan struct{}
	match bool
	err   error
}

// do runs f once for all callers with the same key that come while it runs.
// It goes on when the first caller leaves: others wait for it.
func (fs *flights) do(ctx context.Context, key string, f func(context.Context) (bool, error)) (bool, error) {
	fs.mu.Lock()
	fl, ok := fs.now[key]
	if !ok {
		fl = &flight{done: make(chan struct{})}
		if fs.now == nil {
			fs.now = map[string]*flight{}
		}
		fs.now[key] = fl
	}
	fs.mu.Unlock()
	if !ok {
		// The hasher has its own limits of number and time.
		fl.match, fl.err = f(context.WithoutCancel(ctx))
		fs.mu.Lock()
		delete(fs.now, key)
		fs.mu.Unlock()
		close(fl.done)
		return fl.match, fl.err
	}
	select {
	case <-fl.done:
		return fl.match, fl.err
	case <-ctx.Done():
		return false, ctx.Err()
	}
}
