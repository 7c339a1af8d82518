package keys

import (
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/transport/settings"
)

// retention is how long a retired key's record stays: messages wait in queues
// for days before somebody verifies them.
const retention = 7 * 24 * time.Hour

// Presence is what DNS says of a record.
type Presence uint8

// What DNS may say.
const (
	Unknown Presence = iota // nobody could tell
	Absent                  // there is none, or another
	Present
)

// Step is one change of a key.
type Step struct {
	Key    settings.DKIMKey // as it is afterwards
	Remove bool
	Why    string
}

// Rotate tells what changes for the keys of one domain. Published says of the
// selectors of publishing keys what DNS answers, settled how long it has to
// before a key signs: name servers and caches follow at their own pace. It reads
// nothing but its arguments.
func Rotate(all []settings.DKIMKey, published map[string]Presence, settled time.Duration, now time.Time) []Step {
	var steps []Step
	for _, k := range all {
		switch k.State {
		case settings.DKIMPublishing:
			steps = append(steps, publishing(k, published[k.Selector], settled, now)...)
		case settings.DKIMRetired:
			if now.Sub(k.Since) >= retention {
				steps = append(steps, Step{k, true, "it has not signed for seven days"})
			}
		}
	}
	return append(steps, succeeded(all, steps, now)...)
}

func publishing(k settings.DKIMKey, p Presence, settled time.Duration, now time.Time) []Step {
	switch {
	case p == Unknown:
	case p == Absent && !k.Seen.IsZero():
		k.Seen = time.Time{}
		return []Step{{Key: k, Why: "DNS does not answer with its record any more"}}
	case p == Present && k.Seen.IsZero():
		k.Seen = now
		return []Step{{Key: k, Why: "DNS answers with its record"}}
	case p == Present && now.Sub(k.Seen) >= settled:
		k.State, k.Since = settings.DKIMSigning, now
		return []Step{{Key: k, Why: "DNS has answered with its record for " + settings.Duration(settled)}}
	}
	return nil
}

// succeeded retires what signs or was to sign beside a newer key of the same
// algorithm that signs.
func succeeded(all []settings.DKIMKey, steps []Step, now time.Time) []Step {
	newest := map[string]settings.DKIMKey{} // by algorithm
	signs := func(k settings.DKIMKey) {
		if n, ok := newest[k.Algorithm]; k.State == settings.DKIMSigning && (!ok || younger(k, n)) {
			newest[k.Algorithm] = k
		}
	}
	for _, k := range all {
		signs(k)
	}
	for _, s := range steps {
		signs(s.Key)
	}
	var out []Step
	for _, k := range all {
		n, ok := newest[k.Algorithm]
		if !ok || k.Selector == n.Selector || k.State == settings.DKIMRetired || !younger(n, k) {
			continue
		}
		k.State, k.Since, k.Seen = settings.DKIMRetired, now, time.Time{}
		step := Step{Key: k, Why: n.Selector + " signs instead"}
		// A key that began in the same turn is overtaken at once.
		if i := slices.IndexFunc(steps, func(s Step) bool { return s.Key.Selector == k.Selector }); i >= 0 {
			steps[i] = step
			continue
		}
		out = append(out, step)
	}
	return out
}

// younger orders keys by when they were made.
func younger(a, b settings.DKIMKey) bool {
	if a.Created.Equal(b.Created) {
		return a.Selector > b.Selector
	}
	return a.Created.After(b.Created)
}
