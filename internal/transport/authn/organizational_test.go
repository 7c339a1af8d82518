package authn

import (
	"errors"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
)

func TestOrganizational(t *testing.T) {
	z := texts("_dmarc.example.com", "v=DMARC1; p=reject", "_dmarc.com", "v=DMARC1; psd=y", "_dmarc.own.example.com", "v=DMARC1; psd=n")
	for name, want := range map[string]string{
		"a.b.example.com": "example.com", "EXAMPLE.com.": "example.com", "x.own.example.com": "own.example.com",
		"nothing.example.net": "nothing.example.net", "unknown.com": "unknown.com",
	} {
		got, err := Organizational(t.Context(), z, name)
		if err != nil || got != want {
			t.Errorf("%s: %q, %v, want %q", name, got, err, want)
		}
	}
	if _, err := Organizational(t.Context(), z, "a..b"); !kind.Is(err, kind.Invalid) {
		t.Errorf("bad name: %v", err)
	}
	z.fault["_dmarc.example.com"] = errors.New("timeout")
	if _, err := Organizational(t.Context(), z, "a.example.com"); !kind.Is(err, kind.Busy) {
		t.Errorf("fault: %v", err)
	}
}
