package drill

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// KindName is the kind of these plans.
const KindName = "drill"

// Exercises.
const (
	Move        = "move"            // a database moves away and back
	KillWorker  = "kill-worker"     // the mail worker of a server ends without warning
	Reseed      = "reseed"          // a copy is emptied and made anew from another
	ReseedSpare = "reseed-spare"    // a copy is made anew on a spare volume, and goes back
	Restore     = "restore-mailbox" // mail is destroyed and recovered from the past
	Network     = "network"         // log goes by another network for a while
	Failover    = "failover"        // the mail worker of a server hangs, and other servers take its databases
	Maintenance = "maintenance"     // a server goes out of service and comes back
)

// Exercises are all of them.
func Exercises() []string {
	return []string{Move, KillWorker, Maintenance, Reseed, ReseedSpare, Restore, Network, Failover}
}

// ofDatabase tells whether an exercise is of a database, and not of a server.
func ofDatabase(exercise string) bool {
	return slices.Contains([]string{Move, Reseed, ReseedSpare, Restore}, exercise)
}

// Names of the steps that are not maintenance's.
const (
	StepCheck   = "check redundancy"
	StepMeasure = "measure"
	StepMove    = "move database"
	StepBack    = "move it back"
	StepReseed  = "reseed copy"
	StepKill    = "kill mail worker"
	StepFreeze  = "freeze mail worker"
	StepAway    = "databases elsewhere"
	StepReturn  = "another mail worker"
	StepSettle  = "settle"
	StepReport  = "report"
	StepWrite   = "write test mail"
	StepDestroy = "destroy it"
	StepRecover = "recover it"
	StepTidy    = "tidy up"
	StepSpare   = "seed on spare"
	StepVerify  = "verify copy"
	StepHome    = "back on its own volume"
	StepCut     = "network out of use"
	StepWithout = "without it"
	StepJoin    = "network in use"
)

// Most of what is measured at the same time.
const (
	mostDatabases = 4
	mostMeters    = 2
)

// DefaultAllowed is how long clients may wait where nothing else is said.
const DefaultAllowed = 5 * time.Second

// Order is what somebody wants.
type Order struct {
	Exercise string           `json:"exercise"`
	Server   org.ServerName   `json:"server,omitempty"`
	Database org.DatabaseName `json:"database,omitempty"`
	To       org.ServerName   `json:"to,omitempty"`
	Allowed  time.Duration    `json:"allowed"`
	By       string           `json:"by,omitempty"`
	Why      string           `json:"why,omitempty"`
	// Databases are measured, by Meters.
	Databases []org.DatabaseName `json:"databases,omitempty"`
	Meters    []org.ServerName   `json:"meters,omitempty"`
	// Seed is the number of the seed that a reseed orders: it is ordered once.
	Seed int `json:"seed,omitempty"`
	// Spare gets the copy of a reseed on a spare, which is on Volume otherwise.
	Spare  org.VolumeName `json:"spare,omitempty"`
	Volume org.VolumeName `json:"volume,omitempty"`
	// Network is the one that is taken out of use.
	Network string `json:"network,omitempty"`
	// Allow names what has to be allowed by name: a failover.
	Allow string `json:"allow,omitempty"`
	// Schedule is whose drill this is, empty for a person's.
	Schedule string `json:"schedule,omitempty"`
	// Active is where databases were active when the drill was ordered.
	Active map[org.DatabaseName]org.ServerName `json:"active_before,omitempty"`
	// Before is the sum of the rows when the drill was ordered.
	Before string `json:"rows_before,omitempty"`
}

// Complete fills in what an order leaves open: the server or target, what is
// measured, and by whom. It is pure. Errors: NotFound, Invalid.
func Complete(f maintain.Facts, o Order) (Order, error) {
	if o.Allowed <= 0 {
		o.Allowed = DefaultAllowed
	}
	o.Active = map[org.DatabaseName]org.ServerName{}
	for _, d := range f.Databases {
		o.Active[d.Name] = d.Active
	}
	var err error
	switch {
	case ofDatabase(o.Exercise) && o.Database == "":
		err = kind.WithHint(kind.Errorf(kind.Invalid, "the exercise %s wants a database", o.Exercise), "--database DB01")
	case ofDatabase(o.Exercise):
		o, err = completeDatabase(f, o)
	case o.Exercise == Network:
		o.Databases = first(f, func(maintain.Database) bool { return true })
	case slices.Contains(Exercises(), o.Exercise):
		o, err = completeServer(f, o)
	default:
		err = kind.WithHint(kind.Errorf(kind.Invalid, "exercise %q is not known", o.Exercise), strings.Join(Exercises(), ", "))
	}
	if err != nil {
		return o, err
	}
	for _, s := range f.Servers {
		if s.Heard && !s.Witness && !s.Out && s.Name != o.Server && s.Name != o.To && len(o.Meters) < mostMeters {
			o.Meters = append(o.Meters, s.Name)
		}
	}
	return o, nil
}

