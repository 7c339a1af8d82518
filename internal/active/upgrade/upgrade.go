package upgrade

import (
	"cmp"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// KindName is the kind of these plans.
const KindName = "upgrade"

// Names of the steps that are not maintenance's.
const (
	StepReady = "preconditions"
	StepRun   = "start the installed program"
	StepCalm  = "calm"
)

// Order is what somebody wants.
type Order struct {
	// Version that has to run at the end; empty: what is installed.
	Version string `json:"version,omitempty"`
	// RestartOnly restarts every server, whatever it runs.
	RestartOnly bool `json:"restart_only,omitempty"`
	// AcceptSingle as for maintenance.
	AcceptSingle bool          `json:"accept_single_copy,omitempty"`
	Pause        time.Duration `json:"pause"`
	By           string        `json:"by,omitempty"`
	Why          string        `json:"why,omitempty"`
}

// Turn is when a server comes, from 1 on; 0 where nothing is to do.
type Turn int

// String is the number, and a dash for none.
func (t Turn) String() string {
	if t == 0 {
		return "-"
	}
	return strconv.Itoa(int(t))
}

// Server is a server with its programs.
type Server struct {
	Name    org.ServerName `json:"server" col:"SERVER"`
	Turn    Turn           `json:"turn,omitempty" col:"TURN"`
	Role    string         `json:"role" col:"ROLE"`
	Active  int            `json:"active_databases" col:"ACTIVE"`
	Running string         `json:"running" col:"RUNS"`
	// Installed is empty where the server does not tell.
	Installed string `json:"installed" col:"INSTALLED"`
	Wanted    string `json:"wanted" col:"WANTED"`
	Note      string `json:"note,omitempty" col:"NOTE"`
	refused   bool
}

// Turns puts the servers into the order in which they have their turn:
// witnesses, then those with the fewest active databases, the primary last. It
// is pure.
func Turns(f maintain.Facts, programs map[org.ServerName]org.Program, o Order) []Server {
	active := map[org.ServerName]int{}
	for _, d := range f.Databases {
		active[d.Active]++
	}
	var out []Server
	for _, s := range f.Servers {
		p := programs[s.Name]
		x := Server{Name: s.Name, Active: active[s.Name], Running: p.Running, Installed: p.Installed, Wanted: cmp.Or(o.Version, p.Installed, p.Running)}
		switch {
		case s.Witness:
			x.Role = "witness"
		case s.Name == f.Primary:
			x.Role = "primary"
		}
		x.judge(s, o, p.Fault)
		out = append(out, x)
	}
	rank := map[string]int{"witness": 0, "": 1, "primary": 2}
	slices.SortStableFunc(out, func(a, b Server) int {
		return cmp.Or(cmp.Compare(rank[a.Role], rank[b.Role]), cmp.Compare(a.Active, b.Active), cmp.Compare(a.Name, b.Name))
	})
	turn := Turn(0)
	for i := range out {
		if !out[i].done(o) {
			turn++
			out[i].Turn = turn
		}
	}
	return out
}

// done tells that there is nothing to do on a server.
func (s Server) done(o Order) bool { return !o.RestartOnly && s.Running == s.Wanted }

// judge notes what speaks against a server's turn. fault is why the installed
// program does not start.
func (s *Server) judge(m maintain.Server, o Order, fault string) {
	switch {
	case !m.Heard:
		s.Note, s.refused = "it is not heard", true
	case m.Out:
		s.Note, s.refused = "it is in maintenance", true
	case fault != "":
		s.Note, s.refused = "the installed program does not start: "+fault, true
	case o.RestartOnly:
		s.Note = "is restarted"
	case s.Running == s.Wanted:
		s.Note = "runs it already"
	case s.Installed == "":
		s.Note, s.refused = "it does not tell which version is installed", true
	case s.Installed != s.Wanted:
		s.Note, s.refused = fmt.Sprintf("%s has to be installed first, %s is", s.Wanted, s.Installed), true
	default:
		if why := Skew(s.Running, s.Wanted); why != "" {
			s.Note, s.refused = why, true
		}
	}
}

var release = regexp.MustCompile(`^v?(\d{1,6})\.(\d{1,6})(?:[.\-+].*)?$`)

// Skew says why one version may not follow the other: servers of two releases in
// a row understand each other, others may not. Versions that are no releases
// are not judged.
func Skew(from, to string) string {
	a, b := release.FindStringSubmatch(from), release.FindStringSubmatch(to)
	if a == nil || b == nil {
		return ""
	}
	n := func(s string) int { i, _ := strconv.Atoi(s); return i } // at most six digits
	switch {
	case n(a[1]) != n(b[1]) && !(n(b[1]) == n(a[1])+1 && n(b[2]) == 0):
		return fmt.Sprintf("%s does not follow %s: go release by release", to, from)
	case n(a[1]) == n(b[1]) && (n(b[2]) > n(a[2])+1 || n(b[2])+1 < n(a[2])):
		return fmt.Sprintf("%s and %s are more than one release apart", to, from)
	}
	return ""
}

// Plan makes the plan; Conflict says what speaks against it.
func Plan(servers []Server, o Order, t maintain.Times) (org.Plan, error) {
	var no []string
	var steps []org.PlanStep
	for _, s := range servers {
		if s.refused {
			no = append(no, fmt.Sprintf("%s: %s", s.Name, s.Note))
		}
		if !s.done(o) {
			steps = append(steps, stepsOf(s, o, t)...)
		}
	}
	if len(no) > 0 {
		return org.Plan{}, kind.WithHint(kind.Errorf(kind.Conflict, "the group cannot be upgraded now: %s", strings.Join(no, "; ")), "postern upgrade plan")
	}
	if len(steps) == 0 {
		return org.Plan{}, kind.WithHint(kind.Errorf(kind.Conflict, "every server runs %s already", servers[0].Wanted), "postern upgrade run --restart-only restarts them")
	}
	title := "upgrade the group"
	if o.RestartOnly {
		title = "restart the group"
	} else if o.Version != "" {
		title += " to " + o.Version
	}
	b, err := json.Marshal(o)
	return org.Plan{Kind: KindName, Title: title, By: o.By, Why: o.Why, Args: b, Steps: steps}, err
}

func stepsOf(s Server, o Order, t maintain.Times) []org.PlanStep {
	one := func(name, detail string, d time.Duration) org.PlanStep {
		return org.PlanStep{Name: name, Detail: detail, Server: s.Name, State: org.StepWaiting, Deadline: d}
	}
	wanted := "the version that is installed"
	if !o.RestartOnly {
		wanted = s.Wanted
	}
	out := []org.PlanStep{one(StepReady, "all copies in sync, nothing red", time.Minute)}
	out = append(out, maintain.StartSteps(s.Name, t)...)
	out = append(out, one(StepRun, wanted, t.Start))
	out = append(out, maintain.StopSteps(s.Name, t, false)...)
	return append(out, one(StepCalm, fmt.Sprintf("nothing red for %s", o.Pause), o.Pause+10*time.Minute))
}
