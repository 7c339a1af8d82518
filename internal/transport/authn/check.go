package authn

import (
	"context"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

// Limit is the time all look-ups for one message may take.
const Limit = 10 * time.Second

// strangers is the part of it for look-ups whose servers the sender chose: SPF
// and the keys of signatures. The policy of the author's domain is looked up
// beside them, and what is left is for comparing. Otherwise slow servers of a
// sender would turn the fail of somebody else's policy into temperror.
const strangers = 7 * time.Second

// MaxSignatures is how many signatures of a message are weighed.
const MaxSignatures = 10

// Deps are what a Checker needs; all of them.
type Deps struct {
	Resolver Resolver
	// Verify verifies the signatures and the chain of a message. It has to end
	// when the context does, with temperror for what was not done by then.
	Verify func(ctx context.Context, msg []byte) ([]DKIM, ARC)
	// Trusted reports whether the word of a sealer (A-labels, lower case)
	// overrides a policy.
	Trusted func(sealer string) bool
}

// Checker checks messages.
type Checker struct{ d Deps }

// New makes a Checker.
func New(d Deps) *Checker { return &Checker{d: d} }

// Check finds out who a message is from. It never fails: what could not be
// found out in time is temperror in the Results.
func (c *Checker) Check(ctx context.Context, p mail.Peer, e mail.Envelope, msg []byte) Results {
	ctx, cancel := context.WithTimeout(ctx, Limit)
	defer cancel()
	slow, cancelSlow := context.WithTimeout(ctx, strangers)
	defer cancelSlow()
	var r Results
	var wg sync.WaitGroup // all of it ends with slow
	wg.Go(func() {
		r.MailFrom = checkMailFrom(slow, c.d.Resolver, p.Remote, p.Helo, e.From)
		if e.From != "" {
			r.Helo = checkHelo(slow, c.d.Resolver, p.Remote, p.Helo)
		}
	})
	wg.Go(func() {
		sigs, arc := c.d.Verify(slow, msg)
		r.DKIM, r.ARC = sigs[:min(len(sigs), MaxSignatures)], arc
	})
	authors, err := Authors(msg)
	w := &walker{r: c.d.Resolver, seen: map[string]site{}}
	found := make([]Discovery, len(authors))
	orgs := Orgs{}
	for i, from := range authors {
		found[i] = w.discover(ctx, from, orgs)
	}
	wg.Wait()
	if err != nil {
		r.DMARC = DMARC{Result: PermError, Applied: DispositionNone, Why: clip(err.Error())}
		return r
	}
	ids := identifiers(r.MailFrom, r.DKIM)
	all := make([]DMARC, len(authors))
	for i, from := range authors {
		w.compare(ctx, from, found[i].Record, ids, orgs)
		all[i] = Evaluate(from, found[i], orgs, r.MailFrom, r.DKIM)
		all[i].override(r.ARC, c.d.Trusted)
	}
	r.DMARC, r.Others = worst(all)
	return r
}

// identifiers are the domains whose alignment can matter.
func identifiers(s SPF, sigs []DKIM) []string {
	var out []string
	if s.Domain != "" && (s.Result == Pass || s.Result == TempError) {
		out = append(out, s.Domain)
	}
	for _, sig := range sigs {
		if d := asciiDomain(sig.Domain); d != "" && (sig.Result == Pass || sig.Result == TempError) {
			out = append(out, d)
		}
	}
	return out
}

// discover looks up the policy for an author domain, and its organizational
// domain (RFC 9989 sections 4.10.1 and 4.10.2).
func (w *walker) discover(ctx context.Context, from string, orgs Orgs) Discovery {
	sites, err := w.walk(ctx, from)
	if err != nil {
		if len(sites) == 0 || !sites[0].found {
			return Discovery{Fault: err}
		}
		// The author's own record is the policy, whatever is above it.
		return Discovery{Domain: from, Record: sites[0].record, Err: sites[0].err}
	}
	orgs[from] = organizational(from, sites)
	s, ok := governing(from, orgs[from], sites)
	if !ok {
		return Discovery{}
	}
	d := Discovery{Domain: s.name, Record: s.record, Err: s.err}
	if d.Err == nil && d.Domain != from && d.Record.NonExistent != "" {
		exists, err := w.r.Exists(ctx, from)
		if err != nil {
			return Discovery{Fault: err}
		}
		d.Missing = !exists
	}
	return d
}

// compare looks up the organizational domains of identifiers that lie under
// the author's: the others can not be aligned, so nothing is asked for them.
func (w *walker) compare(ctx context.Context, from string, rec DMARCRecord, ids []string, orgs Orgs) {
	for _, id := range ids {
		if _, known := orgs[id]; known || !under(id, orgs[from]) || rec.StrictSPF && rec.StrictDKIM {
			continue
		}
		if sites, err := w.walk(ctx, id); err == nil {
			orgs[id] = organizational(id, sites)
		}
	}
}
