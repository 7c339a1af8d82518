package layout

import (
	"testing"
	"time"
)

func TestRemovable(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		name string
		l    Leftover
		want bool
	}{
		{"a copy that moved, healthy in the site", Leftover{Kind: Moved, Age: day, Untouched: day, Known: true, InSite: true}, true},
		{"the same, a moment too early", Leftover{Kind: Moved, Age: day - 1, Untouched: day, Known: true, InSite: true}, false},
		{"the same, touched since", Leftover{Kind: Moved, Age: 9 * day, Untouched: day - 1, Known: true, InSite: true}, false},
		{"healthy in another site", Leftover{Kind: Left, Age: 2*day - 1, Untouched: day, Known: true, Elsewhere: true}, false},
		{"healthy in another site, after two days", Leftover{Kind: Left, Age: 2 * day, Untouched: day, Known: true, Elsewhere: true}, true},
		{"nobody else has it", Leftover{Kind: Left, Age: 99 * day, Untouched: 99 * day, Known: true}, false},
		{"an administrator removed it", Leftover{Kind: Removed, Age: 13 * day, Untouched: 13 * day, Known: true, InSite: true}, false},
		{"an administrator removed it, after two weeks", Leftover{Kind: Removed, Age: 14 * day, Untouched: 14 * day}, true},
		{"of an unknown database", Leftover{Kind: Left, Age: 13 * day, Untouched: 13 * day, InSite: true}, false},
		{"strangers beside", Leftover{Kind: Moved, Age: 13 * day, Untouched: 13 * day, Known: true, InSite: true, Strangers: true}, false},
		{"strangers beside, after two weeks", Leftover{Kind: Moved, Age: 14 * day, Untouched: 14 * day, Known: true, InSite: true, Strangers: true}, true},
		{"log whose messages were delivered", Leftover{Kind: Offered, Age: day, Untouched: day, Known: true, InSite: true}, true},
	} {
		if got := Removable(c.l); got != c.want {
			t.Errorf("%s: %t", c.name, got)
		}
	}
}
