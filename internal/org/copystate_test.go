package org

import "testing"

// TestCopyMay holds the table to what every state has to have: a way to and
// from Initializing, a way to Failed where a disk is used, and no way into
// what only a reader shows.
func TestCopyMay(t *testing.T) {
	for _, from := range CopyStates() {
		if !CopyMay(from, from) {
			t.Errorf("%s may not stay", from)
		}
		if CopyMay(from, CopyServiceDown) && from != CopyServiceDown {
			t.Errorf("%s goes into ServiceDown, which only readers show", from)
		}
		if from != CopyMounted && from != CopyInitializing && !CopyMay(from, CopyInitializing) {
			t.Errorf("%s cannot begin anew", from)
		}
		if from != CopyServiceDown && from != CopyFailedAndSuspended && !CopyMay(from, CopyFailedAndSuspended) {
			t.Errorf("%s cannot fail for good", from)
		}
	}
	for _, c := range []struct {
		from, to CopyState
		may      bool
	}{
		{CopyInitializing, CopyHealthy, true},
		{CopyHealthy, CopyMounting, true},
		{CopyMounting, CopyMounted, true},
		{CopyMounted, CopyDismounting, true},
		{CopyFailedAndSuspended, CopySeeding, true},
		{CopyFailed, CopyHealthy, true}, // a stalled write ended
		{CopyInitializing, CopyMounted, false},
		{CopyMounted, CopyHealthy, false},
		{CopySeeding, CopyMounting, false},
		{CopySuspended, CopyHealthy, false},
		{CopyFailedAndSuspended, CopyHealthy, false},
		{CopyFailedAndSuspended, CopyMounting, false},
		{CopyHealthy, CopySeeding, false},
		{"", CopyHealthy, false},
	} {
		if got := CopyMay(c.from, c.to); got != c.may {
			t.Errorf("%s to %s: %t, want %t", c.from, c.to, got, c.may)
		}
	}
}

func TestNeedsDisk(t *testing.T) {
	for cause, want := range map[string]bool{CauseGone: true, CauseForeign: true, CauseIO: true, CauseReadOnly: true, CauseHung: false, CauseLog: false, "": false} {
		if NeedsDisk(cause) != want {
			t.Errorf("%q: %t, want %t", cause, !want, want)
		}
	}
}
