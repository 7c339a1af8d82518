package notify

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Levels of alerts.
const (
	LevelWarn  = "warn"
	LevelError = "error"
)

// Rule says what becomes an alert and who is told when; row notify/rule/<name>.
type Rule struct {
	Name string `json:"name"`
	// Codes of events, Servers that raised them, Sets of health; empty: all.
	Codes   []int            `json:"codes,omitempty"`
	Level   string           `json:"level"` // this one and above
	Servers []org.ServerName `json:"servers,omitempty"`
	Sets    []string         `json:"sets,omitempty"`

	Channels []string `json:"channels"`
	// After is how long it has to be wrong before anybody is told.
	After time.Duration `json:"after,omitempty"`
	// Repeat is how often an alert that nobody acknowledged is told again; 0 for
	// never.
	Repeat   time.Duration `json:"repeat,omitempty"`
	Escalate []Escalation  `json:"escalate,omitempty"`
	// Quiet holds back what is not an error of critical priority, as in
	// 22:00-07:00; empty for never. Zone is its time zone; empty: UTC.
	Quiet    string    `json:"quiet,omitempty"`
	Zone     string    `json:"zone,omitempty"`
	Disabled bool      `json:"disabled,omitempty"`
	Changed  time.Time `json:"changed"`
	By       string    `json:"by,omitempty"`
}

// Escalation tells others too when nobody acknowledged in time.
type Escalation struct {
	After    time.Duration `json:"after"`
	Channels []string      `json:"channels"`
}

// MarshalText writes "15m0s:boss+duty".
func (e Escalation) MarshalText() ([]byte, error) {
	return []byte(e.After.String() + ":" + strings.Join(e.Channels, "+")), nil
}

// UnmarshalText reads what MarshalText wrote.
func (e *Escalation) UnmarshalText(b []byte) error {
	wait, names, ok := strings.Cut(string(b), ":")
	d, err := time.ParseDuration(wait)
	if !ok || err != nil || names == "" {
		return fmt.Errorf("%.60q is no escalation (as in 15m:boss)", b)
	}
	*e = Escalation{d, strings.Split(names, "+")}
	return nil
}

// String says it in words, as in "after 15m: boss and duty".
func (e Escalation) String() string {
	wait := e.After.String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(wait, zero) {
			wait = wait[:len(wait)-2]
		}
	}
	return "after " + wait + ": " + strings.Join(e.Channels, " and ")
}

// limited refuses limits of a rule that no alert could meet: events, servers and
// health sets that nobody here knows. d knows the last two.
func limited(d Deps, rule string, codes []int, servers []org.ServerName, sets []string) error {
	for _, c := range codes {
		def, ok := event.Find(c)
		switch {
		case !ok:
			return kind.WithHint(bad("rule %s: there is no event %d", rule, c), "docs/events.md lists the codes")
		case def.Level < slog.LevelWarn:
			return kind.WithHint(bad("rule %s: event %d (%s) only informs: it never becomes an alert", rule, c, def.Name), "docs/events.md lists the levels")
		}
	}
	for _, s := range servers {
		if d.Servers != nil && !slices.Contains(d.Servers(), s) {
			return kind.WithHint(bad("rule %s: there is no server %.60q", rule, s), "postern server list")
		}
	}
	for _, s := range sets {
		if d.Sets != nil && !slices.Contains(d.Sets(), s) {
			return kind.WithHint(bad("rule %s: there is no health set %.60q", rule, s), "names are case-sensitive; see postern health definitions")
		}
	}
	return nil
}

