package report

import (
	"net/netip"
	"strings"
	"time"
	"unicode/utf8"
)

// Limits of what is counted in a day, for each kind of report.
const (
	maxDomains = 10_000
	maxRows    = 20_000
	maxBytes   = 8 << 20 // of rows
	// maxDomainRows keeps a domain from taking the place of all others, and its
	// report small.
	maxDomainRows = 2_000
	maxText       = 255 // bytes of a text that a stranger chose
	maxPolicy     = 50  // lines of a published policy
)

// tally is what was counted in one day.
type tally struct {
	day   time.Time
	dmarc map[string]*dmarcCount // by policy domain
	tls   map[string]*tlsCount   // by recipient domain

	rows, bytes       int // of dmarc
	tlsRows, tlsBytes int
	lost, lostTLS     uint64 // what no domain could be counted under
}

// dmarcCount is about one policy domain.
type dmarcCount struct {
	policy published
	rows   map[dmarcRow]uint64
	lost   uint64 // messages for which there was no row
}

// published is the policy that was seen last.
type published struct {
	P, SP, NP, ADKIM, ASPF, Testing string
}

// dmarcRow is what messages have in common that are counted together.
type dmarcRow struct {
	Source      netip.Addr `json:"source"`
	From        string     `json:"from"`
	Envelope    string     `json:"envelope,omitempty"`
	Disposition string     `json:"disposition"`
	DKIM        bool       `json:"dkim,omitempty"` // aligned and passed
	SPF         bool       `json:"spf,omitempty"`
	Reason      string     `json:"reason,omitempty"`
	Comment     string     `json:"comment,omitempty"`
	SPFDomain   string     `json:"spf_domain,omitempty"`
	SPFResult   string     `json:"spf_result,omitempty"`
	// Signatures are lines of domain, selector and result.
	Signatures string `json:"signatures,omitempty"`
}

func (d dmarcRow) size() int {
	return 100 + len(d.From) + len(d.Envelope) + len(d.Comment) + len(d.SPFDomain) + len(d.Signatures)
}

// tlsCount is about one recipient domain, by policy type.
type tlsCount struct {
	policies map[string]*tlsPolicy
}

// tlsPolicy counts sessions under a policy of one type.
type tlsPolicy struct {
	lines, hosts []string // as published last
	good         uint64
	failed       map[tlsFailure]uint64
}

// tlsFailure is what failed sessions have in common.
type tlsFailure struct {
	Result  string     `json:"result"`
	Source  netip.Addr `json:"source,omitzero"`
	Address netip.Addr `json:"address,omitzero"`
	Host    string     `json:"host,omitempty"`
}

func newTally(day time.Time) *tally {
	return &tally{day: day, dmarc: map[string]*dmarcCount{}, tls: map[string]*tlsCount{}}
}

func (t *tally) empty() bool { return len(t.dmarc) == 0 && len(t.tls) == 0 }

// domainDMARC finds the counters of a policy domain; nil: there are too many.
func (t *tally) domainDMARC(domain string) *dmarcCount {
	c := t.dmarc[domain]
	if c == nil && len(t.dmarc) < maxDomains {
		c = &dmarcCount{rows: map[dmarcRow]uint64{}}
		t.dmarc[domain] = c
	}
	return c
}

// addDMARC counts n messages of a policy domain.
func (t *tally) addDMARC(c *dmarcCount, row dmarcRow, n uint64) {
	if _, ok := c.rows[row]; !ok {
		if t.rows >= maxRows || len(c.rows) >= maxDomainRows || t.bytes+row.size() > maxBytes {
			c.lost += n
			return
		}
		t.rows++
		t.bytes += row.size()
	}
	c.rows[row] += n
}

// policyTLS finds the counters of a domain and policy type; nil: there are too
// many.
func (t *tally) policyTLS(domain, policy string) *tlsPolicy {
	c := t.tls[domain]
	if c == nil {
		if len(t.tls) >= maxDomains {
			return nil
		}
		c = &tlsCount{policies: map[string]*tlsPolicy{}}
		t.tls[domain] = c
	}
	p := c.policies[policy]
	if p == nil {
		p = &tlsPolicy{failed: map[tlsFailure]uint64{}}
		c.policies[policy] = p
	}
	return p
}

// addTLS counts n failed sessions. Where there is no place for their
// particulars they are counted by the result alone.
func (t *tally) addTLS(p *tlsPolicy, f tlsFailure, n uint64) {
	if _, ok := p.failed[f]; !ok {
		size := 100 + len(f.Host)
		if t.tlsRows >= maxRows || len(p.failed) >= maxDomainRows || t.tlsBytes+size > maxBytes {
			f = tlsFailure{Result: f.Result}
		} else {
			t.tlsRows++
			t.tlsBytes += size
		}
	}
	p.failed[f] += n
}

// setPolicy keeps what is published, if there is place for it.
func (t *tally) setPolicy(p *tlsPolicy, lines, hosts []string) {
	size := 0
	for _, s := range p.lines {
		size -= len(s)
	}
	for _, s := range p.hosts {
		size -= len(s)
	}
	lines, hosts = cut(lines), cut(hosts)
	for _, s := range lines {
		size += len(s)
	}
	for _, s := range hosts {
		size += len(s)
	}
	if t.tlsBytes+size <= maxBytes {
		t.tlsBytes += size
		p.lines, p.hosts = lines, hosts
	}
}

// cut bounds a list of texts.
func cut(all []string) []string {
	var out []string
	for _, s := range all[:min(len(all), maxPolicy)] {
		out = append(out, plain(s))
	}
	return out
}

// plain bounds a text that a stranger chose and takes out what is none.
func plain(s string) string {
	if len(s) > maxText {
		s = s[:maxText]
		for len(s) > 0 {
			if r, n := utf8.DecodeLastRuneInString(s); r != utf8.RuneError || n != 1 {
				break
			}
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
}
