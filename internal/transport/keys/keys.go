package keys

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/sign"
)

// The algorithms of keys.
const (
	RSA     = "rsa-2048"
	Ed25519 = "ed25519"
)

// Algorithms are those a domain gets where nothing else is said.
func Algorithms() []string { return []string{RSA, Ed25519} }

// maxDomains bounds how many domains' signers are kept ready.
const maxDomains = 10_000

var (
	eventChanged = event.Define(1765, "dkim_key", slog.LevelInfo, "A DKIM key began or stopped to sign, or was removed.",
		"Remove the DNS record of a key that was removed.")
	eventUnusable = event.Define(1766, "dkim_key_unusable", slog.LevelError,
		"A DKIM key cannot be opened; mail of its domain leaves without its signature.",
		"Make another with postern dkim rotate.")
)

// Group is the agreed state and the group's key; *cluster.Cluster is one.
type Group interface {
	settings.Agreed
	SealSecret(purpose string, plain []byte) ([]byte, error)
	OpenSecret(purpose string, sealed []byte) ([]byte, error)
}

// TXT asks DNS for text records; *dns.Resolver has it.
type TXT interface {
	TXT(ctx context.Context, name string) ([]string, dns.Info, error)
}

// Deps is what Keys works with.
type Deps struct {
	Group    Group
	Book     *settings.Book
	Resolver TXT
	Log      *slog.Logger
	Events   *event.Log
	Now      func() time.Time // guarded time; nil: time.Now
}

// Keys makes, rotates and hands out DKIM keys. It is safe for concurrent use.
type Keys struct {
	d Deps

	mu      sync.RWMutex // guards ready
	ready   map[string]signers
	opening sync.Mutex // guards open
	open    map[string]opened
	made    chan struct{} // has room for one: keys were made
}

// signers are the keys that sign for a domain, made from the rows of one moment.
type signers struct {
	rows []settings.DKIMKey // as the book gave them
	keys []sign.Key
}

type opened struct {
	sealed []byte
	signer crypto.Signer // nil: cannot be opened, and that was said
}

// New makes Keys; it starts nothing.
func New(d Deps) *Keys {
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Now == nil {
		d.Now = time.Now
	}
	return &Keys{d: d, ready: map[string]signers{}, open: map[string]opened{}, made: make(chan struct{}, 1)}
}

func purpose(domain, selector string) string { return "dkim " + domain + " " + selector }

