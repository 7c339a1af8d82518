package mailbox

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// TestSeedSentence: what copy update says while it waits, and when it is over.
func TestSeedSentence(t *testing.T) {
	at := func(s org.CopyState, done, total, rate int64, reason string) org.CopyStatus {
		return org.CopyStatus{Database: "DB01", Server: "MBX2", State: s, SeedCount: 3, SeedDone: done, SeedTotal: total, RateIn: rate, SeedSource: "MBX1", Reason: reason}
	}
	for _, c := range []struct {
		name string
		st   org.CopyStatus
		held bool
		want string
		over bool
	}{
		{"not heard of", org.CopyStatus{State: org.CopyHealthy, SeedCount: 2}, false, "", false},
		{"waits for its turn", at(org.CopySeeding, 0, 0, 0, "waits: 10 seeds are under way here, the most there may be"), false,
			": Seeding, waits: 10 seeds are under way here, the most there may be", false},
		{"slow", at(org.CopySeeding, 5e6, 20e6, 946_240, ""), false, ": 25% from MBX1, 0.9 MB/s, 16s left", false},
		{"stands still", at(org.CopySeeding, 5e6, 20e6, 0, ""), false, ": 25% from MBX1, 0.0 MB/s, time left not known", false},
		{"its source is gone", at(org.CopyFailed, 0, 0, 0, "no connection to MBX1"), false, ": Failed, no connection to MBX1", false},
		{"begins", at(org.CopyInitializing, 0, 0, 0, ""), false, ": Initializing", false},
		{"healthy", at(org.CopyHealthy, 0, 0, 0, ""), false, " is healthy", true},
		{"healthy, to be suspended", at(org.CopyHealthy, 0, 0, 0, ""), true, " is healthy", false},
	} {
		if got, over := seedSentence(c.st, 3, c.held); got != c.want || over != c.over {
			t.Errorf("%s: %q, %v, want %q, %v", c.name, got, over, c.want, c.over)
		}
	}
	if s := seedOf(at(org.CopySuspended, 5e6, 20e6, 3e6, "cancelled")); s.Rate != 0 || s.Left != 0 || s.Percent != 25 {
		t.Errorf("a seed that was cancelled: %+v", s)
	}
	if s := seedOf(at(org.CopySeeding, 5e6, 20e6, 3e6, "")); s.Rate != 3e6 || s.Left != 5*time.Second {
		t.Errorf("%+v", s)
	}
}
