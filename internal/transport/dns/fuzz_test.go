package dns

import (
	"strings"
	"testing"

	wire "github.com/miekg/dns"
)

// FuzzAnswer: whatever a resolver says, what is taken from it stays within
// the limits and belongs to the question.
func FuzzAnswer(f *testing.F) {
	for _, s := range [][]string{{"a.test. 1 IN TXT x"}, {"a.test. 1 IN CNAME b.test.", "b.test. 1 IN TXT y"}, {"a.test. 1 IN CNAME a.test."}, {`a.test. 1 IN TXT "\200\\" "\""`}} {
		m := new(wire.Msg)
		for _, z := range s {
			rr, _ := wire.NewRR(z)
			m.Answer = append(m.Answer, rr)
		}
		b, _ := m.Pack()
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m := new(wire.Msg)
		if len(b) > 64<<10 || m.Unpack(b) != nil {
			return
		}
		for _, qtype := range []uint16{wire.TypeMX, wire.TypeTXT, wire.TypeA, wire.TypeTLSA} {
			a := answer{name: "a.test.", ttl: maxTTL}
			if !a.read(m, qtype) {
				continue
			}
			if (a.err == nil) != (len(a.records) > 0) || len(a.records) > maxRecords || a.ttl > maxTTL || a.ttl < 0 || a.authentic {
				t.Fatalf("%+v", a)
			}
			mxOf(a.records)
			addrsOf(a.records)
			for _, rr := range a.records {
				if x, ok := rr.(*wire.TXT); ok {
					unescape(strings.Join(x.Txt, ""))
				}
			}
		}
	})
}

func FuzzQuestion(f *testing.F) {
	f.Add("a.test")
	f.Add("o'brien@x;y.test")
	f.Add("bücher.test")
	f.Add("..")
	f.Add("0..")
	f.Fuzz(func(t *testing.T, s string) {
		fq, err := question(s)
		if err != nil {
			return
		}
		m := new(wire.Msg)
		m.SetQuestion(fq, wire.TypeA)
		b, err := m.Pack()
		if err != nil {
			t.Fatalf("%q: %q cannot be asked: %v", s, fq, err)
		}
		var back wire.Msg
		if err := back.Unpack(b); err != nil || back.Question[0].Name != fq {
			t.Fatalf("%q: %q came back as %q, %v", s, fq, back.Question[0].Name, err)
		}
	})
}