// Signers are the keys that sign for a domain, none where it has none. The
// domain is in small letters. Nobody changes what the result holds.
func (k *Keys) Signers(domain string) []sign.Key {
	rows := k.d.Book.Keys(domain)
	if len(rows) == 0 {
		return nil
	}
	k.mu.RLock()
	have, ok := k.ready[domain]
	k.mu.RUnlock()
	// The book gives the same list as long as nothing changed.
	if ok && len(have.rows) == len(rows) && &have.rows[0] == &rows[0] {
		return have.keys
	}
	var out []sign.Key
	for _, row := range rows {
		if row.State != settings.DKIMSigning {
			continue
		}
		if s := k.signer(row); s != nil {
			out = append(out, sign.Key{Domain: row.Domain, Selector: row.Selector, Signer: s})
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	bounded(k.ready, maxDomains)
	k.ready[domain] = signers{rows, out}
	return out
}

// signer opens a key, once for as long as it stays the same.
func (k *Keys) signer(row settings.DKIMKey) crypto.Signer {
	name := settings.KeyOf(row.Domain, row.Selector)
	k.opening.Lock()
	defer k.opening.Unlock()
	if have, ok := k.open[name]; ok && bytes.Equal(have.sealed, row.Sealed) {
		return have.signer
	}
	s, err := k.unseal(row)
	if err != nil {
		k.d.Events.Emit(eventUnusable, "DKIM key %s of %s: %v", row.Selector, row.Domain, err)
	}
	bounded(k.open, 2*maxDomains)
	k.open[name] = opened{row.Sealed, s}
	return s
}

func (k *Keys) unseal(row settings.DKIMKey) (crypto.Signer, error) {
	der, err := k.d.Group.OpenSecret(purpose(row.Domain, row.Selector), row.Sealed)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, kind.Errorf(kind.Corrupt, "read: %w", err)
	}
	switch s := key.(type) {
	case *rsa.PrivateKey:
		return s, nil
	case ed25519.PrivateKey:
		return s, nil
	}
	return nil, kind.Errorf(kind.Corrupt, "read: a %T signs no mail", key)
}

// bounded makes room for one more.
func bounded[V any](m map[string]V, most int) {
	if len(m) < most {
		return
	}
	for name := range m { // any one
		delete(m, name)
		return
	}
}

// generate makes a key and its record.
func (k *Keys) generate(domain, selector, algorithm string, now time.Time) (settings.DKIMKey, error) {
	row := settings.DKIMKey{Domain: domain, Selector: selector, Algorithm: algorithm, State: settings.DKIMPublishing, Created: now, Since: now}
	var s crypto.Signer
	var err error
	switch algorithm {
	case RSA:
		s, err = rsa.GenerateKey(rand.Reader, 2048)
	case Ed25519:
		_, s, err = ed25519.GenerateKey(rand.Reader)
	default:
		return row, kind.Errorf(kind.Invalid, "algorithm %.40q is not one of %s, %s", algorithm, RSA, Ed25519)
	}
	if err != nil {
		return row, fmt.Errorf("make dkim key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(s)
	if err != nil {
		return row, fmt.Errorf("make dkim key: %w", err)
	}
	if row.Public, err = sign.FormatKeyRecord(s.Public()); err != nil {
		return row, err
	}
	row.Sealed, err = k.d.Group.SealSecret(purpose(domain, selector), der)
	return row, err
}

// Create makes a key for a domain, for each algorithm (none: RSA and Ed25519).
// They begin to sign when DNS has answered with their records for an hour. A selector
// may be given where there is one algorithm. Errors: Exists, Invalid, Full.
func (k *Keys) Create(ctx context.Context, domain, selector string, algorithms ...string) ([]settings.DKIMKey, error) {
	if len(algorithms) == 0 {
		algorithms = Algorithms()
	}
	if selector != "" && len(algorithms) != 1 {
		return nil, kind.WithHint(kind.Errorf(kind.Invalid, "one selector cannot name keys of %d algorithms", len(algorithms)), "give one algorithm, or no selector")
	}
	if name, err := mail.NormalizeDomain(domain); err != nil || name != domain {
		return nil, kind.Errorf(kind.Invalid, "domain %.80q is no domain name in small letters", domain)
	}
	now := k.d.Now().UTC().Truncate(time.Second)
	made := map[string]settings.DKIMKey{} // a change that is tried again makes no new keys
	var out []settings.DKIMKey
	err := settings.Change(ctx, k.d.Group, func(v *cluster.View, t *settings.Txn) error {
		out = nil
		if n := count(v, domain); n+len(algorithms) > settings.MaxKeys {
			return kind.WithHint(kind.Errorf(kind.Full, "domain %s has %d dkim keys, the most is %d", domain, n, settings.MaxKeys), "postern dkim remove")
		}
		for _, a := range algorithms {
			name := selector
			if name == "" {
				name = free(v, domain, a, now)
			} else if _, taken := v.Get(settings.KeyOf(domain, name)); taken {
				return kind.Errorf(kind.Exists, "dkim key %s of %s exists", name, domain)
			}
			row, ok := made[a+name]
			if !ok {
				var err error
				if row, err = k.generate(domain, name, a, now); err != nil {
					return err
				}
				if err := row.Validate(); err != nil {
					return err
				}
				made[a+name] = row
			}
			if err := t.Put(settings.KeyOf(domain, name), 0, row); err != nil {
				return err
			}
			out = append(out, row)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("create dkim key for %s: %w", domain, err)
	}
	select {
	case k.made <- struct{}{}:
	default: // Run will look anyway
	}
	return out, nil
}

func count(v *cluster.View, domain string) (n int) {
	for range v.Prefix(settings.DKIMPrefix + domain + "/") {
		n++
	}
	return n
}

// free finds a selector that names the day, the algorithm and nothing else: one
// that was used before would stand for another key in caches.
func free(v *cluster.View, domain, algorithm string, now time.Time) string {
	base := "p" + now.Format("20060102") + algorithm[:1]
	name := base
	for i := 2; ; i++ {
		if _, taken := v.Get(settings.KeyOf(domain, name)); !taken {
			return name
		}
		name = fmt.Sprintf("%s%d", base, i)
	}
}

// Rotate makes the next key for each algorithm that a domain signs with. The
// present ones sign until the next do. Conflict where keys are being published
// already.
func (k *Keys) Rotate(ctx context.Context, domain string) ([]settings.DKIMKey, error) {
	if err := k.d.Group.Sync(ctx); err != nil {
		return nil, fmt.Errorf("rotate dkim keys of %s: %w", domain, err)
	}
	var algorithms []string
	signing := map[string]bool{}
	for _, row := range k.d.Book.Keys(domain) {
		switch {
		case row.State == settings.DKIMPublishing:
			return nil, kind.WithHint(kind.Errorf(kind.Conflict, "rotate dkim keys of %s: %s waits for its DNS record already", domain, row.Selector),
				"postern domain dns "+domain)
		case row.State == settings.DKIMSigning && !signing[row.Algorithm]:
			signing[row.Algorithm] = true
			algorithms = append(algorithms, row.Algorithm)
		}
	}
	if len(algorithms) == 0 {
		return nil, kind.WithHint(kind.Errorf(kind.NotFound, "rotate dkim keys of %s: none signs", domain), "postern dkim create "+domain)
	}
	return k.Create(ctx, domain, "", algorithms...)
}

// Remove deletes a key at once; a message on its way that it signed cannot be
// verified when its DNS record goes too.
func (k *Keys) Remove(ctx context.Context, domain, selector string) error {
	key := settings.KeyOf(domain, selector)
	return settings.Change(ctx, k.d.Group, func(v *cluster.View, t *settings.Txn) error {
		it, ok := v.Get(key)
		if !ok {
			return kind.WithHint(kind.Errorf(kind.NotFound, "dkim key %s of %s: no such key", selector, domain), "postern dkim list "+domain)
		}
		t.Drop(key, it.Revision)
		return nil
	})
}
