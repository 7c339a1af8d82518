package sign

import (
	"strconv"
	"strings"
	"testing"
)

func TestTags(t *testing.T) {
	for in, want := range map[string]string{
		"a=1":                         "a=1",
		"a=1;":                        "a=1",
		" a = 1 ; b=2 \r\n":           "a=1 b=2",
		"a=;b=":                       "a= b=",
		"a=x=y==":                     "a=x=y==",
		"a=1\r\n\t2;A_9=3":            "a=1\r\n\t2 A_9=3",
		"n=\u00e4\u00f6":              "n=\u00e4\u00f6",
		"":                            "error",
		" ":                           "error",
		";":                           "error",
		"a=1;;":                       "error",
		"a=1; ;b=2":                   "error",
		"a":                           "error",
		"=1":                          "error",
		"a b=1":                       "error",
		"1a=1":                        "error",
		"_a=1":                        "error",
		"a-b=1":                       "error",
		"a=1;a=2":                     "error",
		"a=\x00":                      "error",
		"a=\x7f":                      "error",
		"a=\xff":                      "error",
		strings.Repeat("a", 33) + "=": "error",
	} {
		list, err := parseTags(in)
		got := "error"
		if err == nil {
			var s []string
			for _, t := range list {
				s = append(s, t.name+"="+t.value)
			}
			got = strings.Join(s, " ")
		}
		if got != want {
			t.Errorf("%q: %q (%v), want %q", in, got, err, want)
		}
	}
	var many strings.Builder
	for i := range maxTags + 1 {
		many.WriteString("a" + strings.Repeat("x", i%30) + string(rune('a'+i/30)) + "=1;")
		if _, err := parseTags(many.String()); (err == nil) != (i < maxTags) {
			t.Errorf("%d tags: %v", i+1, err)
		}
	}
}

func TestKeyRecords(t *testing.T) {
	ed := "p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
	bare := "MIGJAoGBALVI635dLK4cJJAH3Lx6upo3X/Lm1tQz3mezcWTA3BUBnyIsdnRf57aD5BtNmhPrYYDlWlzw3" +
		"UgnKisIxktkk5+iMQMlFtAS10JB8L3YadXNJY+JBcbeSi5TgJe4WFzNgW95FWDAuSTRXSWZfA/8xjflbTLDx0euFZOM7C4T0GwLAgMBAAE="
	for in, want := range map[string]string{
		rfcRSA:                                  "rsa 1024",
		"p=" + bare:                             "rsa 1024", // an RSAPublicKey without its envelope
		"k=ed25519; " + ed:                      "ed25519 256",
		"v=DKIM1; k=ed25519;\t" + ed:            "ed25519 256",
		"p=":                                    "rsa 0",
		"v=DKIM1; p=; n=gone":                   "rsa 0",
		"":                                      "error",
		"v=DKIM1":                               "no p=",
		"v=DKIM2; p=":                           "v= is not",
		"p=; v=DKIM1":                           "v= is not",
		"v=dkim1; p=":                           "v= is not",
		"k=dsa; p=":                             "unknown key type",
		"k=ed25519; p=AAAA":                     "not an Ed25519",
		"p=*":                                   "not base64",
		"p=AAAA":                                "not an RSA",
		ed:                                      "not an RSA",
		"p=" + bare[:80]:                        "not an RSA",
		"p=; h=" + strings.Repeat(":", maxTags): "more than",
		"p=; n=" + strings.Repeat("x", maxRecord): "more than",
	} {
		r, err := ParseKeyRecord(in)
		switch {
		case err == nil && want == r.Algorithm+" "+strconv.Itoa(r.Bits):
		case err != nil && (want == "error" || strings.Contains(err.Error(), want)):
		default:
			t.Errorf("%.60q: %+v, %v, want %s", in, r, err, want)
		}
	}
}
