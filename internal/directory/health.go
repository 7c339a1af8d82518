package directory

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base32"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// HealthDomain is the domain of health mailboxes: one mailbox in each database,
// into which health writes and from which it reads to see whether mail works. No
// mail system on the Internet can have the name (RFC 6761).
//
// A health mailbox has no row: it belongs to no organization, is in no list, has
// no policy, and is there as long as its database is. Its address and password
// follow from a secret of the group and the hour, so nobody but its servers can
// write to it, and logins count only where they come from one of them.
const HealthDomain = "health.invalid"

// HealthOptions let probes in. The zero value lets nobody in.
type HealthOptions struct {
	Secret []byte                // the group's own, for nothing else
	Near   func(netip.Addr) bool // whether an address is one of a server of the group
}

// HealthBox is a health mailbox as a probe uses it.
type HealthBox struct {
	Address  mail.Address // also the login
	Password string
}

// Limits of a health mailbox: probes remove what they wrote, but may be killed.
const (
	healthBytes    = 4 << 20
	healthMessages = 2000
)

// healthHour is how long an address is given out; it is good for one more
// before and after, as clocks differ and messages take their time.
const healthHour = time.Hour

// NewHealthBox tells address and password of the health mailbox of a database for now.
func NewHealthBox(secret []byte, db org.DatabaseName, now time.Time) HealthBox {
	hour := now.Unix() / int64(healthHour/time.Second)
	return HealthBox{
		Address:  mail.Address{Local: "h-" + healthToken(secret, "address", db, hour) + "-" + string(db), Domain: HealthDomain},
		Password: healthToken(secret, "password", db, hour),
	}
}

// healthToken is 20 characters that only the group can make for an hour.
func healthToken(secret []byte, use string, db org.DatabaseName, hour int64) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte(use + "\x00" + string(db) + "\x00" + strconv.FormatInt(hour, 10)))
	return strings.ToLower(base32.StdEncoding.EncodeToString(h.Sum(nil)[:13]))[:20]
}

// healthBox tells which database's health mailbox an address is, and of which
// hour. False for every address that the group did not make lately.
func (d *Directory) healthBox(a mail.Address, now time.Time) (db org.DatabaseName, hour int64, ok bool) {
	rest, is := strings.CutPrefix(a.Local, "h-")
	token, name, cut := strings.Cut(rest, "-")
	if !is || !cut || a.Domain != HealthDomain || len(d.opt.Health.Secret) == 0 {
		return "", 0, false
	}
	db = org.DatabaseName(name)
	present := now.Unix() / int64(healthHour/time.Second)
	for h := present - 1; h <= present+1; h++ {
		if same(token, healthToken(d.opt.Health.Secret, "address", db, h)) {
			hour, ok = h, true
		}
	}
	return db, hour, ok
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// healthRef is where the health mailbox of a database is. A database made anew
// under an old name has another.
func healthRef(v View, db org.DatabaseName) (org.MailboxRef, bool) {
	all := v.Databases()
	i := slices.IndexFunc(all, func(x org.Database) bool { return x.Name == db })
	if i < 0 {
		return org.MailboxRef{}, false
	}
	sum := sha256.Sum256([]byte("postern health mailbox\x00" + string(db) + "\x00" + all[i].Identity))
	return org.MailboxRef{ID: org.MailboxID(sum[:16]), Database: db}, true
}

// HealthMailbox is where the health mailbox of a database is, which is made where
// it is not there. Errors: NotFound for a database that does not exist, Busy where
// the mailbox cannot be made or looked at now.
func (d *Directory) HealthMailbox(ctx context.Context, db org.DatabaseName) (org.MailboxRef, error) {
	at, ok := healthRef(d.state.View(), db)
	if !ok {
		return at, kind.Errorf(kind.NotFound, "health mailbox of %s: no such database", db)
	}
	if err := d.healthSetup(ctx, at); err != nil {
		return at, kind.Errorf(kind.Busy, "health mailbox of %s: %w", db, err)
	}
	return at, nil
}

// healthDestination is where mail for a health mailbox goes.
func (d *Directory) healthDestination(a mail.Address, now time.Time) (Destination, error) {
	db, _, ok := d.healthBox(a, now)
	if !ok {
		return Destination{}, kind.Errorf(kind.NotFound, "destination of %s: no such recipient", a)
	}
	at, ok := healthRef(d.state.View(), db)
	if !ok {
		return Destination{}, kind.Errorf(kind.NotFound, "destination of %s: no such database", a)
	}
	return Destination{Kind: KindMailbox, ID: at.ID, Mailbox: at, Address: a, Health: true}, nil
}

// healthLogin lets a probe of the group's own log in. False means that it is no
// such login, which then is judged like any other. The error is Busy where the
// mailbox cannot be made or looked at now.
func (d *Directory) healthLogin(ctx context.Context, login, password, service string, remote netip.Addr, now time.Time) (acc Account, is bool, err error) {
	o := d.opt.Health
	if !strings.HasSuffix(login, "@"+HealthDomain) || o.Near == nil || service == ServiceAdmin {
		return Account{}, false, nil
	}
	a, err := mail.ParseAddress(login)
	if err != nil {
		return Account{}, false, nil
	}
	db, hour, ok := d.healthBox(a, now)
	if !ok || !same(password, healthToken(o.Secret, "password", db, hour)) || !o.Near(remote) {
		return Account{}, false, nil
	}
	at, err := d.HealthMailbox(ctx, db)
	if kind.Is(err, kind.NotFound) {
		return Account{}, false, nil
	}
	if err != nil {
		return Account{}, true, err
	}
	return Account{ID: at.ID, Login: a, Name: a.String(), Mailbox: at, Health: true}, true, nil
}

// healthSetup makes a health mailbox that is not there.
func (d *Directory) healthSetup(ctx context.Context, at org.MailboxRef) error {
	if d.opt.Store == nil {
		return kind.Errorf(kind.Busy, "no store here")
	}
	_, err := d.opt.Store.Folders(ctx, at)
	if !kind.Is(err, kind.NotFound) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, setupWait)
	defer cancel()
	return d.opt.Store.Setup(ctx, at, mail.MailboxSetup{QuotaBytes: healthBytes, QuotaMessages: healthMessages})
}