// validate refuses a rule that could not work. known tells whether there is a
// channel of a name.
func (r Rule) validate(known func(string) bool) error {
	if err := org.ValidName(r.Name); err != nil {
		return bad("rule: %w", err)
	}
	channels := slices.Clone(r.Channels)
	last := r.After
	for _, e := range r.Escalate {
		if e.After <= last || e.After > 7*24*time.Hour {
			return bad("rule %s: escalation after %s: want more than %s and at most 168h", r.Name, e.After, last)
		}
		last = e.After
		channels = append(channels, e.Channels...)
	}
	for _, c := range channels {
		if !known(c) {
			return kind.WithHint(bad("rule %s: there is no channel %.60q", r.Name, c), "postern notify channel list")
		}
	}
	switch {
	case len(r.Channels) == 0 || len(channels) > maxChannels:
		return bad("rule %s: %d channels: want 1 to %d (--channels)", r.Name, len(channels), maxChannels)
	case r.Level != LevelWarn && r.Level != LevelError:
		return bad("rule %s: level %q: want warn or error", r.Name, r.Level)
	case r.After < 0 || r.After > 24*time.Hour:
		return bad("rule %s: after %s: want 0 to 24h", r.Name, r.After)
	case r.Repeat != 0 && (r.Repeat < time.Minute || r.Repeat > 7*24*time.Hour):
		return bad("rule %s: repeat %s: want 1m to 168h, or 0 for never", r.Name, r.Repeat)
	case len(r.Codes) > 100 || len(r.Servers) > 100 || len(r.Sets) > 100 || len(r.Escalate) > 5:
		return bad("rule %s: a list is too long: want at most 100, and 5 escalations", r.Name)
	}
	_, err := quietHours(r.Quiet, r.Zone)
	if err != nil {
		return bad("rule %s: %w", r.Name, err)
	}
	return nil
}

// quiet is a part of the day, in minutes from midnight; it may go over midnight.
type quiet struct {
	from, to int
	zone     *time.Location
}

func quietHours(text, zone string) (q quiet, err error) {
	if text == "" {
		return q, nil
	}
	if q.zone, err = time.LoadLocation(zone); err != nil {
		return q, fmt.Errorf("time zone %.60q is not known", zone)
	}
	a, b, ok := strings.Cut(text, "-")
	from, err1 := time.Parse("15:04", a)
	to, err2 := time.Parse("15:04", b)
	if !ok || err1 != nil || err2 != nil || from.Equal(to) {
		return q, fmt.Errorf("quiet %.60q: want two times of day, as in 22:00-07:00", text)
	}
	q.from, q.to = from.Hour()*60+from.Minute(), to.Hour()*60+to.Minute()
	return q, nil
}

// holds tells whether it is quiet now.
func (q quiet) holds(now time.Time) bool {
	if q.zone == nil {
		return false
	}
	t := now.In(q.zone)
	m := t.Hour()*60 + t.Minute()
	if q.from < q.to {
		return m >= q.from && m < q.to
	}
	return m >= q.from || m < q.to
}

// covers tells whether the rule is about a report.
func (r Rule) covers(a Report, servers []org.ServerName) bool {
	return !r.Disabled &&
		(len(r.Codes) == 0 || slices.Contains(r.Codes, a.Code)) &&
		(r.Level == LevelWarn || a.Level == LevelError) &&
		(len(r.Sets) == 0 || slices.Contains(r.Sets, a.Set)) &&
		(len(r.Servers) == 0 || slices.ContainsFunc(servers, func(s org.ServerName) bool { return slices.Contains(r.Servers, s) }))
}

// duty is what a rule asks of one channel about one alert.
type duty struct {
	after     time.Duration // from the opening on
	repeat    time.Duration
	escalates bool // this channel hears of it because nobody acknowledged
	quiet     bool // now
}

// dutyOf finds the earliest that any rule asks of channel about a; ok is false
// when it need not hear of it.
func dutyOf(channel string, a Alert, rules []Rule, now time.Time) (best duty, ok bool) {
	for _, r := range rules {
		if !r.covers(a.Report, a.Servers) {
			continue
		}
		d := duty{after: r.After, repeat: r.Repeat}
		if q, err := quietHours(r.Quiet, r.Zone); err == nil {
			d.quiet = q.holds(now) && !(a.Level == LevelError && a.Critical)
		}
		found := slices.Contains(r.Channels, channel)
		for _, e := range r.Escalate {
			if !found && slices.Contains(e.Channels, channel) {
				d.after, d.escalates, found = e.After, true, true
			}
		}
		if found && (!ok || better(d, best)) {
			best, ok = d, true
		}
	}
	if !ok && a.Code == codeFailing && a.Object != channel {
		// That a channel fails has to reach somebody, whatever the rules are.
		return duty{}, true
	}
	return best, ok && !(a.Code == codeFailing && a.Object == channel)
}

func better(d, than duty) bool {
	if d.quiet != than.quiet {
		return !d.quiet
	}
	return d.after < than.after
}
