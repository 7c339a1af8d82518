package report

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/transport/authn"
)

const record = "v=DMARC1; p=quarantine; sp=none; adkim=s; rua=mailto:rua@example.com"

// TestDMARC is a day's report from the messages to the bytes.
func TestDMARC(t *testing.T) {
	w := newWorld(t)
	w.zone.txt["_dmarc.example.com"] = []string{record}
	for range 3 {
		w.r.NoteDMARC(seen("example.com", record))
	}
	bad := seen("example.com", record)
	bad.Remote, bad.From, bad.Disposition = netip.MustParseAddr("::ffff:198.51.100.2"), "", "quarantine"
	bad.Results.DKIM, bad.Results.DMARC.DKIMAligned, bad.Results.DMARC.Result = nil, false, authn.Fail
	w.r.NoteDMARC(bad)
	all := w.reported()
	s, ok := all["rua@example.com"]
	if !ok || len(all) != 1 {
		t.Fatalf("sent to %v", slices.Collect(maps.Keys(all)))
	}
	if s.Envelope.From != "noreply@mx1.example.org" || s.Envelope.Recipients[0].Notify != "NEVER" || s.Priority != 2 {
		t.Errorf("envelope %+v, priority %d", s.Envelope, s.Priority)
	}
	h, file, doc := opened(t, s.Body)
	f := feedbackOf(t, doc)
	id := f.Metadata.ReportID
	if want := "mx1.example.org!example.com!1795132800!1795219199!" + id + ".xml.gz"; file != want {
		t.Errorf("file %s, want %s", file, want)
	}
	if want := "Report Domain: example.com Submitter: mx1.example.org Report-ID: <" + id + ">"; h.Get("Subject") != want {
		t.Errorf("subject %q, want %q", h.Get("Subject"), want)
	}
	if h.Get("Auto-Submitted") != "auto-generated" || h.Get("From") != "<postmaster@mx1.example.org>" {
		t.Errorf("header %v", h)
	}
	want := strings.NewReplacer("ID", id).Replace(`<?xml version="1.0" encoding="UTF-8"?>
<feedback xmlns="urn:ietf:params:xml:ns:dmarc-2.0">
 <version>1.0</version>
 <report_metadata>
  <org_name>mx1.example.org</org_name>
  <email>postmaster@mx1.example.org</email>
  <report_id>ID</report_id>
  <date_range>
   <begin>1795132800</begin>
   <end>1795219199</end>
  </date_range>
  <generator>Postern 1.2</generator>
 </report_metadata>
 <policy_published>
  <domain>example.com</domain>
  <discovery_method>treewalk</discovery_method>
  <p>quarantine</p>
  <sp>none</sp>
  <np>none</np>
  <adkim>s</adkim>
  <aspf>r</aspf>
  <testing>n</testing>
 </policy_published>
 <record>
  <row>
   <source_ip>192.0.2.7</source_ip>
   <count>3</count>
   <policy_evaluated>
    <disposition>pass</disposition>
    <dkim>pass</dkim>
    <spf>fail</spf>
   </policy_evaluated>
  </row>
  <identifiers>
   <header_from>example.com</header_from>
   <envelope_from>mail.example.com</envelope_from>
  </identifiers>
  <auth_results>
   <dkim>
    <domain>example.com</domain>
    <selector>s1</selector>
    <result>pass</result>
   </dkim>
   <dkim>
    <domain>other.example</domain>
    <selector>s2</selector>
    <result>pass</result>
   </dkim>
   <dkim>
    <domain>other.example</domain>
    <selector>o</selector>
    <result>fail</result>
   </dkim>
   <spf>
    <domain>mail.example.com</domain>
    <scope>mfrom</scope>
    <result>fail</result>
   </spf>
  </auth_results>
 </record>
 <record>
  <row>
   <source_ip>198.51.100.2</source_ip>
   <count>1</count>
   <policy_evaluated>
    <disposition>quarantine</disposition>
    <dkim>fail</dkim>
    <spf>fail</spf>
   </policy_evaluated>
  </row>
  <identifiers>
   <header_from>example.com</header_from>
   <envelope_from></envelope_from>
  </identifiers>
  <auth_results>
   <spf>
    <domain>mail.example.com</domain>
    <scope>mfrom</scope>
    <result>fail</result>
   </spf>
  </auth_results>
 </record>
</feedback>
`)
	if string(doc) != want {
		t.Errorf("got\n%s\nwant\n%s", doc, want)
	}
	if len(w.r.done) != 0 {
		t.Error("a day that is reported stays")
	}
}

