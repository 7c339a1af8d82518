package utf7_test

import (
	"testing"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/access/imapd/utf7"
)

func FuzzDecode(f *testing.F) {
	f.Add("Entw&APw-rfe")
	f.Add("&Jjo!")
	f.Fuzz(func(t *testing.T, in string) {
		out, err := utf7.Decode(in)
		if err != nil {
			return
		}
		if !utf8.ValidString(out) || len(out) > 3*len(in) {
			t.Errorf("%q became %q", in, out)
		}
		if again, err := utf7.Decode(utf7.Encode(out)); err != nil || again != out {
			t.Errorf("%q became %q, then %q, %v", in, out, again, err)
		}
	})
}
