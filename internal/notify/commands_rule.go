package notify

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

type ruleArgs struct {
	Name     string           `json:"name" arg:"1" required:"true" doc:"name of the rule"`
	Channels []string         `json:"channels" required:"true" complete:"notify channel list" doc:"who is told: names of channels"`
	Level    string           `json:"level" enum:"warn,error" default:"warn" doc:"only alerts of this level and above"`
	Codes    []int            `json:"codes" doc:"only these events (docs/events.md); all when not given"`
	Servers  []org.ServerName `json:"servers" complete:"server list" doc:"only what these servers report"`
	Sets     []string         `json:"sets" doc:"only these health sets"`
	After    time.Duration    `json:"after" doc:"how long it has to be wrong before anybody is told"`
	Repeat   time.Duration    `json:"repeat" default:"30m" doc:"how often it is told again until somebody acknowledges; 0s for never"`
	Escalate []Escalation     `json:"escalate" doc:"who else is told when nobody acknowledged in time, as 15m:boss or 1h:boss+duty"`
	Quiet    string           `json:"quiet_hours" doc:"hours in which only errors of critical priority are told, as 22:00-07:00"`
	Zone     string           `json:"zone" doc:"time zone of the quiet hours, as Europe/Berlin; UTC when not given"`
}

type setRuleArgs struct {
	Name     string           `json:"name" arg:"1" required:"true" complete:"notify rule list" doc:"name of the rule"`
	Channels []string         `json:"channels" complete:"notify channel list" doc:"who is told; replaces all"`
	Level    string           `json:"level" enum:"warn,error" doc:"only alerts of this level and above"`
	Codes    []int            `json:"codes" doc:"only these events; replaces all"`
	Servers  []org.ServerName `json:"servers" complete:"server list" doc:"only what these servers report; replaces all"`
	Sets     []string         `json:"sets" doc:"only these health sets; replaces all"`
	After    *time.Duration   `json:"after" doc:"how long it has to be wrong before anybody is told"`
	Repeat   *time.Duration   `json:"repeat" doc:"how often it is told again; 0s for never"`
	Escalate []Escalation     `json:"escalate" doc:"who else is told; replaces all"`
	Quiet    *string          `json:"quiet_hours" doc:"hours in which only errors of critical priority are told; empty: none"`
	Zone     *string          `json:"zone" doc:"time zone of the quiet hours"`
	Disabled *bool            `json:"disabled" doc:"the rule does nothing"`
	Every    bool             `json:"every" doc:"forget the limits to codes, servers and sets first"`
}

type ruleName struct {
	Name string `json:"name" arg:"1" required:"true" complete:"notify rule list" doc:"name of the rule"`
}

// RuleInfo is a row of notify rule list.
type RuleInfo struct {
	Name     string           `json:"name" col:"NAME"`
	Level    string           `json:"level" col:"LEVEL"`
	Codes    []int            `json:"codes,omitempty" col:"CODES"`
	Servers  []org.ServerName `json:"servers,omitempty" col:"SERVERS"`
	Sets     []string         `json:"sets,omitempty" col:"SETS"`
	Channels []string         `json:"channels" col:"CHANNELS"`
	After    time.Duration    `json:"after" col:"AFTER"`
	Repeat   time.Duration    `json:"repeat" col:"REPEAT"`
	Escalate []Escalation     `json:"escalate,omitempty" col:"ESCALATE"`
	Quiet    string           `json:"quiet,omitempty" col:"QUIET"`
	Zone     string           `json:"zone,omitempty" col:"-"`
	Disabled bool             `json:"disabled,omitempty" col:"DISABLED"`
}

