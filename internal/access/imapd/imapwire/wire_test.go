package imapwire

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

func TestParseSeqSet(t *testing.T) {
	for in, want := range map[string]string{
		"1": "1", "3,1,2": "1:3", "5:2": "2:5", "1:*": "1:*", "*": "*", "*:4": "4:*", "7:*,3:*": "3:*", "*:*": "*",
		"1,3,5,4": "1,3:5", "4294967295,1": "1,4294967295", "4294967294:4294967295,1": "1,4294967294:4294967295",
	} {
		if got, err := ParseSeqSet(in); err != nil || got.String() != want {
			t.Errorf("%s: %s, %v, want %s", in, got, err, want)
		}
	}
	for _, in := range []string{"", ",", "0", "01", "1:", ":1", "1:2:3", "-1", "+1", "1,", "a", "4294967296", "1 "} {
		if set, err := ParseSeqSet(in); err == nil {
			t.Errorf("%q: %s", in, set)
		}
	}
}

// TestGiantSet: 50,000 ranges the wrong way round take one pass (faults.md B43).
func TestGiantSet(t *testing.T) {
	var parts []string
	for i := 100_000; i > 0; i -= 2 {
		parts = append(parts, itoa(i))
	}
	begun := time.Now()
	set, err := ParseSeqSet(strings.Join(parts, ","))
	if err != nil || len(set) != 50_000 {
		t.Fatal(len(set), err)
	}
	if d := time.Since(begun); d > 5*time.Second {
		t.Errorf("took %s", d)
	}
}

func itoa(n int) string { return imap.SeqSetNum(uint32(n)).String() }

func TestRecover(t *testing.T) {
	limits := Limits{Command: 100, Literal: 10, Discard: 1000}
	for in, rest := range map[string]string{
		"x y\r\nNEXT":                         "NEXT",
		"x {5+}\r\nA\r\nB y\r\nNEXT":          "NEXT",
		"x {5+}\r\n{3+}\r {2+}\r\nab\r\nNEXT": "NEXT",
		"x {5}\r\nNEXT":                       "NEXT", // the client waits for a word that does not come
		"x {-5+}\r\nNEXT":                     "NEXT",
		"x\nNEXT":                             "NEXT",
	} {
		r := bufio.NewReader(strings.NewReader(in))
		if err := NewDecoder(r, limits).Recover(); err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if got, _ := io.ReadAll(r); string(got) != rest {
			t.Errorf("%q: %q is left, want %q", in, got, rest)
		}
	}
	for _, in := range []string{"x {5000+}\r\n", strings.Repeat("x", 5000), strings.Repeat("{500+}\r\n"+strings.Repeat("x", 500), 9)} {
		if err := NewDecoder(bufio.NewReader(strings.NewReader(in)), limits).Recover(); !errors.Is(err, ErrFlood) {
			t.Errorf("%.20q: %v", in, err)
		}
	}
}

func FuzzParseSeqSet(f *testing.F) {
	f.Add("1:*,3,9:2,*")
	f.Fuzz(func(t *testing.T, in string) {
		set, err := ParseSeqSet(in)
		if err != nil {
			return
		}
		again, err := ParseSeqSet(set.String())
		if err != nil || !slices.Equal(set, again) && !set.Dynamic() {
			t.Errorf("%q: %s, then %s, %v", in, set, again, err)
		}
	})
}

// FuzzRecover: whatever the command, text of a literal is not left over as one.
func FuzzRecover(f *testing.F) {
	f.Add([]byte("a {3+}\r\nb\r\n\r\nNEXT\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		dec := NewDecoder(bufio.NewReader(bytes.NewReader(in)), Limits{Command: 1000, Literal: 100, Discard: 10_000})
		dec.Continue = func() error { return nil }
		var s string
		dec.ExpectMailbox(&s)
		if len(s) > 1000 {
			t.Errorf("%d bytes were held", len(s))
		}
		dec.Recover()
	})
}
