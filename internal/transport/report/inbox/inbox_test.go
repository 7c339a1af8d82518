package inbox

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

var morning = time.Date(2026, 11, 21, 6, 0, 0, 0, time.UTC)

// TestDMARC sums up reports of three kinds of packing; one came twice, one is
// too old, one is damaged.
func TestDMARC(t *testing.T) {
	var b box
	b.add(morning.AddDate(0, 0, -30), letter("application/gzip", "old.xml.gz", gzipped(t, []byte(aggregate("one.example", "0")))))
	b.add(morning, letter("application/gzip", "a.xml.gz", gzipped(t, []byte(aggregate("one.example", "1")))))
	b.add(morning, letter("application/octet-stream", "a.ZIP", zipped(t, "readme.txt", "x", "r.xml", aggregate("one.example", "1"))))
	b.add(morning, letter("application/x-zip-compressed", "a", zipped(t, "report", aggregate("one.example", "2"))))
	b.add(morning, letter("text/xml", "m.xml", []byte(modern)))
	const failed, passed = "Authentication-Results: mx.ours.example; spf=pass;\r\n dmarc=fail header.from=one.example\r\n", "Authentication-Results: mx.ours.example; dmarc=pass\r\n"
	b.add(morning, append([]byte(failed+passed), letter("text/xml", "m.xml", []byte(strings.Replace(modern, "m1", "forged", 1)))...))
	b.add(morning, letter("text/xml", "x.xml", []byte("<feedback><record>")))
	b.add(morning, letter("text/xml", "x.xml", []byte("<html></html>")))
	b.add(morning, []byte("Subject: hello\r\n\r\nNothing here.\r\n"))
	rows, read, err := DMARC(t.Context(), &b, org.MailboxRef{}, Filter{Since: morning.AddDate(0, 0, -7)})
	if err != nil || read != (Read{Reports: 3, Bad: 1, Unproven: 1}) {
		t.Fatalf("%+v, %v", read, err)
	}
	day := time.Unix(1795132800, 0).UTC()
	want := []Source{
		{Domain: "example.com", Source: netip.MustParseAddr("2001:db8::1"), Messages: 4, Rejected: 4, Reporters: []string{"one.example"}, First: day, Last: day.Add(24*time.Hour - time.Second)},
		{Domain: "example.com", Source: netip.MustParseAddr("192.0.2.1"), Messages: 13, Passed: 13, DKIM: 13, SPF: 3, Reporters: []string{"one.example", "two.example"},
			First: day, Last: day.Add(48*time.Hour - time.Second)},
	}
	if !reflect.DeepEqual(rows, want) {
		t.Errorf("got %+v\nwant %+v", rows, want)
	}
	if rows, _, err := DMARC(t.Context(), &b, org.MailboxRef{}, Filter{Domain: "example.net"}); err != nil || len(rows) != 0 {
		t.Errorf("of another domain: %v, %v", rows, err)
	}
	if _, _, err := DMARC(t.Context(), &b, org.MailboxRef{}, Filter{Folder: "Reports"}); !kind.Is(err, kind.NotFound) {
		t.Errorf("no such folder: %v", err)
	}
}

func TestTLS(t *testing.T) {
	var b box
	b.add(morning, letter("application/tlsrpt+gzip", "a.json.gz", gzipped(t, []byte(tlsSample))))
	b.add(morning, letter("application/tlsrpt+json", "a.json", []byte(tlsSample)))
	b.add(morning, letter("application/tlsrpt+json", "a.json", []byte(`{"organization-name":"x"}`)))
	b.add(morning, letter("text/xml", "m.xml", []byte(modern)))
	rows, read, err := TLS(t.Context(), &b, org.MailboxRef{}, Filter{Domain: "example.com"})
	if err != nil || read != (Read{Reports: 1, Bad: 1}) {
		t.Fatalf("%+v, %v", read, err)
	}
	var got []string
	for _, r := range rows {
		got = append(got, fmt.Sprint(r.Domain, " ", r.Policy, " ", r.Result, " ", r.Host, " ", r.Sessions, " ", r.Reporters))
	}
	want := []string{"example.com sts starttls-not-supported mx2.example.com 200 [Company-X]", "example.com sts certificate-expired mx1.example.com 100 [Company-X]",
		"example.com sts not said  3 [Company-X]", "example.com sts success  5326 [Company-X]"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %q", got)
	}
}

