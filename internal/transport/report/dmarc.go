package report

import (
	"cmp"
	"context"
	"encoding/xml"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/authn"
)

// Observation is what became of a message whose author domain has a DMARC
// policy.
type Observation struct {
	Time    time.Time
	Remote  netip.Addr
	From    string // envelope sender, as written
	Results authn.Results
	// Disposition is what was done for DMARC's sake.
	Disposition authn.Disposition
	// Override is why it is not what was asked for: "arc" or "local_policy";
	// empty where it is.
	Override string
}

// NoteDMARC counts a message for the reports of the domains whose policies
// applied, if they ask for some. It does not wait.
func (r *Reporter) NoteDMARC(o Observation) {
	if !o.Remote.IsValid() || !r.wants(r.d.Settings().DMARCReports) {
		return
	}
	for _, d := range append([]authn.DMARC{o.Results.DMARC}, o.Results.Others...) {
		// The name stands in a file name and a subject: nothing but a domain does.
		domain, err := mail.NormalizeDomain(d.Domain)
		if err != nil || domain != d.Domain || strings.HasPrefix(domain, "[") || len(d.Record.Reports) == 0 || d.Result == authn.None {
			continue
		}
		r.noteDMARC(domain, policyOf(d.Record), rowOf(o, d))
	}
}

func (r *Reporter) noteDMARC(domain string, p published, row dmarcRow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dirty = true
	c := r.today.domainDMARC(domain)
	if c == nil {
		if r.today.lost++; r.today.lost == 1 {
			r.d.Log.Warn("mail of more domains than can be reported on; the others are left out today", "domains", maxDomains)
		}
		return
	}
	c.policy = p
	r.today.addDMARC(c, row, 1)
}

func policyOf(rec authn.DMARCRecord) published {
	letter := func(yes bool, y, n string) string { return map[bool]string{true: y, false: n}[yes] }
	p := published{P: string(rec.Policy), SP: string(rec.Subdomains), NP: string(rec.NonExistent),
		ADKIM: letter(rec.StrictDKIM, "s", "r"), ASPF: letter(rec.StrictSPF, "s", "r"), Testing: letter(rec.Testing, "y", "n")}
	// What is not said is as the policy it falls back on (RFC 9989 section
	// 4.7).
	p.SP = cmp.Or(p.SP, p.P)
	p.NP = cmp.Or(p.NP, p.SP)
	return p
}

// rowOf is what a report says of a message.
func rowOf(o Observation, d authn.DMARC) dmarcRow {
	row := dmarcRow{Source: o.Remote.Unmap().WithZone(""), From: plain(d.From), Disposition: cmp.Or(string(o.Disposition), "none"),
		DKIM: d.DKIMAligned, SPF: d.SPFAligned}
	if at := strings.LastIndexByte(o.From, '@'); at >= 0 {
		row.Envelope = strings.ToLower(plain(o.From[at+1:]))
	}
	if s := o.Results.MailFrom; s.Domain != "" {
		row.SPFDomain, row.SPFResult = plain(s.Domain), string(s.Result)
	}
	row.Reason, row.Comment = reasonOf(o, d)
	if d.Result == authn.Pass && d.Published != authn.DispositionNone && row.Disposition == "none" {
		row.Disposition = "pass"
	}
	row.Signatures = signaturesOf(o.Results.DKIM, d.From)
	return row
}

// reasonOf says why less was done than was asked for (RFC 9990 section
// 3.1.7).
func reasonOf(o Observation, d authn.DMARC) (reason, comment string) {
	switch {
	case d.Result == authn.Pass || d.Published == cmp.Or(o.Disposition, authn.DispositionNone):
	case d.Result == authn.TempError:
		return "other", "DNS did not answer"
	case o.Override == "arc":
		return "trusted_forwarder", "arc=pass"
	case o.Override != "":
		return "local_policy", ""
	case d.Record.Testing:
		return "policy_test_mode", ""
	}
	return "", ""
}

// signaturesOf are the signatures of a message, those that matter most first
// (RFC 9990 section 3.1.4). One without a domain is none that could be
// reported.
func signaturesOf(all []authn.DKIM, from string) string {
	rank := func(s authn.DKIM) int {
		switch {
		case s.Result != authn.Pass:
			return 3
		case strings.EqualFold(s.Domain, from):
			return 0
		case strings.HasSuffix("."+from, "."+s.Domain) || strings.HasSuffix("."+s.Domain, "."+from):
			return 1
		}
		return 2
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b authn.DKIM) int { return rank(a) - rank(b) })
	var b strings.Builder
	for _, s := range all {
		if s.Domain != "" {
			fmt.Fprintf(&b, "%s\t%s\t%s\n", plain(s.Domain), plain(s.Selector), s.Result)
		}
	}
	return b.String()
}

// feedback is the report (RFC 9990 appendix A).
type feedback struct {
	XMLName  xml.Name        `xml:"feedback"`
	XMLNS    string          `xml:"xmlns,attr"`
	Version  string          `xml:"version,omitempty"`
	Metadata reportMetadata  `xml:"report_metadata"`
	Policy   policyPublished `xml:"policy_published"`
	Records  []reportRecord  `xml:"record"`
}

type reportMetadata struct {
	OrgName   string   `xml:"org_name"`
	Email     string   `xml:"email"`
	ReportID  string   `xml:"report_id"`
	Begin     int64    `xml:"date_range>begin"`
	End       int64    `xml:"date_range>end"`
	Errors    []string `xml:"error"`
	Generator string   `xml:"generator,omitempty"`
}

