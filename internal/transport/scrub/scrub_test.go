package scrub

import (
	"strings"
	"testing"
)

func TestLine(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "",
		" Spam\r\n250 OK\x00 ":         "Spam 250 OK",
		"gr\u00fcn":                    "gr n",
		strings.Repeat("x", 1<<20):     "xxxxxxxxxxxxxxxxxxxx",
		"\xff\xfe":                     "",
		"exactly twenty chars!more...": "exactly twenty chars",
	} {
		if got := Line(in, 20); got != want {
			t.Errorf("%.40q: %q, want %q", in, got, want)
		}
	}
}
