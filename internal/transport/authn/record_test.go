package authn

import (
	"reflect"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
)

func TestParseDMARC(t *testing.T) {
	const none, quarantine, reject = DispositionNone, DispositionQuarantine, DispositionReject
	for _, c := range []struct {
		txt  string
		want DMARCRecord
		bad  kind.Kind // Internal (0): no error
	}{
		{txt: "v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com", // RFC 9989 appendix B.2.1
			want: DMARCRecord{Policy: none, Reports: []string{"mailto:dmarc-feedback@example.com"}}},
		{txt: "v=DMARC1; p=quarantine; rua=mailto:dmarc-feedback@example.com,mailto:tld-test@thirdparty.example.net; t=y", // B.2.5
			want: DMARCRecord{Policy: quarantine, Testing: true, Reports: []string{"mailto:dmarc-feedback@example.com", "mailto:tld-test@thirdparty.example.net"}}},
		{txt: "v=DMARC1; p=reject; aspf=r;\n rua=mailto:dmarc-feedback@example.com", // B.3.1
			want: DMARCRecord{Policy: reject, Reports: []string{"mailto:dmarc-feedback@example.com"}}},
		{txt: "V = DMARC1 ;P = Reject ;SP=QUARANTINE;np=none;adkim=S;aspf=s;psd=Y;;",
			want: DMARCRecord{Policy: reject, Subdomains: quarantine, NonExistent: none, StrictDKIM: true, StrictSPF: true, PublicSuffix: 'y'}},
		{txt: "v=DMARC1", want: DMARCRecord{Policy: none}},
		{txt: "v=DMARC1; psd=n", want: DMARCRecord{Policy: none, PublicSuffix: 'n'}},
		{txt: "v=DMARC1; sp=reject; p=quarantine; pct=10; rf=afrf; ri=3600; fo=1:d", want: DMARCRecord{Policy: quarantine, Subdomains: reject}},
		{txt: "v=DMARC1; p=reject; adkim=x; aspf=; t=maybe; psd=z; nonsense; =x", want: DMARCRecord{Policy: reject}},
		{txt: "v=DMARC1; p=reject; rua=dmarc@example.com, mailto:, https://r.example/x!10m,mailto:a@example.com!5k, mailto:b c@example.com",
			want: DMARCRecord{Policy: reject, Reports: []string{"https://r.example/x", "mailto:a@example.com"}}},
		{txt: "v=DMARC1; p=block; sp=reject; rua=mailto:a@example.com", want: DMARCRecord{Policy: none, Reports: []string{"mailto:a@example.com"}}},
		{txt: "v=DMARC1; p=reject; sp=block; rua=mailto:a@example.com", want: DMARCRecord{Policy: none, Reports: []string{"mailto:a@example.com"}}},
		{txt: "v=DMARC1; p=block", bad: kind.Invalid},
		{txt: "v=DMARC1; p=reject; np=block; rua=nobody", bad: kind.Invalid},
		{txt: "v=DMARC1; p=reject; p=none", bad: kind.Invalid},
		{txt: "v=DMARC1; p=reject; x=" + strings.Repeat("x", MaxRecord), bad: kind.Invalid},
		{txt: "v=DMARC1; p=reject" + strings.Repeat(";", MaxTags+1), bad: kind.Invalid},
		{txt: "v=dmarc1; p=reject", bad: kind.NotFound},
		{txt: "v=DMARC12; p=reject", bad: kind.NotFound},
		{txt: "p=reject; v=DMARC1", bad: kind.NotFound},
		{txt: "v=spf1 -all", bad: kind.NotFound},
		{txt: "", bad: kind.NotFound},
	} {
		got, err := ParseDMARC(c.txt)
		if c.bad != 0 || err != nil {
			if c.bad == 0 || !kind.Is(err, c.bad) {
				t.Errorf("%.60q: %v, want %v", c.txt, err, c.bad)
			}
			continue
		}
		if c.want.PublicSuffix == 0 {
			c.want.PublicSuffix = 'u'
		}
		if !reflect.DeepEqual(got, c.want) {
			t.Errorf("%.60q:\n got %+v\nwant %+v", c.txt, got, c.want)
		}
	}
}

func TestPolicyFor(t *testing.T) {
	const q, r, n = DispositionQuarantine, DispositionReject, DispositionNone
	for _, c := range []struct {
		rec                DMARCRecord
		inherited, missing bool
		want               Disposition
	}{
		{DMARCRecord{Policy: r, Subdomains: n, NonExistent: q}, false, false, r},
		{DMARCRecord{Policy: r, Subdomains: n, NonExistent: q}, false, true, r},
		{DMARCRecord{Policy: r, Subdomains: n, NonExistent: q}, true, false, n},
		{DMARCRecord{Policy: r, Subdomains: n, NonExistent: q}, true, true, q},
		{DMARCRecord{Policy: r, Subdomains: n}, true, true, n},
		{DMARCRecord{Policy: r, NonExistent: n}, true, true, n},
		{DMARCRecord{Policy: r, NonExistent: n}, true, false, r},
		{DMARCRecord{Policy: r}, true, true, r},
	} {
		if got := c.rec.For(c.inherited, c.missing); got != c.want {
			t.Errorf("%+v inherited %v missing %v: %s, want %s", c.rec, c.inherited, c.missing, got, c.want)
		}
	}
}

func FuzzParseDMARC(f *testing.F) {
	f.Add("v=DMARC1; p=reject; sp=none; np=quarantine; rua=mailto:a@example.com!10m,https://x.example; psd=y; t=y")
	f.Add("v = DMARC1;;;=;p==reject")
	f.Fuzz(func(t *testing.T, txt string) {
		rec, err := ParseDMARC(txt)
		if err != nil {
			return
		}
		if !isDMARC(txt) || len(txt) > MaxRecord || len(rec.Reports) > maxReports {
			t.Fatalf("%q: %+v", txt, rec)
		}
		for _, d := range []Disposition{rec.For(false, false), rec.For(true, false), rec.For(true, true)} {
			if d != DispositionNone && d != DispositionQuarantine && d != DispositionReject {
				t.Fatalf("%q: policy %q", txt, d)
			}
		}
	})
}