// completeDatabase is that for an exercise of a database.
func completeDatabase(f maintain.Facts, o Order) (Order, error) {
	i := slices.IndexFunc(f.Databases, func(d maintain.Database) bool { return d.Name == o.Database })
	if i < 0 {
		return o, kind.WithHint(kind.Errorf(kind.NotFound, "database %q does not exist", o.Database), "postern database list")
	}
	d := f.Databases[i]
	o.Databases = []org.DatabaseName{d.Name}
	other := &o.Server // a copy that is not active, and in sync
	switch o.Exercise {
	case Restore:
		o.Server = d.Active
		return o, nil
	case Move:
		o.Server, other = d.Active, &o.To
	}
	*other = cmp.Or(*other, target(f, d))
	if *other == "" || *other == d.Active || !slices.Contains(d.InSync, *other) {
		return o, kind.Errorf(kind.Conflict, "%s has no other copy in sync that could %s", d.Name, map[bool]string{true: "become active", false: "be made anew"}[o.Exercise == Move])
	}
	return o, nil
}

// completeServer is that for an exercise of a server.
func completeServer(f maintain.Facts, o Order) (Order, error) {
	if o.Server == "" {
		return o, kind.WithHint(kind.Errorf(kind.Invalid, "the exercise %s wants a server", o.Exercise), "--server MBX2")
	}
	if !slices.ContainsFunc(f.Servers, func(s maintain.Server) bool { return s.Name == o.Server && !s.Witness }) {
		return o, kind.WithHint(kind.Errorf(kind.NotFound, "there is no mail server %q", o.Server), "postern server list")
	}
	if o.Exercise != Failover {
		o.Databases = concerned(f, o.Server)
		return o, nil
	}
	o.Databases = first(f, func(d maintain.Database) bool { return d.Active == o.Server })
	if o.Allow != Failover {
		return o, kind.WithHint(kind.Errorf(kind.Invalid, "a failover is an interruption that people may notice"), "--allow failover")
	}
	return o, nil
}

// target is another copy in sync whose server is heard.
func target(f maintain.Facts, d maintain.Database) org.ServerName {
	for _, s := range f.Servers {
		if s.Name != d.Active && s.Heard && !s.Out && s.HighAvailability == org.Active && slices.Contains(d.InSync, s.Name) {
			return s.Name
		}
	}
	return ""
}

// concerned are databases that are active on a server, or else that have a copy
// there.
func concerned(f maintain.Facts, s org.ServerName) []org.DatabaseName {
	all := first(f, func(d maintain.Database) bool { return d.Active == s })
	all = append(all, first(f, func(d maintain.Database) bool { return d.Active != s && slices.Contains(d.Copies, s) })...)
	return all[:min(len(all), mostDatabases)]
}

// first are the first databases of a kind, as many as are measured.
func first(f maintain.Facts, which func(maintain.Database) bool) (out []org.DatabaseName) {
	for _, d := range f.Databases {
		if len(out) < mostDatabases && which(d) {
			out = append(out, d.Name)
		}
	}
	return out
}

// Judge tells why a drill may not begin: it has to leave redundancy to spare,
// and nothing may be wrong already. red are critical health sets that are not
// well. It reads nothing but its arguments.
func Judge(f maintain.Facts, o Order, red []string) []string {
	no := slices.Clone(red)
	if len(o.Meters) == 0 {
		no = append(no, "no server is left that could measure")
	}
	if len(o.Databases) == 0 {
		no = append(no, "no database is concerned, so nothing would be shown")
	}
	for _, s := range f.Servers {
		if !s.Heard {
			no = append(no, fmt.Sprintf("%s is not heard", s.Name))
		}
		if s.Out {
			no = append(no, fmt.Sprintf("%s is in maintenance", s.Name))
		}
	}
	if o.Server != "" {
		no = append(no, maintain.Judge(f, maintain.Order{Server: o.Server})...)
	}
	for _, d := range f.Databases {
		if o.Server != "" && !slices.Contains(d.Copies, o.Server) {
			continue
		}
		if n := len(d.InSync); n < 3 {
			no = append(no, fmt.Sprintf("%s is in sync on %d servers, a drill wants 3", d.Name, n))
		}
	}
	slices.Sort(no)
	return slices.Compact(no)
}

