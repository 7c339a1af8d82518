package audit

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
)

// ListIn are the parameters of "audit list".
type ListIn struct {
	Count   int           `json:"count" doc:"how many records at most, the newest" default:"100"`
	Caller  string        `json:"caller" doc:"only changes of this caller"`
	Command string        `json:"command" doc:"only this command, as in \"mailbox create\", or all of a noun"`
	Since   time.Duration `json:"since" doc:"only the last while, as in 24h"`
	Outcome string        `json:"outcome" doc:"only with this outcome" enum:"started,done,failed"`
}

// Commands are the entries of the command table. Names and parameters can be
// read from those of a nil log.
func Commands(l *Log) []command.Command {
	return []command.Command{command.New(command.Command{
		Noun: "audit", Verb: "list",
		Short:   "list who changed what",
		Long:    "Lists changes, the oldest first. A change that is \"started\" for long was cut off with its server.",
		Example: "postern audit list --since 24h --outcome failed",
		Roles:   []command.Role{command.Auditor, command.OrganizationAdmin},
		Scoped:  true,
	}, func(ctx context.Context, in ListIn) ([]Record, error) { return l.List(ctx, in) })}
}

// List returns the newest records that fit, the oldest first. A caller who is
// bound to an organization sees what was done by callers of that one.
func (l *Log) List(ctx context.Context, in ListIn) ([]Record, error) {
	caller := command.CallerOf(ctx)
	in.Count = min(max(in.Count, 1), Keep)
	var out []Record
	for key, value := range l.state.Prefix(Prefix) {
		var r Record
		if err := json.Unmarshal(value, &r); err != nil {
			l.log.Warn("audit record not readable", "key", key, "error", err)
			continue
		}
		if in.fits(r, caller.Organization, l.now()) {
			out = append(out, r)
		}
	}
	return slices.Clone(out[max(0, len(out)-in.Count):]), nil
}

func (in ListIn) fits(r Record, organization string, now time.Time) bool {
	switch {
	case organization != "" && r.Organization != organization,
		in.Caller != "" && r.Caller != in.Caller,
		in.Outcome != "" && r.Outcome != in.Outcome,
		in.Since > 0 && now.Sub(r.Time) > in.Since,
		in.Command != "" && r.Command != in.Command && !strings.HasPrefix(r.Command, in.Command+" "):
		return false
	}
	return true
}