type policyPublished struct {
	Domain    string `xml:"domain"`
	Discovery string `xml:"discovery_method,omitempty"`
	P         string `xml:"p"`
	SP        string `xml:"sp,omitempty"`
	NP        string `xml:"np,omitempty"`
	ADKIM     string `xml:"adkim,omitempty"`
	ASPF      string `xml:"aspf,omitempty"`
	Testing   string `xml:"testing,omitempty"`
}

type reportRecord struct {
	Source      string       `xml:"row>source_ip"`
	Count       uint64       `xml:"row>count"`
	Evaluated   evaluated    `xml:"row>policy_evaluated"`
	Identifiers identifiers  `xml:"identifiers"`
	DKIM        []dkimResult `xml:"auth_results>dkim"`
	SPF         []spfResult  `xml:"auth_results>spf"`
}

type evaluated struct {
	Disposition string   `xml:"disposition"`
	DKIM        string   `xml:"dkim"`
	SPF         string   `xml:"spf"`
	Reasons     []reason `xml:"reason"`
}

type reason struct {
	Type    string `xml:"type"`
	Comment string `xml:"comment,omitempty"`
}

type identifiers struct {
	HeaderFrom   string `xml:"header_from"`
	EnvelopeFrom string `xml:"envelope_from"`
}

type dkimResult struct {
	Domain   string `xml:"domain"`
	Selector string `xml:"selector"`
	Result   string `xml:"result"`
}

type spfResult struct {
	Domain string `xml:"domain"`
	Scope  string `xml:"scope,omitempty"`
	Result string `xml:"result"`
}

const namespace = "urn:ietf:params:xml:ns:dmarc-2.0"

// document writes the report of a day about a policy domain.
func (r *Reporter) document(day time.Time, domain string, c *dmarcCount) ([]byte, error) {
	f := feedback{XMLNS: namespace, Version: "1.0",
		Metadata: reportMetadata{OrgName: r.d.Hostname, Email: r.d.Contact, ReportID: r.identity("dmarc", day, domain),
			Begin: day.Unix(), End: day.Add(aDay).Unix() - 1, Generator: strings.TrimSpace("Postern " + r.d.Version)},
		Policy: policyPublished{Domain: domain, Discovery: "treewalk", P: c.policy.P, SP: c.policy.SP, NP: c.policy.NP,
			ADKIM: c.policy.ADKIM, ASPF: c.policy.ASPF, Testing: c.policy.Testing}}
	if c.lost > 0 {
		f.Metadata.Errors = []string{strconv.FormatUint(c.lost, 10) + " messages are not in this report, as they had too many different results"}
	}
	for _, row := range slices.SortedFunc(maps.Keys(c.rows), compareRows) {
		f.Records = append(f.Records, recordOf(row, c.rows[row]))
	}
	b, err := xml.MarshalIndent(f, "", " ")
	if err != nil {
		return nil, fmt.Errorf("write the DMARC report for %s: %w", domain, err)
	}
	return append([]byte(xml.Header), append(b, '\n')...), nil
}

func compareRows(a, b dmarcRow) int {
	return cmp.Or(a.Source.Compare(b.Source), strings.Compare(a.From, b.From), strings.Compare(a.Envelope, b.Envelope),
		strings.Compare(fmt.Sprint(a), fmt.Sprint(b)))
}

func recordOf(row dmarcRow, n uint64) reportRecord {
	verdict := func(ok bool) string { return map[bool]string{true: "pass", false: "fail"}[ok] }
	out := reportRecord{Source: row.Source.String(), Count: n,
		Evaluated:   evaluated{Disposition: row.Disposition, DKIM: verdict(row.DKIM), SPF: verdict(row.SPF)},
		Identifiers: identifiers{HeaderFrom: row.From, EnvelopeFrom: row.Envelope}}
	if row.Reason != "" {
		out.Evaluated.Reasons = []reason{{row.Reason, row.Comment}}
	}
	for line := range strings.Lines(row.Signatures) {
		if s := strings.Split(strings.TrimSuffix(line, "\n"), "\t"); len(s) == 3 {
			out.DKIM = append(out.DKIM, dkimResult{s[0], s[1], s[2]})
		}
	}
	if row.SPFDomain != "" {
		out.SPF = []spfResult{{row.SPFDomain, "mfrom", row.SPFResult}}
	}
	return out
}

// sendDMARC sends the report of a day about a policy domain to all who are to
// have it. Busy: some of it has to be tried again.
func (r *Reporter) sendDMARC(ctx context.Context, day time.Time, domain string, c *dmarcCount) (int, error) {
	to, err := r.readersDMARC(ctx, domain)
	if err != nil || len(to) == 0 {
		return 0, err
	}
	doc, err := r.document(day, domain, c)
	if err != nil {
		return 0, err
	}
	packed, err := pack(doc)
	if err != nil {
		return 0, err
	}
	id := r.identity("dmarc", day, domain)
	l := letter{id: id, day: day, domain: domain, file: r.fileName(day, domain, id, "xml.gz"), mediaType: "application/gzip", kind: "mixed", data: packed,
		text: fmt.Sprintf("This is a DMARC aggregate report (RFC 9990) about mail from %s\r\nthat %s got on %s (UTC).\r\n", domain, r.d.Hostname, day.Format(time.DateOnly))}
	sent := 0
	for _, t := range to {
		if t.limit > 0 && int64(len(packed)) > t.limit {
			r.d.Log.Info("a report is larger than its reader wants", "domain", domain, "size", len(packed), "limit", t.limit)
			continue
		}
		a, err := mail.ParseAddress(t.address)
		if err != nil {
			continue
		}
		if err := r.mail(ctx, l, a); err != nil {
			return sent, kind.Errorf(kind.Busy, "send the DMARC report for %s: %w", domain, err)
		}
		sent++
	}
	return sent, nil
}
