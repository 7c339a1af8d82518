package report

import (
	"strconv"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
)

// TestReadersDMARC (promise 3): who gets reports about blue.example.com.
func TestReadersDMARC(t *testing.T) {
	const confirm = "blue.example.com._report._dmarc."
	for name, c := range map[string]struct {
		zone map[string][]string
		want string
	}{
		"itself":      {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:a@blue.example.com"}}, "a@blue.example.com"},
		"relative":    {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:a@mail.example.com"}, "_dmarc.example.com": {"v=DMARC1"}}, "a@mail.example.com"},
		"no relative": {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:a@mail.example.com"}}, ""},
		"stranger":    {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:victim@red.example.net"}}, ""},
		"agreed": {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:a@red.example.net!5k"},
			confirm + "red.example.net": {"something", "v=DMARC1;"}}, "a@red.example.net 5120"},
		"instead": {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:a@red.example.net"},
			confirm + "red.example.net": {"v=DMARC1; rua=mailto:b@red.example.net"}}, "b@red.example.net"},
		"instead a victim": {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:a@red.example.net"},
			confirm + "red.example.net": {"v=DMARC1; rua=mailto:b@red.example.net, mailto:victim@example.org"}}, ""},
		"some": {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:a@blue.example.com, mailto:b@red.example.net,https://blue.example.com/, mailto:A@[192.0.2.1],mailto:c%40blue.example.com?subject=x,mailto:a@blue.example.com"}},
			"a@blue.example.com c@blue.example.com"},
		"gone":   {map[string][]string{}, ""},
		"two":    {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; rua=mailto:a@blue.example.com", "v=DMARC1; rua=mailto:a@blue.example.com"}}, ""},
		"no rua": {map[string][]string{"_dmarc.blue.example.com": {"v=DMARC1; p=none"}}, ""},
	} {
		w := newWorld(t)
		w.zone.txt = c.zone
		got, err := w.r.readersDMARC(t.Context(), "blue.example.com")
		if err != nil || shown(got) != c.want {
			t.Errorf("%s: %s, %v, want %s", name, shown(got), err, c.want)
		}
	}
	for _, fault := range []string{"_dmarc.blue.example.com", "_dmarc.red.example.net", confirm + "red.example.net"} {
		w := newWorld(t)
		w.zone.txt["_dmarc.blue.example.com"] = []string{"v=DMARC1; rua=mailto:a@red.example.net"}
		w.zone.fault[fault] = true
		if got, err := w.r.readersDMARC(t.Context(), "blue.example.com"); !kind.Is(err, kind.Busy) {
			t.Errorf("no answer for %s: %v, %v", fault, got, err)
		}
	}
}

func shown(all []reader) string {
	var out []string
	for _, t := range all {
		s := t.address
		if t.limit != 0 {
			s += " " + strconv.FormatInt(t.limit, 10)
		}
		out = append(out, s)
	}
	return strings.Join(out, " ")
}

func TestReadersTLS(t *testing.T) {
	for in, want := range map[string]string{
		"v=TLSRPTv1; rua=mailto:a@x.example,https://x.example/p?q=1": "a@x.example https://x.example/p?q=1",
		"v=TLSRPTv1 ;rua=mailto:a@x.example;":                        "a@x.example",
		"v=TLSRPTv2; rua=mailto:a@x.example":                         "",
		"v=TLSRPTv1; rua=http://x.example/,ftp://x,https:///p":       "",
		"v=TLSRPTv1; rua=https://user:secret@x.example/":             "",
		"v=TLSRPTv1": "",
		"v=TLSRPTv1; rua=mailto:a@x.example|v=TLSRPTv1; rua=mailto:a@x.example": "",
		"something else|v=TLSRPTv1; rua=mailto:a@x.example":                     "a@x.example",
	} {
		if got := shown(readTLS(strings.Split(in, "|"))); got != want {
			t.Errorf("%s: %q, want %q", in, got, want)
		}
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{"": 0, "10": 10, "10k": 10 << 10, "10M": 10 << 20, "2g": 2 << 30, "1t": 1 << 40} {
		if got, ok := sizeOf(in); got != want || !ok {
			t.Errorf("%s: %d, %v", in, got, ok)
		}
	}
	for _, in := range []string{"k", "-1", "1x", "99999999999999999999", "99999999g", " m "} {
		if got, ok := sizeOf(in); ok {
			t.Errorf("%s: %d", in, got)
		}
	}
}

// TestTooLarge: a reader that takes less gets nothing.
func TestTooLarge(t *testing.T) {
	w := newWorld(t)
	const small = "v=DMARC1; p=none; rua=mailto:a@example.com!100,mailto:b@example.com!1m"
	w.zone.txt["_dmarc.example.com"] = []string{small}
	w.r.NoteDMARC(seen("example.com", small))
	if all := w.reported(); len(all) != 1 || all["b@example.com"].Body == nil {
		t.Errorf("sent %d", len(all))
	}
}

// FuzzRecord reads texts of the DNS of strangers.
func FuzzRecord(f *testing.F) {
	f.Add("v=DMARC1; p=none; rua=mailto:a@example.com!10m, mailto:b%40example.com")
	f.Add("v=TLSRPTv1; rua=https://example.com/x,mailto:a@example.com")
	f.Fuzz(func(t *testing.T, txt string) {
		all, _ := readDMARC([]string{txt})
		all = append(all, readTLS([]string{txt})...)
		if len(all) > 2*maxReaders {
			t.Errorf("%d readers", len(all))
		}
		for _, r := range all {
			if r.limit < 0 || r.web != strings.HasPrefix(r.address, "https://") || strings.ContainsAny(r.address, "\r\n") {
				t.Errorf("reader %+v", r)
			}
			if r.host() == "" {
				t.Errorf("reader %+v has no host", r)
			}
		}
	})
}