// TestHostile (promise 1): bombs and tricks are refused, and soon.
func TestHostile(t *testing.T) {
	zeros := bytes.Repeat([]byte{' '}, MaxUnpacked+1)
	for name, data := range map[string][]byte{
		"gzip bomb": gzipped(t, zeros), "zip bomb": zipped(t, "a.xml", string(zeros)), "large": zeros,
		"many files": zipped(t, "1.xml", "", "2.xml", "", "3.xml", "", "4.xml", "", "5.xml", "", "6.xml", "", "7.xml", "", "8.xml", "", "9.xml", ""),
		"no report":  zipped(t, "a.exe", "MZ", "b.exe", "MZ"), "cut zip": zipped(t, "a.xml", modern)[:60], "cut gzip": gzipped(t, []byte(modern))[:60],
		"packed": append([]byte("\x1f\x8b"), make([]byte, MaxPacked)...),
	} {
		if b, err := unpack(data); !kind.Is(err, kind.Invalid) {
			t.Errorf("%s: %d bytes, %v", name, len(b), err)
		}
	}
	for name, doc := range map[string]string{
		"entities":   `<!DOCTYPE f [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]>` + modern,
		"file":       `<!DOCTYPE f SYSTEM "file:///etc/passwd">` + modern,
		"inner":      strings.Replace(modern, "<version>", `<!ENTITY a "b"><version>`, 1),
		"unknown":    strings.Replace(modern, "two.example", "&a;", 1),
		"attributes": "<feedback " + strings.Repeat(`a="" `, maxTag) + ">",
		"quote":      `<feedback a="` + strings.Repeat(">", maxTag),
		"deep":       "<feedback>" + strings.Repeat("<a>", 1000) + strings.Repeat("</a>", 1000) + modern[len("<feedback>"):],
		"charset":    `<?xml version="1.0" encoding="utf-7"?>` + modern,
		"address":    strings.Replace(modern, "192.0.2.1", "localhost", 1),
		"count":      strings.Replace(modern, "<count>3", "<count>-3", 1),
		"no records": modern[:strings.Index(modern, "<record>")] + "</feedback>",
	} {
		if r, err := parseDMARC([]byte(doc)); !kind.Is(err, kind.Invalid) {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	odd := `<?xml version="1.0"?><!-- ' <<<< > --><feedback a='>' b=">"><x><![CDATA[<a><a>]]></x>` + strings.Repeat("<y/>", 100) + modern[strings.Index(modern, "<version>"):]
	if r, err := parseDMARC([]byte(odd)); err != nil || len(r.Records) != 1 {
		t.Errorf("odd but right: %+v, %v", r, err)
	}
	if _, err := parseTLS([]byte(`{"policies":[` + strings.Repeat(`{},`, maxJSON/3) + `{}]}`)); !kind.Is(err, kind.Invalid) {
		t.Errorf("large JSON: %v", err)
	}
}

func TestCommands(t *testing.T) {
	var b box
	b.add(morning, letter("text/xml", "m.xml", []byte(modern)))
	at := org.MailboxRef{Database: "DB1"}
	d := Deps{Store: &b, Now: func() time.Time { return morning }, Mailbox: func(a mail.Address) (org.MailboxRef, org.OrganizationID, bool) {
		return at, "red", a.String() == "dmarc@example.com"
	}}
	in := reportIn{Mailbox: "dmarc@example.com", Domain: "Example.COM", Last: time.Hour, Limit: 10}
	as := func(o string) context.Context {
		return command.WithCaller(t.Context(), command.Caller{Roles: []command.Role{command.OrganizationAdmin}, Organization: o})
	}
	got, err := d.dmarc(as("red"), in)
	if err != nil || got.Reports != 1 || len(got.Sources) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := d.tls(as(""), in); err != nil || got.Reports != 0 {
		t.Errorf("%+v, %v", got, err)
	}
	if _, err := d.dmarc(as("blue"), in); !kind.Is(err, kind.NotFound) {
		t.Errorf("of another organization: %v", err)
	}
	for _, change := range []func(*reportIn){func(in *reportIn) { in.Mailbox = "x@example.com" }, func(in *reportIn) { in.Mailbox = "x" },
		func(in *reportIn) { in.Limit = 0 }, func(in *reportIn) { in.Last = 0 }, func(in *reportIn) { in.Domain = "a..b" }} {
		bad := in
		change(&bad)
		if _, err := d.dmarc(t.Context(), bad); !kind.Is(err, kind.NotFound) && !kind.Is(err, kind.Invalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if len(Commands(Deps{})) != 2 {
		t.Error("commands are missing")
	}
}

// FuzzUnpack reads what strangers attach.
func FuzzUnpack(f *testing.F) {
	f.Add(gzipped(f, []byte(modern)))
	f.Add(zipped(f, "a.xml", modern))
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := unpack(b)
		if err != nil && !kind.Is(err, kind.Invalid) || len(out) > MaxUnpacked {
			t.Errorf("%d bytes, %v", len(out), err)
		}
	})
}

// FuzzDMARC reads what strangers report.
func FuzzDMARC(f *testing.F) {
	f.Add([]byte(aggregate("one.example", "1")))
	f.Add([]byte(modern))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseDMARC(b)
		if err != nil {
			if !kind.Is(err, kind.Invalid) && !kind.Is(err, kind.NotFound) {
				t.Error(err)
			}
			return
		}
		for _, rec := range r.Records {
			if !rec.Source.IsValid() || rec.Count > maxCount {
				t.Errorf("record %+v", rec)
			}
		}
	})
}

// FuzzTLS reads what strangers report.
func FuzzTLS(f *testing.F) {
	f.Add([]byte(tlsSample))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := parseTLS(b)
		if err != nil && !kind.Is(err, kind.Invalid) && !kind.Is(err, kind.NotFound) || err == nil && (r.ID == "" || len(r.Policies) == 0) {
			t.Errorf("%+v, %v", r, err)
		}
	})
}
