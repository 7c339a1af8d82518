package event

import (
	"context"
	"fmt"
	"log/slog"
	"strings"

	"github.com/postern-mail/postern/internal/base/command"
)

// ListIn are the parameters of "event list".
type ListIn struct {
	Count int    `json:"count" doc:"how many events at most, the newest" default:"50"`
	Level string `json:"level" doc:"only events of this level and above" enum:"debug,info,warn,error" default:"info"`
	Code  int    `json:"code" doc:"only this kind of event"`
}

// Commands are the entries of the command table. Names and parameters can be
// read from those of a nil log.
func Commands(l *Log) []command.Command {
	return []command.Command{command.New(command.Command{
		Noun: "event", Verb: "list",
		Short:   "list what happened on this server",
		Long:    "Lists the last events of the server that answers, the oldest first. docs/events.md explains each code.",
		Example: "postern event list --level warn",
		Roles:   []command.Role{command.Auditor},
	}, func(_ context.Context, in ListIn) ([]Event, error) { return l.list(in), nil })}
}

func (l *Log) list(in ListIn) []Event {
	var least slog.Level
	if in.Level != "" && least.UnmarshalText([]byte(in.Level)) != nil {
		return nil // not reached: the door checks the enumeration
	}
	out := []Event{}
	for _, e := range l.Recent(len(l.ring)) {
		var level slog.Level
		if level.UnmarshalText([]byte(e.Level)) == nil && level >= least && (in.Code == 0 || e.Code == in.Code) {
			out = append(out, e)
		}
	}
	return out[max(0, len(out)-max(in.Count, 1)):]
}

// EventsMarkdown is docs/events.md: all kinds of events that the packages of
// this program define.
func EventsMarkdown() string { return Markdown(Definitions()) }

// Markdown writes a page about the given kinds of events.
func Markdown(defs []Definition) string {
	var b strings.Builder
	b.WriteString("# Operator events\n\nMade from the code by `postern docs`; do not edit. Codes are never reused.\n" +
		"See them with `postern event list` and in the log (attribute `event`).\n\n" +
		"| Code | Name | Level | Meaning | What to do |\n|---|---|---|---|---|\n")
	for _, d := range defs {
		action := d.Action
		if action == "" {
			action = "nothing"
		}
		fmt.Fprintf(&b, "| %d | `%s` | %s | %s | %s |\n", d.Code, d.Name, strings.ToLower(d.Level.String()), cell(d.Meaning), cell(action))
	}
	return b.String()
}

// cell makes text fit into a table.
func cell(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "\n", " ")
}
