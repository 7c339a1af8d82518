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

type alertListArgs struct {
	State string `json:"state" enum:"open,acknowledged,closed,all" default:"open" doc:"only alerts in this state"`
	Level string `json:"level" enum:"warn,error" default:"warn" doc:"only alerts of this level and above"`
	Count int    `json:"count" default:"100" doc:"how many at most, the newest"`
}

type alertID struct {
	ID string `json:"id" arg:"1" required:"true" complete:"alert list" doc:"the alert's ID"`
}

type ackArgs struct {
	ID      string `json:"id" arg:"1" required:"true" complete:"alert list" doc:"the alert's ID, or all for every open one"`
	Comment string `json:"comment" doc:"for the others, as in: I replace the disk"`
}

// AlertInfo is a row of alert list.
type AlertInfo struct {
	ID       string           `json:"id" col:"ID"`
	State    State            `json:"state" col:"STATE"`
	Level    string           `json:"level" col:"LEVEL"`
	Code     int              `json:"code" col:"CODE"`
	Object   string           `json:"object" col:"OBJECT"`
	Opened   time.Time        `json:"opened" col:"OPENED"`
	Last     time.Time        `json:"last" col:"LAST"`
	Count    int              `json:"count" col:"COUNT"`
	By       string           `json:"acknowledged_by,omitempty" col:"BY"`
	Servers  []org.ServerName `json:"servers" col:"-"`
	Sentence string           `json:"sentence" col:"ALERT"`
}

// AlertDetails is what alert show tells.
type AlertDetails struct {
	Alert
	Told []Telling `json:"told"`
}

// Telling is what a channel knows of an alert.
type Telling struct {
	Channel string    `json:"channel"`
	Last    time.Time `json:"last"`
	Times   int       `json:"times"`
	Over    bool      `json:"over,omitempty"` // that it is over was told too
}

func alertCommands(n *Notifier) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "alert", Verb: "list", Short: "List what is wrong", Roles: readers(), Example: "postern alert list --state all"},
			func(_ context.Context, in alertListArgs) ([]AlertInfo, error) { return n.alerts(in), nil }),
		command.New(command.Command{Noun: "alert", Verb: "show", Short: "Show an alert, and through which channels it was told", Roles: readers(), Example: "postern alert show 3f2a9c01d4"},
			func(_ context.Context, in alertID) (AlertDetails, error) { return n.details(in.ID) }),
		command.New(command.Command{Noun: "alert", Verb: "ack", Short: "Take an alert: no more reminders and no escalation", Changes: true, Roles: []command.Role{command.ServerAdmin},
			Example: "postern alert ack 3f2a9c01d4 --comment 'I replace the disk'"},
			func(ctx context.Context, in ackArgs) ([]AlertInfo, error) { return n.acknowledge(ctx, in) }),
	}
}

func (a Alert) info() AlertInfo {
	return AlertInfo{a.ID, a.State, a.Level, a.Code, a.Object, a.Opened, a.Last, a.Count, a.AcknowledgedBy, a.Servers, a.Sentence}
}

func (n *Notifier) alerts(in alertListArgs) []AlertInfo {
	var all []Alert
	for _, h := range newReader(n.d.Rows).read().alerts {
		a := h.value
		if (in.State == "all" || string(a.State) == cmp.Or(in.State, string(Open))) && (in.Level != LevelError || a.Level == LevelError) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, byAge)
	out := []AlertInfo{}
	for _, a := range all[max(0, len(all)-max(in.Count, 1)):] {
		out = append(out, a.info())
	}
	return out
}

func (n *Notifier) details(id string) (AlertDetails, error) {
	s := newReader(n.d.Rows).read()
	h, ok := s.alerts[id]
	if !ok {
		return AlertDetails{}, kind.WithHint(kind.Errorf(kind.NotFound, "there is no alert %.20q", id), "postern alert list --state all")
	}
	d := AlertDetails{Alert: h.value, Told: []Telling{}}
	for _, name := range slices.Sorted(maps.Keys(s.states)) {
		if t, ok := s.states[name].value.Told[id]; ok && t.Opened.Equal(h.value.Opened) {
			d.Told = append(d.Told, Telling{name, t.At, t.Times, t.Closed})
		}
	}
	return d, nil
}

func (n *Notifier) acknowledge(ctx context.Context, in ackArgs) ([]AlertInfo, error) {
	by := cmp.Or(command.CallerOf(ctx).Name, "somebody")
	ids := []string{in.ID}
	if in.ID == "all" {
		ids = nil
		for _, a := range n.alerts(alertListArgs{State: string(Open), Count: maxAlerts + 1}) {
			ids = append(ids, a.ID)
		}
	}
	out := []AlertInfo{}
	for _, id := range ids {
		a, err := n.Acknowledge(ctx, id, by, in.Comment)
		if err != nil {
			return out, err
		}
		out = append(out, a.info())
	}
	return out, nil
}