func ruleCommands(n *Notifier) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "notify", Verb: "rule add", Short: "Say what becomes an alert, and who is told when", Changes: true,
			Long:    "Events of level warn and error become alerts where a rule covers them; alerts of health always do, and rules say who hears of them. Of several rules the one that tells a channel first counts.",
			Example: "postern notify rule add all --channels ops --level warn --escalate 15m:boss"},
			func(ctx context.Context, in ruleArgs) (command.None, error) {
				return command.None{}, n.addRule(ctx, in)
			}),
		command.New(command.Command{Noun: "notify", Verb: "rule list", Short: "List the notification rules", Roles: readers(), Example: "postern notify rule list"},
			func(context.Context, command.None) ([]RuleInfo, error) { return n.rules(), nil }),
		command.New(command.Command{Noun: "notify", Verb: "rule set", Short: "Change a notification rule", Changes: true,
			Example: "postern notify rule set all --after 1m --quiet-hours 22:00-07:00 --zone Europe/Berlin"},
			func(ctx context.Context, in setRuleArgs) (command.None, error) {
				return command.None{}, n.setRule(ctx, in)
			}),
		command.New(command.Command{Noun: "notify", Verb: "rule remove", Short: "Remove a notification rule", Changes: true, Example: "postern notify rule remove nights"},
			func(ctx context.Context, in ruleName) (command.None, error) {
				return command.None{}, n.removeRule(ctx, in.Name)
			}),
	}
}

func (n *Notifier) putRule(ctx context.Context, s snapshot, h held[Rule]) error {
	r := h.value
	if err := r.validate(func(c string) bool { _, ok := s.channels[c]; return ok }); err != nil {
		return err
	}
	r.Changed, r.By = time.Now().UTC(), command.CallerOf(ctx).Name
	return n.commit(ctx, change{rulePrefix + r.Name, h.revision, r})
}

func (n *Notifier) addRule(ctx context.Context, in ruleArgs) error {
	s := newReader(n.d.Rows).read()
	switch _, exists := s.rules[in.Name]; {
	case exists:
		return kind.Errorf(kind.Exists, "rule %s exists", in.Name)
	case len(s.rules) >= maxRules:
		return bad("there are %d rules, which is the most", maxRules)
	}
	if err := limited(n.d, in.Name, in.Codes, in.Servers, in.Sets); err != nil {
		return err
	}
	return n.putRule(ctx, s, held[Rule]{value: Rule{Name: in.Name, Codes: in.Codes, Level: in.Level, Servers: in.Servers, Sets: in.Sets, Channels: in.Channels,
		After: in.After, Repeat: in.Repeat, Escalate: in.Escalate, Quiet: in.Quiet, Zone: in.Zone}})
}

func (n *Notifier) setRule(ctx context.Context, in setRuleArgs) error {
	s := newReader(n.d.Rows).read()
	h, ok := s.rules[in.Name]
	if !ok {
		return noRule(in.Name)
	}
	// Only what is new is looked at: a server that a rule names may have left.
	if err := limited(n.d, in.Name, in.Codes, in.Servers, in.Sets); err != nil {
		return err
	}
	r := &h.value
	if in.Every {
		r.Codes, r.Servers, r.Sets = nil, nil, nil
	}
	r.Level = cmp.Or(in.Level, r.Level)
	replace(&r.Channels, in.Channels)
	replace(&r.Codes, in.Codes)
	replace(&r.Servers, in.Servers)
	replace(&r.Sets, in.Sets)
	replace(&r.Escalate, in.Escalate)
	given(&r.After, in.After)
	given(&r.Repeat, in.Repeat)
	given(&r.Quiet, in.Quiet)
	given(&r.Zone, in.Zone)
	given(&r.Disabled, in.Disabled)
	return n.putRule(ctx, s, h)
}

func replace[T any](of *[]T, by []T) {
	if by != nil {
		*of = by
	}
}

func given[T any](of, by *T) {
	if by != nil {
		*of = *by
	}
}

func noRule(name string) error {
	return kind.WithHint(kind.Errorf(kind.NotFound, "there is no rule %.60q", name), "postern notify rule list")
}

func (n *Notifier) removeRule(ctx context.Context, name string) error {
	h, ok := newReader(n.d.Rows).read().rules[name]
	if !ok {
		return noRule(name)
	}
	return n.commit(ctx, change{key: rulePrefix + name, revision: h.revision})
}

func (n *Notifier) rules() []RuleInfo {
	s := newReader(n.d.Rows).read()
	out := []RuleInfo{}
	for _, name := range slices.Sorted(maps.Keys(s.rules)) {
		r := s.rules[name].value
		out = append(out, RuleInfo{r.Name, r.Level, r.Codes, r.Servers, r.Sets, r.Channels, r.After, r.Repeat, r.Escalate, r.Quiet, r.Zone, r.Disabled})
	}
	return out
}
