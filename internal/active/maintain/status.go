package maintain

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/org"
)

// Status is how far out of service a server is.
type Status struct {
	Server org.ServerName `json:"server" col:"SERVER"`
	// State is "in service", "held back", "going out", "in maintenance", "coming
	// back" or "down".
	State  string `json:"state" col:"STATE"`
	Safe   bool   `json:"safe_to_stop" col:"SAFE-TO-STOP"`
	Active int    `json:"active_databases" col:"ACTIVE"`
	// InSync are the databases whose confirmations wait for this server.
	InSync  int    `json:"in_sync" col:"IN-SYNC"`
	Waiting int64  `json:"queued_messages" col:"QUEUED"`
	Roles   string `json:"roles" col:"ROLES"`
	Plan    string `json:"plan,omitempty" col:"PLAN"`
	// Because says why it is not safe to stop, and who holds what back.
	Because string `json:"why,omitempty" col:"WHY"`
}

// Status tells of one server, or of all where only is empty.
func (l *Library) Status(ctx context.Context, only org.ServerName, running *org.Plan) []Status {
	f := l.Facts(ctx)
	var out []Status
	for _, s := range f.Servers {
		if only == "" || s.Name == only {
			out = append(out, l.status(ctx, f, s, running))
		}
	}
	return out
}

func (l *Library) status(ctx context.Context, f Facts, s Server, running *org.Plan) Status {
	st := Status{Server: s.Name, State: "in service"}
	var why, roles []string
	for _, d := range f.Databases {
		if d.Active == s.Name {
			st.Active++
		}
		if slices.Contains(d.InSync, s.Name) {
			st.InSync++
			if len(d.InSync) > 2 && d.Active != s.Name {
				why = append(why, string(d.Name)+" waits for its copy here")
			}
		}
	}
	if st.Active > 0 {
		why = append([]string{fmt.Sprintf("%d databases are active here", st.Active)}, why...)
	}
	if f.Primary == s.Name {
		roles = append(roles, "primary")
	}
	if f.Leader == s.Name {
		roles = append(roles, "leader")
	}
	if len(roles) > 0 {
		why = append(why, "it has roles")
	}
	st.Roles = strings.Join(roles, ",")
	switch {
	case !s.Heard:
		st.State = "down"
	case s.Witness:
	default:
		n, accepting, err := l.World.Queue(ctx, s.Name)
		st.Waiting = n
		switch {
		case err != nil:
			why = append(why, "its queue does not answer")
		case n > 0:
			why = append(why, fmt.Sprintf("%d messages wait in its queue", n))
		case accepting:
			why = append(why, "its queue accepts messages")
		}
	}
	st.Safe = len(why) == 0 || st.State == "down"
	l.wishes(&st, s, running, &why)
	if len(why) > 5 {
		why = append(why[:5], fmt.Sprintf("%d more reasons", len(why)-5))
	}
	st.Because = strings.Join(why, "; ")
	return st
}

// wishes adds who holds what back, and the plan that works on the server.
func (l *Library) wishes(st *Status, s Server, running *org.Plan, why *[]string) {
	v := l.World.View()
	for _, c := range org.Components() {
		var others []org.ComponentEntry
		for _, e := range v.ComponentEntries(s.Name) {
			if e.Component != c || e.State == org.Active || !e.Expires.IsZero() && !l.Now().Before(e.Expires) {
				continue
			}
			if e.Requester != org.Maintenance {
				others = append(others, e)
			}
		}
		if len(others) > 0 {
			*why = append(*why, HeldBy(c, others))
			if s.Heard {
				st.State = "held back"
			}
		}
	}
	if s.Out && s.Heard {
		st.State = "in maintenance"
	}
	if running == nil {
		return
	}
	for _, x := range running.Steps {
		if x.Server != s.Name {
			continue
		}
		st.Plan = running.ID
		if s.Heard && running.Kind == KindStart {
			st.State = "going out"
		} else if s.Heard && running.Kind == KindStop {
			st.State = "coming back"
		}
		break
	}
}
