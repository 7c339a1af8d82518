package manage

import (
	"context"
	"fmt"
	"strings"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// RuleRow is a transport rule as commands show it.
type RuleRow struct {
	Name         string             `json:"name" col:"RULE"`
	Organization org.OrganizationID `json:"organization" col:"ORGANIZATION"`
	Priority     int                `json:"priority" col:"PRIORITY"`
	Enabled      bool               `json:"enabled" col:"ENABLED"`
	If           string             `json:"if" col:"IF"`
	Then         string             `json:"then" col:"THEN"`
	Settings     []string           `json:"settings" col:"-"` // name=value, as rule set takes them
}

func ruleRow(r settings.Rule) RuleRow {
	out := RuleRow{Name: r.Name, Organization: r.Organization, Priority: r.Priority, Enabled: !r.Disabled, Settings: []string{}}
	var conditions []string
	for _, s := range settings.List(r) {
		if !s.Changed {
			continue
		}
		out.Settings = append(out.Settings, s.Key+"="+s.Value)
		if strings.HasPrefix(s.Doc, "Condition:") {
			conditions = append(conditions, s.Key+" "+s.Value)
		}
	}
	out.If = strings.Join(conditions, " and ")
	if out.If == "" {
		out.If = "always"
	}
	switch r.Action {
	case "redirect", "bcc":
		out.Then = r.Action + " " + r.Target
	case "header":
		out.Then = fmt.Sprintf("header %s: %s", r.AddName, r.AddValue)
	default:
		out.Then = r.Action
	}
	if r.Stop {
		out.Then += ", stop"
	}
	return out
}

type ruleCreateIn struct {
	Organization   string `json:"organization" arg:"1" required:"true" doc:"organization" complete:"organization list"`
	Name           string `json:"name" arg:"2" required:"true" doc:"name of the rule"`
	Action         string `json:"action" required:"true" enum:"disclaimer,redirect,reject,header,bcc,quarantine" doc:"what is done"`
	Priority       int    `json:"priority" doc:"place among the rules; smaller is first"`
	Sender         string `json:"sender" doc:"condition: address or @domain of the sender"`
	Recipient      string `json:"recipient" doc:"condition: address or @domain of a recipient"`
	Header         string `json:"header" doc:"condition: the message has this header field"`
	Contains       string `json:"contains" doc:"condition: that field contains this text"`
	LargerThan     int64  `json:"larger_than" doc:"condition: the message is larger, in bytes"`
	Attachment     string `json:"attachment" doc:"condition: an attachment has this extension"`
	Authentication string `json:"authentication" enum:"pass,fail" doc:"condition: DMARC of the sender"`
	Outside        string `json:"outside" enum:"from,to" doc:"condition: the sender (from) or the recipient (to) is not of the organization"`
	Text           string `json:"text" doc:"text of a disclaimer or a rejection, reason of a quarantine"`
	Target         string `json:"target" doc:"address of redirect and bcc"`
	AddName        string `json:"header_name" doc:"header field that is added"`
	AddValue       string `json:"header_value" doc:"its value"`
	Stop           bool   `json:"stop" doc:"no rule after it is asked"`
}

func (in ruleCreateIn) rule(o org.OrganizationID) settings.Rule {
	return settings.Rule{Name: in.Name, Organization: o, Priority: in.Priority, Sender: in.Sender, Recipient: in.Recipient, Header: in.Header,
		Contains: in.Contains, LargerThan: in.LargerThan, Attachment: in.Attachment, Authentication: in.Authentication, Outside: in.Outside,
		Action: in.Action, Text: in.Text, Target: in.Target, AddName: in.AddName, AddValue: in.AddValue, Stop: in.Stop}
}

type ruleIn struct {
	Organization string `json:"organization" arg:"1" required:"true" doc:"organization" complete:"organization list"`
	Name         string `json:"name" arg:"2" required:"true" doc:"name of the rule" complete:"rule list"`
}

func ruleCommands(d Deps) []command.Command {
	type listIn struct {
		Organization string `json:"organization" doc:"only of this organization" complete:"organization list"`
	}
	return []command.Command{
		example(changes("rule", "create", "Add a transport rule", byAdmins, d.createRule),
			"postern rule create acme no-programs --action reject --attachment exe --text \"Programs are not taken\""),
		reads("rule", "list", "List transport rules in the order in which they are asked", func(ctx context.Context, in listIn) ([]RuleRow, error) {
			out := []RuleRow{}
			for _, o := range d.inScope(ctx, in.Organization) {
				for _, r := range d.Book.Rules(o) {
					out = append(out, ruleRow(r))
				}
			}
			return out, nil
		}),
		d.setRule(),
		d.removeRule(),
	}
}

func (d Deps) createRule(ctx context.Context, in ruleCreateIn) (RuleRow, error) {
	o, err := d.organization(ctx, in.Organization)
	if err != nil {
		return RuleRow{}, err
	}
	r := in.rule(o)
	if err := r.Validate(); err != nil {
		return RuleRow{}, err
	}
	err = settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
		key := settings.RuleKey(o, r.Name)
		if _, taken := v.Get(key); taken {
			return kind.WithHint(kind.Errorf(kind.Exists, "rule %s of %s exists", r.Name, o), "postern rule set")
		}
		if n := count(v, settings.RulePrefix+string(o)+"/"); n >= settings.MaxRules {
			return kind.Errorf(kind.Full, "organization %s has %d rules, the most is %d", o, n, settings.MaxRules)
		}
		return created(v, t, o, key, r)
	})
	return ruleRow(r), err
}

