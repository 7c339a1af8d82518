package keys

import (
	"context"
	"crypto"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/sign"
)

const (
	// turn is how often keys are looked at.
	turn = time.Hour
	// askWait bounds one question to DNS.
	askWait = 20 * time.Second
)

// Run looks at all keys every hour, more often where a key has to wait for less,
// and a minute after it starts or a key was made here. Every server may run it:
// each change is a compare and swap.
func (k *Keys) Run(ctx context.Context) error {
	wait := time.Minute
	for {
		t := time.NewTimer(wait + rand.N(wait/10)) // servers take turns
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-k.made:
			t.Stop()
			wait = min(wait, time.Minute, k.settled())
			continue
		case <-t.C:
		}
		k.Turn(ctx)
		wait = turn
		if slices.ContainsFunc(k.d.Book.AllKeys(), func(row settings.DKIMKey) bool { return row.State == settings.DKIMPublishing }) {
			wait = min(turn, k.settled())
		}
	}
}

// settled is how long DNS has to answer with a record before its key signs.
func (k *Keys) settled() time.Duration { return k.d.Book.Group().DKIMWait.Std() }

// Turn looks at all keys once: DNS is asked for those that wait for it.
func (k *Keys) Turn(ctx context.Context) {
	all := k.d.Book.AllKeys()
	for len(all) > 0 && ctx.Err() == nil {
		// The rows are in the order of their keys: one domain after the other.
		n := slices.IndexFunc(all, func(row settings.DKIMKey) bool { return row.Domain != all[0].Domain })
		if n < 0 {
			n = len(all)
		}
		k.Check(ctx, all[0].Domain)
		all = all[n:]
	}
}

// Check looks at the keys of one domain now.
func (k *Keys) Check(ctx context.Context, domain string) {
	rows := k.d.Book.Keys(domain)
	published := map[string]Presence{}
	for _, row := range rows {
		if row.State == settings.DKIMPublishing {
			published[row.Selector] = k.Published(ctx, row)
		}
	}
	now := k.d.Now().UTC().Truncate(time.Second)
	if len(Rotate(rows, published, k.settled(), now)) == 0 {
		return
	}
	var steps []Step
	err := settings.Change(ctx, k.d.Group, func(v *cluster.View, t *settings.Txn) error {
		rows, revisions := read(v, domain)
		steps = Rotate(rows, published, k.settled(), now)
		for _, s := range steps {
			key := settings.KeyOf(domain, s.Key.Selector)
			if s.Remove {
				t.Drop(key, revisions[s.Key.Selector])
			} else if err := t.Put(key, revisions[s.Key.Selector], s.Key); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		k.d.Log.Warn("dkim keys are looked at again later", "domain", domain, "error", err)
		return
	}
	for _, s := range steps {
		switch {
		case s.Remove:
			k.d.Events.Emit(eventChanged, "DKIM key %s of %s is removed: %s", s.Key.Selector, domain, s.Why)
		case s.Key.State != settings.DKIMPublishing:
			k.d.Events.Emit(eventChanged, "DKIM key %s of %s is %s: %s", s.Key.Selector, domain, s.Key.State, s.Why)
		}
	}
}

// read is what Book.Keys gives, of a given view and with revisions.
func read(v *cluster.View, domain string) ([]settings.DKIMKey, map[string]int64) {
	var out []settings.DKIMKey
	revisions := map[string]int64{}
	for key := range v.Prefix(settings.DKIMPrefix + domain + "/") {
		row, rev, err := settings.Read[settings.DKIMKey](v, key)
		if err != nil || row.Validate() != nil || settings.KeyOf(row.Domain, row.Selector) != key {
			continue
		}
		out = append(out, row)
		revisions[row.Selector] = rev
	}
	return out, revisions
}

// RecordName is where the record of a key belongs (RFC 6376 section 3.6.2.1).
func RecordName(row settings.DKIMKey) string { return row.Selector + "._domainkey." + row.Domain }

// Published asks DNS whether it has the record of a key.
func (k *Keys) Published(ctx context.Context, row settings.DKIMKey) Presence {
	ctx, cancel := context.WithTimeout(ctx, askWait)
	defer cancel()
	texts, _, err := k.d.Resolver.TXT(ctx, RecordName(row))
	switch {
	case kind.Is(err, kind.NotFound):
		return Absent
	case err != nil:
		return Unknown
	case slices.ContainsFunc(texts, func(s string) bool { return sameKey(s, row.Public) }):
		return Present
	}
	return Absent
}

// sameKey tells whether two records are of one key, however they are written.
func sameKey(a, b string) bool {
	x, err := sign.ParseKeyRecord(a)
	if err != nil || x.Public == nil {
		return false
	}
	y, err := sign.ParseKeyRecord(b)
	if err != nil {
		return false
	}
	if x.Algorithm != y.Algorithm {
		return false
	}
	p, ok := x.Public.(interface{ Equal(x crypto.PublicKey) bool })
	return ok && p.Equal(y.Public)
}
