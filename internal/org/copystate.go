package org

import "slices"

// copyNext are the changes of state a copy may go through (Exchange documents
// the states, not the changes; docs/design/health.md 3.8 has the reasons).
// Nobody goes into ServiceDown: a reader shows it for a server it does not
// hear.
var copyNext = map[CopyState][]CopyState{
	CopyInitializing: {CopyHealthy, CopyResynchronizing, CopySeeding, CopyFailed, CopyFailedAndSuspended, CopySuspended, CopyMounting, CopyDismounted},
	CopyResynchronizing: {CopyHealthy, CopySeeding, CopyDisconnectedAndResynchronizing, CopyInitializing, CopyFailed, CopyFailedAndSuspended,
		CopySuspended, CopyMounting, CopyDismounted},
	CopyHealthy: {CopyResynchronizing, CopyDisconnectedAndHealthy, CopySinglePageRestore, CopyInitializing, CopyFailed, CopyFailedAndSuspended,
		CopySuspended, CopyMounting, CopyDismounted},
	CopyDisconnectedAndHealthy: {CopyHealthy, CopyResynchronizing, CopySeeding, CopyInitializing, CopyFailed, CopyFailedAndSuspended,
		CopySuspended, CopyMounting, CopyDismounted},
	CopyDisconnectedAndResynchronizing: {CopyResynchronizing, CopyHealthy, CopySeeding, CopyInitializing, CopyFailed, CopyFailedAndSuspended,
		CopySuspended, CopyMounting, CopyDismounted},
	CopySeeding:            {CopyHealthy, CopyResynchronizing, CopyInitializing, CopySuspended, CopyFailed, CopyFailedAndSuspended},
	CopySinglePageRestore:  {CopyInitializing, CopyHealthy, CopyFailed, CopyFailedAndSuspended},
	CopyFailed:             {CopyInitializing, CopySuspended, CopyFailedAndSuspended, CopyHealthy},
	CopyFailedAndSuspended: {CopyInitializing, CopySeeding},
	CopySuspended:          {CopyInitializing, CopySeeding, CopyFailed, CopyFailedAndSuspended},
	CopyMounting:           {CopyMounted, CopyDismounting, CopyDismounted, CopyFailed, CopyFailedAndSuspended, CopyInitializing},
	CopyMounted:            {CopyDismounting, CopyFailed, CopyFailedAndSuspended},
	CopyDismounting:        {CopyDismounted, CopyInitializing, CopyFailed, CopyFailedAndSuspended},
	CopyDismounted:         {CopyMounting, CopyInitializing, CopyFailed, CopyFailedAndSuspended},
	CopyServiceDown:        {CopyInitializing},
}

// CopyMay tells whether a copy may go from one state to the other; staying is
// always allowed.
func CopyMay(from, to CopyState) bool {
	return from == to || slices.Contains(copyNext[from], to)
}

// CopyStates lists the states a copy can be in.
func CopyStates() []CopyState {
	return []CopyState{CopyInitializing, CopyResynchronizing, CopyHealthy, CopyDisconnectedAndHealthy, CopyDisconnectedAndResynchronizing,
		CopySeeding, CopySinglePageRestore, CopyFailed, CopyFailedAndSuspended, CopySuspended, CopyMounting, CopyMounted, CopyDismounting,
		CopyDismounted, CopyServiceDown}
}

// Causes of a copy's or a volume's failure, as classes. Another cause is said
// in words only.
const (
	CauseGone     = "gone"      // the disk, or its folder, is not there
	CauseForeign  = "foreign"   // another disk is in its place
	CauseIO       = "io"        // reads or writes fail
	CauseReadOnly = "read-only" // writes are refused
	CauseHung     = "hung"      // an access has not come back
	CauseLog      = "log"       // durable log is missing or cannot be used
)

// NeedsDisk tells whether a cause ends only with another disk, or with this
// one back.
func NeedsDisk(cause string) bool {
	switch cause {
	case CauseGone, CauseForeign, CauseIO, CauseReadOnly:
		return true
	}
	return false
}
