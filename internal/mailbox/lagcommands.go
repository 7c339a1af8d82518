package mailbox

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// lagOrder is what copy set says of a copy's lag.
type lagOrder struct {
	ReplayLag     string `json:"replay_lag" doc:"how old log has to be before the copy replays it, up to 14d, as in 7d or 36h; 0 for at once; as it is when not given"`
	TruncationLag string `json:"truncation_lag" doc:"how much longer the copy keeps what was removed after it replayed that, up to 14d; as it is when not given"`
	Activatable   bool   `json:"activatable" doc:"with --replay-lag: do not suspend the activation of the copy"`
	Beyond        bool   `json:"beyond_hold_time" doc:"with --replay-lag: take a lag that is longer than hold_time of transport, on a copy that is only looked back into"`
}

// lagMost is the longest lag (Exchange: 14 days).
const lagMost = 14 * 24 * time.Hour

// laggedComment is the comment of a suspension that a lag brought about.
const laggedComment = "it replays late"

// parseLag reads a lag: a duration that may have days.
func parseLag(name, s string) (time.Duration, error) {
	text := strings.TrimSpace(s)
	var d time.Duration
	if n, rest, ok := strings.Cut(text, "d"); ok {
		v, err := strconv.ParseFloat(n, 64)
		if err != nil || !(v >= 0 && v <= 1000) { // also no number
			return 0, kind.Errorf(kind.Invalid, "--%s %q: want a time as in 7d or 36h", name, s)
		}
		d, text = time.Duration(v*float64(24*time.Hour)), rest
	}
	if text != "" && text != "0" {
		v, err := time.ParseDuration(text)
		if err != nil {
			return 0, kind.Errorf(kind.Invalid, "--%s %q: want a time as in 7d or 36h", name, s)
		}
		d += v
	}
	if d < 0 || d > lagMost {
		return 0, kind.Errorf(kind.Invalid, "--%s %q: want 0 to 14d", name, s)
	}
	return d, nil
}

// mayLag refuses a lag on the last copy that has none: whichever copy is active
// then, a failover would have to wait for a lag to be replayed. It refuses one
// that Safety Net does not cover, unless that is wanted.
func (k *Keeper) mayLag(in copyArg, o lagOrder) error {
	if o.ReplayLag == "" {
		if o.Beyond {
			return kind.Errorf(kind.Invalid, "--beyond-hold-time goes with --replay-lag")
		}
		if o.Activatable {
			return kind.Errorf(kind.Invalid, "--activatable goes with --replay-lag; otherwise: postern copy resume %s %s", in.Database, in.Server)
		}
		return nil
	}
	d, err := parseLag("replay-lag", o.ReplayLag)
	if err != nil || d == 0 {
		return err
	}
	if o.Beyond && o.Activatable {
		return kind.Errorf(kind.Invalid, "--beyond-hold-time is for a copy that is only looked back into, --activatable for one that may become active")
	}
	if err := k.covered(d, o.Beyond); err != nil {
		return err
	}
	def, ok := k.group.View().Database(in.Database)
	if !ok {
		return k.noDatabase(in.Database)
	}
	if !slices.ContainsFunc(def.Copies, func(c org.Copy) bool { return c.Server != in.Server && c.ReplayLag == 0 }) {
		return kind.WithHint(kind.Errorf(kind.Conflict, "%s on %s is the last copy without a lag", in.Database, in.Server), "postern copy add "+string(in.Database)+" SERVER")
	}
	return nil
}

// covered refuses a lag longer than Safety Net keeps what it delivered: should
// the copy be activated without the log it has not replayed, that mail could not
// be delivered again.
func (k *Keeper) covered(lag time.Duration, beyond bool) error {
	if k.deps.HoldTime == nil || beyond {
		return nil
	}
	if hold := k.deps.HoldTime(); lag > hold {
		return kind.WithHint(kind.Errorf(kind.Conflict,
			"--replay-lag %s is longer than hold_time %s: Safety Net could not deliver again what the copy has not replayed", days(lag), days(hold)),
			"postern transport set hold_time "+days(lag)+" first, or --beyond-hold-time for a copy that is only looked back into")
	}
	return nil
}

// apply changes a copy as ordered.
func (o lagOrder) apply(c *org.Copy) error {
	if o.TruncationLag != "" {
		d, err := parseLag("truncation-lag", o.TruncationLag)
		if err != nil {
			return err
		}
		c.TruncationLag = d
	}
	if o.ReplayLag == "" {
		return nil
	}
	d, err := parseLag("replay-lag", o.ReplayLag)
	if err != nil {
		return err
	}
	c.ReplayLag, c.LagBeyondHold = d, d > 0 && o.Beyond
	switch {
	case d > 0 && !o.Activatable && !c.ActivationSuspended:
		c.ActivationSuspended, c.SuspendComment = true, laggedComment
	case (d == 0 || o.Activatable) && c.SuspendComment == laggedComment:
		c.ActivationSuspended, c.SuspendComment = false, ""
	}
	return nil
}
