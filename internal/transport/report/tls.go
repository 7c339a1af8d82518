package report

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// Session is how TLS of one session with a host went, or why there was none.
type Session struct {
	Domain string // of the recipients
	// Policy is a policy-type and Result a result-type of RFC 8460 section 4,
	// or "success".
	Policy, Result string
	// Published is the policy, line by line or record by record, and Hosts are
	// those it names; empty where they are not known.
	Published, Hosts []string
	// Host is the host that was spoken to, Address where, Source from where; as
	// far as it came to that.
	Host            string
	Address, Source netip.Addr
}

// The types of RFC 8460 sections 4.2.1 and 4.3. Others are reported as the
// general one.
var (
	policyTypes = []string{"tlsa", "sts", "no-policy-found"}
	resultTypes = []string{"starttls-not-supported", "certificate-host-mismatch", "certificate-not-trusted", "certificate-expired",
		"validation-failure", "tlsa-invalid", "dnssec-invalid", "dane-required", "sts-policy-fetch-error", "sts-policy-invalid", "sts-webpki-invalid"}
)

const success = "success"

// NoteTLS counts a session. It does not wait.
func (r *Reporter) NoteTLS(s Session) {
	domain, err := mail.NormalizeDomain(s.Domain)
	if err != nil || strings.HasPrefix(domain, "[") || !r.wants(r.d.Settings().TLSReports) {
		return // literals publish nothing
	}
	if !slices.Contains(policyTypes, s.Policy) {
		s.Policy = "no-policy-found"
	}
	if s.Result != success && !slices.Contains(resultTypes, s.Result) {
		s.Result = "validation-failure"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty = true
	p := r.today.policyTLS(domain, s.Policy)
	if p == nil {
		if r.today.lostTLS++; r.today.lostTLS == 1 {
			r.d.Log.Warn("sessions with more domains than can be reported on; the others are left out today", "domains", maxDomains)
		}
		return
	}
	if len(s.Published) > 0 || len(s.Hosts) > 0 {
		r.today.setPolicy(p, s.Published, s.Hosts)
	}
	if s.Result == success {
		p.good++
		return
	}
	r.today.addTLS(p, tlsFailure{Result: s.Result, Source: address(s.Source), Address: address(s.Address), Host: plain(s.Host)}, 1)
}

func address(a netip.Addr) netip.Addr { return a.Unmap().WithZone("") }

// tlsReport is the report (RFC 8460 section 4.4).
type tlsReport struct {
	Organization string           `json:"organization-name"`
	Range        tlsRange         `json:"date-range"`
	Contact      string           `json:"contact-info"`
	ID           string           `json:"report-id"`
	Policies     []tlsPolicyShown `json:"policies"`
}

type tlsRange struct {
	Start time.Time `json:"start-datetime"`
	End   time.Time `json:"end-datetime"`
}

type tlsPolicyShown struct {
	Policy struct {
		Type    string   `json:"policy-type"`
		Strings []string `json:"policy-string,omitempty"`
		Domain  string   `json:"policy-domain"`
		Hosts   []string `json:"mx-host,omitempty"`
	} `json:"policy"`
	Summary struct {
		Good   uint64 `json:"total-successful-session-count"`
		Failed uint64 `json:"total-failure-session-count"`
	} `json:"summary"`
	Failures []tlsFailureShown `json:"failure-details,omitempty"`
}

type tlsFailureShown struct {
	Result  string     `json:"result-type"`
	Source  netip.Addr `json:"sending-mta-ip,omitzero"`
	Host    string     `json:"receiving-mx-hostname,omitempty"`
	Address netip.Addr `json:"receiving-ip,omitzero"`
	Count   uint64     `json:"failed-session-count"`
}

// tlsDocument writes the report of a day about a recipient domain.
func (r *Reporter) tlsDocument(day time.Time, domain string, c *tlsCount) ([]byte, error) {
	out := tlsReport{Organization: r.d.Hostname, Contact: r.d.Contact, ID: r.identity("tls", day, domain),
		Range: tlsRange{day, day.Add(aDay - time.Second)}, Policies: []tlsPolicyShown{}}
	for _, kind := range slices.Sorted(maps.Keys(c.policies)) {
		p := c.policies[kind]
		var s tlsPolicyShown
		s.Policy.Type, s.Policy.Domain, s.Policy.Strings, s.Policy.Hosts = kind, domain, p.lines, p.hosts
		s.Summary.Good = p.good
		for _, f := range slices.SortedFunc(maps.Keys(p.failed), compareFailures) {
			n := p.failed[f]
			s.Summary.Failed += n
			s.Failures = append(s.Failures, tlsFailureShown{Result: f.Result, Source: f.Source, Host: f.Host, Address: f.Address, Count: n})
		}
		out.Policies = append(out.Policies, s)
	}
	b, err := json.MarshalIndent(out, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write the TLS report for %s: %w", domain, err)
	}
	return append(b, '\n'), nil
}

func compareFailures(a, b tlsFailure) int {
	return cmp.Or(strings.Compare(a.Result, b.Result), strings.Compare(a.Host, b.Host), a.Address.Compare(b.Address), a.Source.Compare(b.Source))
}

// sendTLS sends the report of a day about a recipient domain to all it names.
// Busy: some of it has to be tried again.
func (r *Reporter) sendTLS(ctx context.Context, day time.Time, domain string, c *tlsCount) (int, error) {
	to, err := r.readersTLS(ctx, domain)
	if err != nil || len(to) == 0 {
		return 0, err
	}
	doc, err := r.tlsDocument(day, domain, c)
	if err != nil {
		return 0, err
	}
	packed, err := pack(doc)
	if err != nil {
		return 0, err
	}
	id := r.identity("tls", day, domain)
	l := letter{id: id, day: day, domain: domain, file: r.fileName(day, domain, id, "json.gz"), mediaType: "application/tlsrpt+gzip",
		kind: "report; report-type=tlsrpt", data: packed, extra: [][2]string{{"TLS-Report-Domain", domain}, {"TLS-Report-Submitter", r.d.Hostname},
			// What it reports must not keep it away (RFC 8460 section 3, RFC
			// 8689 section 5).
			{"TLS-Required", "No"}},
		text: fmt.Sprintf("This is an aggregate TLS report (RFC 8460) about mail to %s\r\nthat %s sent on %s (UTC).\r\n", domain, r.d.Hostname, day.Format(time.DateOnly))}
	sent := 0
	var problems []error
	for _, t := range to {
		if t.web {
			err = r.post(ctx, t.address, "application/tlsrpt+gzip", packed)
		} else if a, aerr := mail.ParseAddress(t.address); aerr == nil {
			err = r.mail(ctx, l, a)
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		sent++
	}
	if sent == 0 && len(problems) > 0 {
		return 0, kind.Errorf(kind.Busy, "send the TLS report for %s: %w", domain, errors.Join(problems...))
	}
	for _, err := range problems { // another reader has it: it is not sent twice
		r.d.Log.Info("a TLS report did not reach all its readers", "domain", domain, "err", err)
	}
	return sent, nil
}
