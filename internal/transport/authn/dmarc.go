package authn

import (
	"fmt"
	"strings"
)

// Discovery is what the look-ups for one author domain found.
type Discovery struct {
	Domain  string // where the record was found, empty if there is none
	Record  DMARCRecord
	Missing bool  // the author domain does not exist; known only if the record has np
	Err     error // of the record; it can not be used
	Fault   error // of the DNS; nothing is known
}

// Orgs knows organizational domains. A domain that is not in it could not be
// looked up.
type Orgs map[string]string

// Alignment of an identifier with the author domain.
type alignment uint8

const (
	apart alignment = iota
	aligned
	unknown // the look-up failed
)

// alignedWith compares an authenticated domain with the author's (RFC 9989
// section 4.4).
func alignedWith(from, domain string, strict bool, orgs Orgs) alignment {
	switch {
	case domain == "":
		return apart
	case domain == from:
		return aligned
	case strict:
		return apart
	}
	org, known := orgs[from]
	if !known {
		return unknown
	}
	if !under(domain, org) {
		return apart // its organizational domain is above it, so it is another one
	}
	other, known := orgs[domain]
	switch {
	case !known:
		return unknown
	case other == org:
		return aligned
	}
	return apart
}

// Evaluate decides DMARC for one author domain (RFC 9989 section 5.3): pass if
// one identifier passed and is aligned, temperror if one could still have, and
// else fail with the policy its owner asks for. Domains are in A-labels.
func Evaluate(from string, d Discovery, orgs Orgs, s SPF, sigs []DKIM) DMARC {
	out := DMARC{From: from, Org: orgs[from], Domain: d.Domain, Record: d.Record, Applied: DispositionNone}
	switch {
	case d.Fault != nil:
		out.Result, out.Why = TempError, clip(d.Fault.Error())
		return out
	case d.Err != nil:
		out.Result, out.Why = PermError, clip(d.Err.Error())
		return out
	case d.Domain == "":
		out.Result, out.Why = None, "no policy record"
		return out
	}
	out.Published = d.Record.For(d.Domain != from, d.Missing)
	doubt := ""
	weigh := func(r Result, domain string, strict bool, what string) bool {
		if r != Pass && r != TempError {
			return false
		}
		a := alignedWith(from, domain, strict, orgs)
		if a == unknown || a == aligned && r == TempError {
			doubt = what
		}
		return a == aligned && r == Pass
	}
	out.SPFAligned = weigh(s.Result, s.Domain, d.Record.StrictSPF, "spf")
	for _, sig := range sigs {
		if weigh(sig.Result, asciiDomain(sig.Domain), d.Record.StrictDKIM, "dkim") {
			out.DKIMAligned = true
		}
	}
	switch {
	case out.SPFAligned || out.DKIMAligned:
		out.Result = Pass
	case doubt != "":
		out.Result, out.Why = TempError, doubt+" could not be looked up"
	default:
		out.Result, out.Applied = Fail, out.Published
		if d.Record.Testing {
			out.Applied = out.Published.weaker()
		}
	}
	return out
}

// worst picks the outcome that decides for a message: any author domain that
// fails, with the strictest policy of those, then doubt, then no policy.
func worst(all []DMARC) (first DMARC, others []DMARC) {
	order := map[Result]int{Fail: 4, TempError: 3, PermError: 2, None: 1, Pass: 0}
	at := 0
	for i, d := range all {
		a, b := order[d.Result], order[all[at].Result]
		if a > b || a == b && d.Applied.rank() > all[at].Applied.rank() {
			at = i
		}
	}
	for i, d := range all {
		if i != at {
			others = append(others, d)
		}
	}
	return all[at], others
}

// override honours the word of a sealer that is trusted (RFC 8617 section
// 7.2.1; RFC 9989 section 5.4): its chain is intact and it saw DMARC pass for
// the same author domain. Only the newest sealer counts: whoever sealed before
// it could have been changed after.
func (d *DMARC) override(a ARC, trusted func(sealer string) bool) {
	if d.Result != Fail || a.Result != Pass || a.Sealer == "" || !trusted(asciiDomain(a.Sealer)) {
		return
	}
	seen, err := ParseAuthResults(a.Results)
	if err != nil {
		return
	}
	for _, m := range seen.Methods {
		if m.Name == "dmarc" && m.Result == Pass && asciiDomain(m.Get("header", "from")) == d.From {
			d.Applied, d.Override = DispositionNone, "arc"
			d.Why = fmt.Sprintf("sealed by %s, which saw it pass", strings.ToLower(clip(a.Sealer)))
			return
		}
	}
}