// findRule reads a rule as it is stored.
func (d Deps) findRule(ctx context.Context, v *cluster.View, in ruleIn) (settings.Rule, int64, error) {
	var r settings.Rule
	var revision int64
	var err error
	if org.ValidName(in.Organization) == nil && org.ValidName(in.Name) == nil && sees(ctx, org.OrganizationID(in.Organization)) {
		r, revision, err = settings.Read[settings.Rule](v, settings.RuleKey(org.OrganizationID(in.Organization), in.Name))
	}
	if err == nil && revision == 0 {
		err = noSuch("rule", in.Name, "postern rule list")
	}
	return r, revision, err
}

func (d Deps) setRule() command.Command {
	type setIn struct {
		ruleIn
		Setting string `json:"setting" arg:"3" required:"true" doc:"name of the setting"`
		Value   string `json:"value" arg:"4" required:"true" doc:"its value; default takes it back"`
	}
	return example(changes("rule", "set", "Change a setting of a transport rule", byAdmins, func(ctx context.Context, in setIn) (RuleRow, error) {
		var out settings.Rule
		err := settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
			r, revision, err := d.findRule(ctx, v, in.ruleIn)
			if err != nil {
				return err
			}
			if err := r.Set(in.Setting, in.Value); err != nil {
				return err
			}
			if err := r.Validate(); err != nil {
				return err
			}
			out = r
			return t.Put(settings.RuleKey(r.Organization, r.Name), revision, r)
		})
		return ruleRow(out), err
	}), "postern rule set acme no-programs priority 10\npostern rule set acme no-programs disabled true")
}

func (d Deps) removeRule() command.Command {
	type removeIn struct {
		ruleIn
		DryRun bool `json:"dry_run" doc:"only show what would be done"`
	}
	return removes("rule", "remove", "Remove a transport rule", byAdmins, func(ctx context.Context, in removeIn) (command.Plan, error) {
		if _, _, err := d.findRule(ctx, d.Agreed.View(), in.ruleIn); err != nil {
			return command.Plan{}, err
		}
		return carryOut(in.DryRun, "remove rule", in.Organization+"/"+in.Name, func() error {
			return settings.Change(ctx, d.Agreed, func(v *cluster.View, t *settings.Txn) error {
				_, revision, err := d.findRule(ctx, v, in.ruleIn)
				if err == nil {
					t.Drop(settings.RuleKey(org.OrganizationID(in.Organization), in.Name), revision)
				}
				return err
			})
		})
	})
}