// Plan makes the plan of a complete order.
func Plan(o Order, t maintain.Times) (org.Plan, error) {
	one := func(name, detail string, s org.ServerName, d time.Duration) org.PlanStep {
		return org.PlanStep{Name: name, Detail: detail, Server: s, State: org.StepWaiting, Deadline: d}
	}
	title := "drill: " + o.Exercise + " " + string(o.Server)
	steps := []org.PlanStep{
		one(StepCheck, "redundancy to spare, nothing wrong", o.Server, t.Obey),
		one(StepMeasure, fmt.Sprintf("%s write and read in %s", names(o.Meters), names(o.Databases)), "", t.Roles),
	}
	switch o.Exercise {
	case Move:
		title = fmt.Sprintf("drill: %s moves from %s to %s and back", o.Database, o.Server, o.To)
		steps = append(steps, one(StepMove, string(o.Database), o.To, t.Move), one(StepBack, string(o.Database), o.Server, t.Move))
	case Reseed:
		title = fmt.Sprintf("drill: reseed %s on %s", o.Database, o.Server)
		steps = append(steps, one(StepReseed, fmt.Sprintf("%s is emptied and made anew while writes go on", o.Database), o.Server, t.Sync))
	case ReseedSpare:
		title = fmt.Sprintf("drill: reseed %s on %s on the spare volume %s", o.Database, o.Server, o.Spare)
		steps = append(steps, one(StepSpare, fmt.Sprintf("%s is made anew on %s; what is on %s is set aside whole", o.Database, o.Spare, o.Volume), o.Server, t.Sync),
			one(StepVerify, "checksums of log and index as on the other copies", o.Server, t.Sync),
			one(StepHome, fmt.Sprintf("the copy on %s catches up, %s is a spare again", o.Volume, o.Spare), o.Server, t.Sync))
	case Restore:
		title = fmt.Sprintf("drill: recover mail in %s", o.Database)
		steps = append(steps, one(StepWrite, "a folder of the health mailbox, for nobody to read", "", t.Move), one(StepDestroy, "the folder is removed for good", "", t.Move),
			one(StepRecover, "from a copy that shows the past, read and compared", "", t.Sync), one(StepTidy, "the health mailbox is as it was", "", t.Move))
	case Network:
		title = fmt.Sprintf("drill: without the network %s", o.Network)
		steps = append(steps, one(StepCut, o.Network+" is ignored, log goes by another", "", t.Roles), one(StepWithout, "every copy stays in sync", "", t.Move), one(StepJoin, o.Network+" may be used again", "", t.Roles))
	case KillWorker:
		steps = append(steps, one(StepKill, "ends without warning", o.Server, t.Move), pick(maintain.StopSteps(o.Server, t, false), maintain.StepSync))
	case Failover:
		back := maintain.StopSteps(o.Server, t, true)
		steps = append(steps, one(StepFreeze, "it neither answers nor ends", o.Server, t.Roles), one(StepAway, "other copies are active", o.Server, t.Roles),
			one(StepReturn, "the host ends the one that hangs", o.Server, t.Move), pick(back, maintain.StepSync), pick(back, maintain.StepBalance))
	case Maintenance:
		steps = slices.Concat(steps, maintain.StartSteps(o.Server, t), maintain.StopSteps(o.Server, t, true))
	}
	steps = append(steps, one(StepSettle, "clients go on for a while, and every copy is in sync", "", t.Sync), one(StepReport, "signed", "", 2*time.Minute))
	b, err := json.Marshal(o)
	return org.Plan{Kind: KindName, Title: title, By: o.By, Why: o.Why, Args: b, Steps: steps}, err
}

// pick is one step of a list.
func pick(steps []org.PlanStep, name string) org.PlanStep {
	return steps[slices.IndexFunc(steps, func(s org.PlanStep) bool { return s.Name == name })]
}

func names[T ~string](list []T) string {
	out := make([]string, len(list))
	for i, x := range list {
		out[i] = string(x)
	}
	return strings.Join(out, ", ")
}

// Measuring tells whether clients have to measure while a plan stands as it does:
// from the step that asks for it to the report.
func Measuring(p org.Plan) (Order, bool) {
	var o Order
	if p.Kind != KindName || p.State != org.PlanRunning || json.Unmarshal(p.Args, &o) != nil {
		return o, false
	}
	for _, s := range p.Steps {
		switch s.Name {
		case StepMeasure:
			if s.State == org.StepWaiting {
				return o, false
			}
		case StepReport:
			return o, s.State == org.StepWaiting
		}
	}
	return o, false
}
