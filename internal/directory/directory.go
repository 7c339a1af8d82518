package directory

import (
	"context"
	"fmt"
	"iter"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Config are the settings of the room. The zero value of a field means its
// default.
type Config struct {
	PasswordMinimum int `toml:"password_minimum" doc:"Least characters of a password that a person chooses." default:"8"`
}

// Validate reports the first setting that cannot work.
func (c Config) Validate() error {
	if c.PasswordMinimum < 0 || c.PasswordMinimum > maxPassword {
		return fmt.Errorf("directory password_minimum %d: want 1 to %d, or 0 for the default", c.PasswordMinimum, maxPassword)
	}
	return nil
}

// Options are the limits of a Directory and what it works with. Zero fields
// take the default.
type Options struct {
	Config
	// Store is where mailboxes are set up and purged. Without one that is
	// left to another server.
	Store  mail.Store
	Log    *slog.Logger
	Events *event.Log

	Hashes      int           // password hashes at once; default: CPUs, at most 4
	HashWaiters int           // logins that wait for one; default 256
	HashWait    time.Duration // how long they wait; default 10 s
	HashMemory  uint32        // KiB of memory of one argon2id hash; default 19456
	HashPasses  uint32        // default 2
	CacheTTL    time.Duration // how long a verified password is remembered; default 10 min
	CacheSize   int           // verified passwords remembered; default 32768
	Throttle    ThrottleOptions
	Health      HealthOptions

	Retention      time.Duration // how long a removed mailbox is kept; default 14 days
	ReconcileEvery time.Duration // default 1 min
	MaxDepth       int           // of groups within groups; default 16
	MaxExpansion   int           // recipients a group may expand to; default 10000
	MaxMembers     int           // direct members of a group; default 5000
	MaxAliases     int           // of a recipient; default and most 100: all go in one transaction
}

func (o Options) withDefaults() Options {
	def(&o.PasswordMinimum, 8)
	def(&o.Hashes, min(runtime.NumCPU(), 4))
	def(&o.HashWaiters, 256)
	def(&o.HashWait, 10*time.Second)
	def(&o.HashMemory, 19<<10)
	def(&o.HashPasses, 2)
	def(&o.CacheTTL, 10*time.Minute)
	def(&o.CacheSize, 32<<10)
	def(&o.Retention, 14*24*time.Hour)
	def(&o.ReconcileEvery, time.Minute)
	def(&o.MaxDepth, 16)
	def(&o.MaxExpansion, 10000)
	def(&o.MaxMembers, 5000)
	def(&o.MaxAliases, 100)
	o.MaxAliases = min(o.MaxAliases, 100)
	o.Throttle = o.Throttle.withDefaults()
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return o
}

// def sets a zero option to its default.
func def[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}

// Directory answers who is who. It is safe for concurrent use.
type Directory struct {
	state    State
	opt      Options
	rows     *rowCache
	hasher   *hasher
	verified *verified
	throttle *throttle
	flights  flights
	places   places

	toldThrottled atomic.Int64 // Unix nanoseconds of the last event
}

// New makes a directory over the agreed state. Look-ups and logins work
// without Run; Run does what is left over: setting up and purging mailboxes.
func New(s State, o Options) *Directory {
	o = o.withDefaults()
	return &Directory{
		state:    s,
		opt:      o,
		rows:     newRowCache(),
		hasher:   newHasher(o),
		verified: newVerified(o.CacheSize, o.CacheTTL),
		throttle: newThrottle(o.Throttle),
	}
}

// Hosted tells whether mail for the domain belongs here. The domain may be in
// any spelling.
func (d *Directory) Hosted(domain string) bool {
	if strings.EqualFold(domain, HealthDomain) {
		return len(d.opt.Health.Secret) > 0
	}
	_, ok := d.OrganizationOf(domain)
	return ok
}

// OrganizationOf tells which organization has the domain.
func (d *Directory) OrganizationOf(domain string) (org.OrganizationID, bool) {
	name, err := mail.NormalizeDomain(domain)
	if err != nil {
		return "", false
	}
	return organizationOf(d.state.View(), name)
}

func organizationOf(v View, domain string) (org.OrganizationID, bool) {
	dom, _, ok := row[Domain](v, domainKey(domain))
	if !ok {
		return "", false
	}
	return dom.Organization, true
}

// recipient reads a recipient of an organization.
func (d *Directory) recipient(v View, o org.OrganizationID, id org.MailboxID) (*Recipient, int64, bool) {
	key := recipientKey(o, id)
	it, ok := v.Get(key)
	if !ok {
		return nil, 0, false
	}
	r := d.rows.get(key, it)
	// A row under another organization's prefix would be a way across.
	if r == nil || r.Organization != o || r.ID != id {
		return nil, 0, false
	}
	return r, it.Revision, true
}

// recipients yields the recipients of an organization with their revisions.
func (d *Directory) recipients(v View, o org.OrganizationID) iter.Seq2[*Recipient, int64] {
	return func(yield func(*Recipient, int64) bool) {
		for key, it := range v.Prefix(recipientsOf(o)) {
			r := d.rows.get(key, it)
			if r == nil || r.Organization != o {
				continue
			}
			if !yield(r, it.Revision) {
				return
			}
		}
	}
}

// byAddress finds who has exactly this address, in the organization of its domain.
func (d *Directory) byAddress(v View, a mail.Address) (*Recipient, int64, bool) {
	if a.IsZero() || a.IsLiteral() {
		return nil, 0, false
	}
	o, ok := organizationOf(v, a.Domain)
	if !ok {
		return nil, 0, false
	}
	own, _, ok := row[owner](v, addressKey(a))
	if !ok || own.Organization != o {
		return nil, 0, false
	}
	return d.recipient(v, o, own.Recipient)
}

// Organizations lists the tenants. Only server administrators may see the result.
func (d *Directory) Organizations() []Organization {
	var out []Organization
	v := d.state.View()
	for key := range v.Prefix("organizations/") {
		if o, _, ok := row[Organization](v, key); ok {
			out = append(out, *o)
		}
	}
	return out
}

// Domains lists the domains of an organization.
func (d *Directory) Domains(o org.OrganizationID) []Domain {
	var out []Domain
	v := d.state.View()
	for key := range v.Prefix("domains/") {
		if dom, _, ok := row[Domain](v, key); ok && dom.Organization == o {
			out = append(out, *dom)
		}
	}
	return out
}

// Mailboxes lists the mailboxes of an organization, removed ones included.
func (d *Directory) Mailboxes(o org.OrganizationID) []Recipient {
	var out []Recipient
	for r := range d.recipients(d.state.View(), o) {
		if r.IsMailbox() && r.Type != TypeSystem {
			out = append(out, *r.clone())
		}
	}
	return out
}

// Groups lists the groups of an organization.
func (d *Directory) Groups(o org.OrganizationID) []Recipient {
	var out []Recipient
	for r := range d.recipients(d.state.View(), o) {
		if !r.IsMailbox() {
			out = append(out, *r.clone())
		}
	}
	return out
}

// ByID finds a recipient of an organization.
func (d *Directory) ByID(o org.OrganizationID, id org.MailboxID) (Recipient, bool) {
	r, _, ok := d.recipient(d.state.View(), o, id)
	if !ok {
		return Recipient{}, false
	}
	return *r.clone(), true
}

// ByAddress finds who has exactly this address, primary or alias.
func (d *Directory) ByAddress(a mail.Address) (Recipient, bool) {
	r, _, ok := d.byAddress(d.state.View(), a)
	if !ok {
		return Recipient{}, false
	}
	return *r.clone(), true
}

// Shared lists the mailboxes an account was given access to.
func (d *Directory) Shared(a Account) []Recipient {
	var out []Recipient
	if a.Organization == "" || a.Mailbox.Database == "" {
		return nil
	}
	for r := range d.recipients(d.state.View(), a.Organization) {
		if r.IsMailbox() && r.Deleted == nil && r.ID != a.ID && r.grant(a.ID).Access {
			out = append(out, *r.clone())
		}
	}
	return out
}

// Sync waits until look-ups here see every change confirmed anywhere before
// the call. Busy without quorum.
func (d *Directory) Sync(ctx context.Context) error { return d.state.Sync(ctx) }
