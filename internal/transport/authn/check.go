package authn

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

// Limit is the time all look-ups for one message may take.
const Limit = 10 * time.Second

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
	var r Results
	done := make(chan struct{})
	go func() { // ends with ctx at the latest
		defer close(done)
		r.MailFrom = checkMailFrom(ctx, c.d.Resolver, p.Remote, p.Helo, e.From)
		if e.From != "" {
			r.Helo = checkHelo(ctx, c.d.Resolver, p.Remote, p.Helo)
		}
	}()
	sigs, arc := c.d.Verify(ctx, msg)
	r.DKIM, r.ARC = sigs[:min(len(sigs), MaxSignatures)], arc
	<-done

	authors, err := Authors(msg)
	if err != nil {
		r.DMARC = DMARC{Result: PermError, Applied: DispositionNone, Why: clip(err.Error())}
		return r
	}
	w := &walker{r: c.d.Resolver, seen: map[string]site{}}
	all := make([]DMARC, 0, len(authors))
	for _, from := range authors {
		d, orgs := w.discover(ctx, from, identifiers(r.MailFrom, r.DKIM))
		m := Evaluate(from, d, orgs, r.MailFrom, r.DKIM)
		m.override(r.ARC, c.d.Trusted)
		all = append(all, m)
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

// discover looks up what Evaluate needs for one author domain (RFC 9989
// sections 4.10.1 and 4.10.2). A walk starts only from identifiers that lie
// under the author's organizational domain: the others can not be aligned.
func (w *walker) discover(ctx context.Context, from string, ids []string) (Discovery, Orgs) {
	sites, err := w.walk(ctx, from)
	if err != nil && len(sites) > 0 && sites[0].found {
		// The author's own record is the policy, whatever is above it.
		return Discovery{Domain: from, Record: sites[0].record, Err: sites[0].err}, nil
	}
	if err != nil {
		return Discovery{Fault: err}, nil
	}
	orgs := Orgs{from: organizational(from, sites)}
	s, ok := governing(from, orgs[from], sites)
	if !ok {
		return Discovery{}, orgs
	}
	d := Discovery{Domain: s.name, Record: s.record, Err: s.err}
	if d.Err != nil {
		return d, orgs
	}
	if d.Domain != from && d.Record.NonExistent != "" {
		exists, err := w.r.Exists(ctx, from)
		if err != nil {
			return Discovery{Fault: err}, orgs
		}
		d.Missing = !exists
	}
	for _, id := range ids {
		if _, known := orgs[id]; known || !under(id, orgs[from]) || d.Record.StrictSPF && d.Record.StrictDKIM {
			continue
		}
		if sites, err := w.walk(ctx, id); err == nil {
			orgs[id] = organizational(id, sites)
		}
	}
	return d, orgs
}