// TestReason: less than what was asked for has a reason (RFC 9990 section
// 3.1.1.8).
func TestReason(t *testing.T) {
	fail := func(change func(o *Observation, d *authn.DMARC)) (string, string) {
		o := seen("example.com", "v=DMARC1; p=reject; rua=mailto:a@example.com")
		d := &o.Results.DMARC
		d.Result, d.DKIMAligned = authn.Fail, false
		change(&o, d)
		row := rowOf(o, *d)
		return row.Disposition, row.Reason
	}
	for name, c := range map[string]struct {
		change       func(o *Observation, d *authn.DMARC)
		done, reason string
	}{
		"as asked":  {func(o *Observation, d *authn.DMARC) { o.Disposition = "reject" }, "reject", ""},
		"sealed":    {func(o *Observation, d *authn.DMARC) { o.Override = "arc" }, "none", "trusted_forwarder"},
		"ours":      {func(o *Observation, d *authn.DMARC) { o.Override = "local_policy" }, "none", "local_policy"},
		"testing":   {func(o *Observation, d *authn.DMARC) { o.Disposition, d.Record.Testing = "quarantine", true }, "quarantine", "policy_test_mode"},
		"no answer": {func(o *Observation, d *authn.DMARC) { d.Result = authn.TempError }, "none", "other"},
		"passed":    {func(o *Observation, d *authn.DMARC) { d.Result, d.SPFAligned = authn.Pass, true }, "pass", ""},
		"monitored": {func(o *Observation, d *authn.DMARC) { d.Published = authn.DispositionNone }, "none", ""},
	} {
		if done, reason := fail(c.change); done != c.done || reason != c.reason {
			t.Errorf("%s: %s %q, want %s %q", name, done, reason, c.done, c.reason)
		}
	}
}

// TestNotReported is what is not counted: nobody wants it, or its name is no
// domain.
func TestNotReported(t *testing.T) {
	w := newWorld(t)
	w.r.NoteDMARC(seen("a.example", "v=DMARC1; p=none"))
	w.r.NoteDMARC(seen("a/../b.example", record))
	none := seen("c.example", record)
	none.Results.DMARC.Result = authn.None
	w.r.NoteDMARC(none)
	w.off = true
	w.r.NoteDMARC(seen("d.example", record))
	w.r.NoteTLS(Session{Domain: "d.example", Policy: "sts", Result: "success"})
	w.off = false
	w.r.NoteTLS(Session{Domain: "[192.0.2.1]", Policy: "sts", Result: "success"})
	if !w.r.today.empty() {
		t.Errorf("counted: %v %v", w.r.today.dmarc, w.r.today.tls)
	}
}

// TestLimits (promise 2): a stranger with many names and addresses takes a
// bounded place, and those of others stay.
func TestLimits(t *testing.T) {
	w := newWorld(t)
	o := seen("flood.example", record)
	for i := range maxDomainRows + 5 {
		o.From = fmt.Sprintf("x@h%d.example", i)
		w.r.NoteDMARC(o)
	}
	c := w.r.today.dmarc["flood.example"]
	if len(c.rows) != maxDomainRows || c.lost != 5 {
		t.Errorf("%d rows, %d lost", len(c.rows), c.lost)
	}
	w.r.NoteDMARC(o)
	if c.lost != 6 {
		t.Errorf("%d lost", c.lost)
	}
	if doc, err := w.r.document(w.r.today.day, "flood.example", c); err != nil || !strings.HasPrefix(feedbackOf(t, doc).Metadata.Errors[0], "6 messages") {
		t.Errorf("the report does not say what it lacks: %v", err)
	}
	w.r.NoteDMARC(seen("example.com", record))
	if len(w.r.today.dmarc["example.com"].rows) != 1 {
		t.Error("another domain has no place")
	}
	row := dmarcRow{Signatures: strings.Repeat("x", 4000)}
	for i := range maxRows {
		row.From = fmt.Sprint(i)
		w.r.today.addDMARC(w.r.today.domainDMARC(fmt.Sprintf("d%d.example", i/1000)), row, 1)
	}
	if w.r.today.bytes > maxBytes {
		t.Errorf("%d bytes", w.r.today.bytes)
	}
	for i := range maxDomains + 10 {
		w.r.NoteTLS(Session{Domain: fmt.Sprintf("d%d.example", i), Policy: "no-policy-found", Result: "success"})
	}
	if len(w.r.today.tls) != maxDomains || w.r.today.lostTLS != 10 {
		t.Errorf("%d domains, %d lost", len(w.r.today.tls), w.r.today.lostTLS)
	}
	for i := range maxDomainRows + 50 {
		w.r.NoteTLS(Session{Domain: "d1.example", Policy: "sts", Result: "certificate-expired", Host: fmt.Sprint("mx", i)})
	}
	p := w.r.today.tls["d1.example"].policies["sts"]
	if n := p.failed[tlsFailure{Result: "certificate-expired"}]; n != 50 || len(p.failed) != maxDomainRows+1 {
		t.Errorf("%d without particulars of %d", n, len(p.failed))
	}
}

func TestPlain(t *testing.T) {
	for in, want := range map[string]string{"a.example": "a.example", "a\tb\nc\x7f": "a?b?c?", "\xff": "?",
		strings.Repeat("é", 200): strings.Repeat("é", 127)} {
		if got := plain(in); got != want {
			t.Errorf("plain(%q) = %q", in, got)
		}
	}
}
