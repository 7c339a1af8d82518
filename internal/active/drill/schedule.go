package drill

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/balance"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// SchedulePrefix is what the rows of schedules begin with.
const SchedulePrefix = "drills/schedule/"

// Limits of schedules.
const (
	mostSchedules = 16
	leastEvery    = time.Hour
	mostEvery     = 366 * 24 * time.Hour
	// tryAgain is how long after a refusal a schedule asks again, and CalmBefore
	// how long nothing was repaired before a drill that nobody ordered.
	tryAgain   = 15 * time.Minute
	CalmBefore = 10 * time.Minute
)

// Schedule has a drill begin by itself, inside a window, now and then.
type Schedule struct {
	Name     string `json:"name" col:"NAME"`
	Exercise string `json:"exercise" col:"EXERCISE"`
	// Server or Database is exercised; empty: each in its turn.
	Server   org.ServerName   `json:"server,omitempty" col:"SERVER"`
	Database org.DatabaseName `json:"database,omitempty" col:"DATABASE"`
	// Window is when it may begin, as "Sat,Sun 01:00-04:00".
	Window  string        `json:"window" col:"WINDOW"`
	Every   time.Duration `json:"every" col:"EVERY"`
	Allowed time.Duration `json:"allowed" col:"MAX-UNAVAILABLE"`
	Allow   string        `json:"allow,omitempty" col:"-"`
	By      string        `json:"by,omitempty" col:"BY"`
	Created time.Time     `json:"created" col:"-"`
	// Last is when one began, and its id; Asked when one was refused, and why.
	Last    time.Time `json:"last,omitzero" col:"LAST"`
	LastID  string    `json:"last_id,omitempty" col:"DRILL"`
	Asked   time.Time `json:"asked,omitzero" col:"-"`
	Refused string    `json:"refused,omitempty" col:"REFUSED"`
	// Turn counts the drills, so that each server or database has its turn.
	Turn int `json:"turn" col:"-"`
}

// Validate checks a schedule that somebody wants.
func (s Schedule) Validate() error {
	bad := func(format string, args ...any) error {
		return kind.WithHint(kind.Errorf(kind.Invalid, "schedule %s: "+format, append([]any{s.Name}, args...)...), "postern drill schedule add --help")
	}
	_, err := balance.ParseWindow(s.Window)
	switch {
	case s.Name == "" || len(s.Name) > 64 || strings.ContainsAny(s.Name, "/ \t\n"):
		return bad("a name has 1 to 64 characters, and neither spaces nor slashes")
	case !slices.Contains(Exercises(), s.Exercise):
		return bad("exercise %q is not known: want one of %s", s.Exercise, strings.Join(Exercises(), ", "))
	case s.Exercise == Failover && s.Allow != Failover:
		return bad("a failover is an interruption that people may notice: --allow failover")
	case err != nil:
		return bad("window %q: want days and a time of day, for example Sat,Sun 01:00-04:00", s.Window)
	case s.Window == "":
		return bad("it needs a window, for example Sat,Sun 01:00-04:00")
	case s.Every < leastEvery || s.Every > mostEvery:
		return bad("every %s: want %s to %s", s.Every, leastEvery, mostEvery)
	}
	return nil
}

// Due tells whether a drill may begin now: inside the window, long enough after
// the last one, and not right after a refusal.
func (s Schedule) Due(now time.Time) bool {
	w, err := balance.ParseWindow(s.Window)
	return err == nil && w.Open(now) && now.Sub(s.Last) >= s.Every && now.Sub(s.Asked) >= tryAgain
}

// Order is the drill that a schedule begins next. servers and databases are all
// that there are; each has its turn where the schedule names none.
func (s Schedule) Order(servers []org.ServerName, databases []org.DatabaseName) Order {
	o := Order{Exercise: s.Exercise, Server: s.Server, Database: s.Database, Allowed: s.Allowed, Allow: s.Allow, Schedule: s.Name,
		By: cmp.Or(s.By, "nobody") + ", by schedule " + s.Name, Why: fmt.Sprintf("schedule %s, every %s, %s", s.Name, s.Every, s.Window)}
	switch {
	case ofDatabase(s.Exercise) && o.Database == "" && len(databases) > 0:
		o.Database = databases[s.Turn%len(databases)]
	case !ofDatabase(s.Exercise) && s.Exercise != Network && o.Server == "" && len(servers) > 0:
		o.Server = servers[s.Turn%len(servers)]
	}
	return o
}

// Schedules are all that there are, by name.
func Schedules(v *cluster.View) []Schedule {
	var out []Schedule
	for _, it := range v.Prefix(SchedulePrefix) {
		var s Schedule
		if json.Unmarshal(it.Value, &s) == nil {
			out = append(out, s)
		}
	}
	return out
}

// ScheduleTxn writes a schedule, if its row is what it was in v. A new one is
// refused where there are too many.
func ScheduleTxn(v *cluster.View, s Schedule) (cluster.Txn, error) {
	key := SchedulePrefix + s.Name
	it, ok := v.Get(key)
	if !ok && len(Schedules(v)) >= mostSchedules {
		return cluster.Txn{}, kind.WithHint(kind.Errorf(kind.Conflict, "there are %d schedules already", mostSchedules), "postern drill schedule remove")
	}
	b, err := json.Marshal(s)
	return cluster.Txn{If: []cluster.Cond{{Key: key, Revision: it.Revision}}, Then: []cluster.Op{{Key: key, Value: b}}}, err
}

// Repaired says what was repaired in the time before now, empty for nothing: a
// drill that nobody ordered waits for calm.
func Repaired(v *cluster.View, now time.Time) string {
	list := deeds(v, now.Add(-CalmBefore), now)
	if len(list) == 0 {
		return ""
	}
	d := list[len(list)-1]
	return fmt.Sprintf("%s %s on %s was done by itself %s ago", d.Action, d.Target, d.Server, now.Sub(d.At).Round(time.Second))
}
