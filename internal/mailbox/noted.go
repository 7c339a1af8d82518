package mailbox

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/mailbox/lag"
	"github.com/postern-mail/postern/internal/org"
)

// What the room does by itself, as the recovery log names it. Routine work (log
// that is trimmed or written again, checkpoints, states of copies) is not among it.
const (
	actRepair       = "RepairCopy"       // damaged data replaced from another copy
	actEvict        = "Evict"            // a copy taken out of the in-sync set
	actAdmit        = "Admit"            // a copy taken in again
	actAlone        = "ConfirmAlone"     // changes confirmed on one copy only
	actAgain        = "MountAgain"       // the active copy's process began anew
	actThaw         = "TakeBackHandover" // a move that was begun and forgotten
	actPlayDown     = "PlayDownLag"      // a lagged copy replays all it has
	actLagAgain     = "RestoreLag"       // and lags again
	actCloseVolume  = "CloseVolume"      // nothing is read or written there
	actOpenVolume   = "OpenVolume"       // it is used again
	actCut          = "SetLogAside"      // log that is not in the active's history
	actOffer        = "OfferMessages"    // what was set aside is delivered
	actRebuildIndex = "RebuildIndex"     // an index made anew from the log
	actSeedAgain    = "SeedAgain"        // a copy that cannot follow any more begins anew
)

// noteSeldom is the pause between two entries of the recovery log about what
// may come often.
const noteSeldom = 10 * time.Minute

// note has something written into the recovery log, some time; nobody waits.
func (k *Keeper) note(n org.Note) {
	if k.deps.Noted != nil {
		k.deps.Noted(n)
	}
}

// proof is what was seen of a database, a volume or a server.
func proof[T ~string](item string, target T, result, format string, args ...any) []org.RecoveryEvidence {
	return []org.RecoveryEvidence{{Item: item, Target: string(target), Result: result, Text: fmt.Sprintf(format, args...)}}
}

// noteMembers tells who left or entered the in-sync set, and why. An entry is
// about the server: when that is lost, all its copies go.
func (l *leader) noteMembers(action string, servers []org.ServerName, v verdict, now string) {
	for _, s := range servers {
		result := "removed"
		if action == actAdmit {
			result = "entered"
		}
		l.c.k.note(org.Note{Action: action, Target: string(s), Responder: "InSync", Cause: v.why[s],
			Evidence: proof("InSync", l.c.name, result, "%s", v.why[s]), Result: fmt.Sprintf("%s: %s", l.c.name, now)})
	}
}

// noteRepair tells of damage, and of the copy that had what was damaged.
func (c *dbCopy) noteRepair(lsn org.LSN, cause error, from org.ServerName, failed error) {
	n := org.Note{Action: actRepair, Target: string(c.name), Responder: "Store", Cause: fmt.Sprintf("damaged at position %d: %v", lsn, cause), Every: noteSeldom,
		Evidence: proof("Store", c.name, "damaged", "position %d: %v", lsn, cause), Result: fmt.Sprintf("position %d was replaced from %s", lsn, from)}
	if failed != nil {
		n.Failed, n.Result = true, fmt.Sprintf("position %d: no other copy could give it: %v", lsn, failed)
	}
	c.k.note(n)
}

// noteLag tells that a lagged copy replays all it has, would and waits, or lags again.
func (c *dbCopy) noteLag(action string, is lag.Decision, set time.Duration, f lag.Facts) {
	n := org.Note{Action: action, Target: string(c.name), Responder: "ReplayLag", Cause: is.Why, Every: noteSeldom,
		Evidence: proof("ReplayLag", c.name, string(cmp.Or(is.Cause, "well")), "%d bytes free of %d, disk takes %s, %d of %d copies without lag are available",
			f.Free, f.Size, f.Latency.Round(time.Millisecond), f.Available, f.Designed)}
	switch {
	case action == actLagAgain:
		n.Result = fmt.Sprintf("its lag of %s builds up again", set)
	case is.Deferred:
		n.Refused = fmt.Sprintf("it waits for its disk, at most %s", is.Left.Round(time.Minute))
	default:
		n.Result = fmt.Sprintf("it replays without its lag of %s", set)
	}
	c.k.note(n)
}

// whys joins the reasons of a verdict.
func whys(v verdict) string {
	var out []string
	for _, s := range slices.Sorted(maps.Keys(v.why)) {
		out = append(out, string(s)+": "+v.why[s])
	}
	return cmp.Or(strings.Join(out, "; "), "no other copy is in sync")
}

// noteRestart tells that an index is made anew, or that the copy is seeded again.
func (c *dbCopy) noteRestart(r *restart) {
	n := org.Note{Action: actRebuildIndex, Target: string(c.name), Responder: "Store", Cause: r.why, Evidence: proof("Store", c.name, "unusable", "%s", r.why),
		Result: "its index is made anew from its log"}
	if r.log {
		n.Action, n.Result = actSeedAgain, "its log was set aside and it is seeded from another copy"
	}
	c.k.note(n)
}

// closedText says what a failed volume means for its copies.
func closedText(stops bool) string {
	if stops {
		return "its copies are closed: their databases go elsewhere"
	}
	return "what hangs cannot be closed: its databases go elsewhere, its copies end when it answers"
}
