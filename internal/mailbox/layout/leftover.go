package layout

import "time"

// Kind is how a leftover came to be.
type Kind string

// Kinds of leftovers.
const (
	Removed Kind = "removed" // an administrator removed the copy or its database
	Moved   Kind = "moved"   // the copy was given another volume
	Left    Kind = "left"    // the folder of a copy on a volume that failed, and came back
	Offered Kind = "offered" // log that was cut off and whose messages were delivered again
)

// Leftover is what Postern itself set aside on a volume.
type Leftover struct {
	Kind      Kind
	Age       time.Duration // since it was set aside
	Untouched time.Duration // since anything in it changed
	Known     bool          // its database exists
	InSite    bool          // a healthy copy in sync is in this site
	Elsewhere bool          // one is in another site
	Strangers bool          // files that are not Postern's lie beside it
}

// Waits of the reclaimer (docs/design/health.md 8.1).
const (
	waitInSite    = 24 * time.Hour
	waitElsewhere = 2 * 24 * time.Hour
	waitUnknown   = 14 * 24 * time.Hour
	untouched     = 24 * time.Hour
)

// Removable tells whether a leftover may go. What an administrator removed
// waits longest, as he may have been wrong; what nobody else has never goes.
func Removable(l Leftover) bool {
	if l.Untouched < untouched {
		return false
	}
	switch {
	case l.Kind == Removed || !l.Known:
		return l.Age >= waitUnknown
	case !l.InSite && !l.Elsewhere:
		return false
	case l.Strangers:
		return l.Age >= waitUnknown
	case l.InSite:
		return l.Age >= waitInSite
	}
	return l.Age >= waitElsewhere
}
