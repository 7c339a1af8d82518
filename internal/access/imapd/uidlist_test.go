package imapd

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/mail"
)

// TestUIDListIsAList compares the list with a plain slice.
func TestUIDListIsAList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l uidList
		var want []mail.UID
		next := mail.UID(1)
		t.Repeat(map[string]func(*rapid.T){
			"append": func(t *rapid.T) {
				next += mail.UID(rapid.IntRange(0, 2).Draw(t, "gap"))
				for range rapid.IntRange(1, 5).Draw(t, "n") {
					l.Append(next)
					want = append(want, next)
					next++
				}
			},
			"remove": func(t *rapid.T) {
				gone := unionRanges(drawRanges(t, next))
				l.Remove(gone)
				want = slices.DeleteFunc(want, func(u mail.UID) bool { return inRanges(gone, u) })
			},
			"": func(t *rapid.T) {
				if int(l.Len()) != len(want) || l.next != next && len(want) > 0 && l.next > next {
					t.Fatalf("%d UIDs, want %d", l.Len(), len(want))
				}
				for i, u := range want {
					if l.UID(uint32(i+1)) != u || l.Seq(u) != uint32(i+1) {
						t.Fatalf("place %d is %d, UID %d is at %d", i+1, l.UID(uint32(i+1)), u, l.Seq(u))
					}
				}
				set := unionRanges(drawRanges(t, next))
				for u := mail.UID(1); u < next+2; u++ {
					in := inRanges(set, u) && slices.Contains(want, u)
					if got := holds(l.Intersect(set), u); got != in {
						t.Fatalf("UID %d in %v: %v", u, l.Intersect(set), got)
					}
				}
				n := uint32(rapid.IntRange(1, 4).Draw(t, "cut"))
				head, rest := cutRanges(l.All(), n)
				if countRanges(head) != min(n, l.Len()) || countRanges(head)+countRanges(rest) != l.Len() {
					t.Fatalf("cut %v at %d: %v and %v", l.All(), n, head, rest)
				}
			},
		})
	})
}

func drawRanges(t *rapid.T, next mail.UID) (out []mail.UIDRange) {
	for range rapid.IntRange(0, 3).Draw(t, "ranges") {
		first := mail.UID(rapid.IntRange(1, int(next)).Draw(t, "first"))
		out = append(out, mail.UIDRange{First: first, Last: first + mail.UID(rapid.IntRange(0, 3).Draw(t, "size"))})
	}
	return out
}

func TestUIDListAtTheEnd(t *testing.T) {
	var l uidList
	l.Append(1)
	l.Append(1<<32 - 1)
	l.Remove([]mail.UIDRange{{First: 2, Last: 1<<32 - 1}})
	if l.Len() != 1 || l.Last() != 1 {
		t.Errorf("%+v", l)
	}
}

func TestPattern(t *testing.T) {
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"*", "a/b", true}, {"%", "a/b", false}, {"%", "a", true}, {"a/%", "a/b", true}, {"a/%", "a/b/c", false},
		{"%/%", "a/b", true}, {"a*c", "a/b/c", true}, {"a%c", "a/c", false}, {"a%c", "abbc", true}, {"inbox", "INBOX", true},
		{"inbox/%", "INBOX/x", true}, {"Inb%", "INBOX", false}, {"", "a", false}, {"%*%", "a/b", true}, {"*a*a*b", "aaab", true},
		{"*%", "x/y", true}, {"x%", "x", true}, {"x*", "x", true}, {"*x", "xyx", true}, {"%b%", "abc", true},
	} {
		p, err := newPattern("", c.pattern)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.match(c.name); got != c.want {
			t.Errorf("%q matches %q: %v", c.pattern, c.name, got)
		}
	}
	if _, err := newPattern("", strings.Repeat("a", 2000)); err == nil {
		t.Error("a pattern without end")
	}
	p, _ := newPattern("", strings.Repeat("*a", 400)+"b")
	if p.match(strings.Repeat("a", 1000)) {
		t.Error("matched")
	}
}
