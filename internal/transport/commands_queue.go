package transport

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// DestRow is a destination that messages wait for, as commands show it.
type DestRow struct {
	Server    org.ServerName `json:"server" col:"SERVER"`
	Dest      string         `json:"destination" col:"DESTINATION"`
	Ready     int            `json:"ready" col:"READY"`
	Waiting   int            `json:"waiting" col:"WAITING"`
	Suspended int            `json:"suspended" col:"SUSPENDED"`
	InFlight  int            `json:"in_flight" col:"UNDER-WAY"`
	Limit     int            `json:"limit" col:"LIMIT"`
	Failures  int            `json:"failures" col:"FAILED"`
	Next      *time.Time     `json:"next,omitempty" col:"NEXT"`
	Reason    string         `json:"reason,omitempty" col:"REASON"`
}

type serverIn struct {
	Server org.ServerName `json:"server" doc:"only this server" complete:"server list"`
}

type showQueueIn struct {
	Destination  string         `json:"destination" arg:"1" doc:"only what waits for this, as db:DB01 or mx:example.com"`
	Server       org.ServerName `json:"server" doc:"only this server" complete:"server list"`
	Organization string         `json:"organization" doc:"only of this organization" complete:"organization list"`
	Alone        bool           `json:"alone" doc:"only messages that no second server holds"`
	Limit        int            `json:"limit" default:"100" doc:"rows at most, up to 1000 of each server"`
}

type changeQueueIn struct {
	Trace        []string       `json:"trace" doc:"these messages; may be repeated"`
	Destination  string         `json:"destination" doc:"what waits for this, as db:DB01 or mx:example.com"`
	Organization string         `json:"organization" doc:"only of this organization" complete:"organization list"`
	Server       org.ServerName `json:"server" doc:"only on this server" complete:"server list"`
}

type removeQueueIn struct {
	changeQueueIn
	Notify bool   `json:"notify" doc:"return the messages to their senders"`
	Reason string `json:"reason" doc:"why, for the ledger and the sender"`
	DryRun bool   `json:"dry_run" doc:"only say what would be done"`
}

// ChangeRow says what a change met on a server.
type ChangeRow struct {
	Server   org.ServerName `json:"server" col:"SERVER"`
	Messages int            `json:"messages" col:"MESSAGES"`
	Rows     int            `json:"recipients" col:"RECIPIENTS"`
	Error    string         `json:"error,omitempty" col:"ERROR"`
}

func queueCommands(m *Mover) []command.Command {
	change := func(verb, short, long string) command.Command {
		return command.New(command.Command{Noun: "queue", Verb: verb, Short: short, Long: long, Roles: changers, Scoped: true, Changes: true},
			func(ctx context.Context, in changeQueueIn) ([]ChangeRow, error) { return m.changeQueue(ctx, verb, in) })
	}
	return []command.Command{
		command.New(command.Command{Noun: "queue", Verb: "list", Short: "List the destinations that messages wait for, on all servers", Roles: servers},
			func(ctx context.Context, in serverIn) ([]DestRow, error) { return m.destRows(ctx, in.Server) }),
		command.New(command.Command{Noun: "queue", Verb: "status", Short: "Show the queue of each server: pressure, copies, who took over", Roles: servers},
			func(ctx context.Context, in serverIn) ([]QueueRow, error) { return m.queueRows(ctx, in.Server) }),
		command.New(command.Command{Noun: "queue", Verb: "show", Short: "Show the messages that wait, one row for each recipient", Roles: seers, Scoped: true,
			Example: "postern queue show mx:example.com"}, m.showQueue),
		change("suspend", "Hold messages, or all for a destination, back",
			"With --destination and no --trace, what comes later is held back as well, until it is resumed; an organization administrator holds back what is there."),
		change("resume", "Let what was held back go on", ""),
		change("retry", "Try messages now, whatever their next time is", ""),
		command.New(command.Command{Noun: "queue", Verb: "remove", Short: "Remove messages from the queue, with or without a report to the sender", Roles: changers, Scoped: true, Changes: true, Dangerous: true,
			Example: "postern queue remove --destination mx:example.com --notify --reason 'wrong domain'"}, m.removeQueue),
		command.New(command.Command{Noun: "queue", Verb: "redirect", Short: "Stop accepting on a server and give its messages to the servers that hold their copies", Changes: true, Dangerous: true, Stream: true,
			Long: "For maintenance: the server accepts nothing until it is restarted or the command is run with --resume."}, m.redirectQueue),
		command.New(command.Command{Noun: "queue", Verb: "verify", Short: "Compare the ledger with the log, the mailboxes, the reports and the copies, row by row", Roles: servers, Stream: true,
			Long: "On each server the ledger is made anew from the log and compared; then each row is held against what it names: the mailbox that has the message, the report to the sender, the server with its copy. It ends with an error where something differs."}, m.verifyQueue),
	}
}

func (m *Mover) destRows(ctx context.Context, only org.ServerName) ([]DestRow, error) {
	answers, err := askAll[struct{}, destsAnswer](ctx, m, only, askDests, struct{}{})
	if err != nil {
		return nil, err
	}
	out := []DestRow{}
	for _, a := range answers {
		if a.Err != nil {
			out = append(out, DestRow{Server: a.Server, Reason: a.Err.Error()})
		}
		for _, d := range a.Answer.Dests {
			r := DestRow{Server: a.Server, Dest: string(d.Dest), Ready: d.Ready, Waiting: d.Waiting, Suspended: d.Suspended, InFlight: d.InFlight,
				Limit: d.Limit, Failures: d.Fails, Reason: d.Reason}
			if d.Until > 0 {
				r.Next = moment(time.Unix(0, d.Until))
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func (m *Mover) showQueue(ctx context.Context, in showQueueIn) ([]MessageRow, error) {
	o, err := scope(ctx, in.Organization)
	if err != nil {
		return nil, err
	}
	f := queue.Filter{Organization: o, Dest: in.Destination, Unfinished: true, Limit: min(max(in.Limit, 1), queue.MaxFind)}
	rows, err := m.collect(ctx, in.Server, f, in.Limit, func(r row) bool { return !r.Copy && (!in.Alone || r.Shadow == "") })
	return rows, err
}

// collect finds rows on all servers, the oldest message first.
func (m *Mover) collect(ctx context.Context, only org.ServerName, f queue.Filter, limit int, keep func(row) bool) ([]MessageRow, error) {
	answers, err := askAll[findQuery, findAnswer](ctx, m, only, askFind, findQuery{f})
	if err != nil {
		return nil, err
	}
	var found []row
	var errs []string
	for _, a := range answers {
		rows, cursor, err := a.Answer.Rows, a.Answer.Cursor, a.Err
		for n := len(rows); err == nil && cursor != "" && n < limit; n = len(rows) {
			next := f
			next.Cursor = cursor
			more, aerr := ask[findQuery, findAnswer](ctx, m, a.Server, askFind, findQuery{next})
			rows, cursor, err = append(rows, more.Rows...), more.Cursor, aerr
		}
		if err != nil {
			errs = append(errs, fmt.Sprintf("%s: %v", a.Server, err))
		}
		for _, r := range rows {
			if r, ok := seen(ctx, r); ok && keep(r) {
				found = append(found, r)
			}
		}
	}
	if len(errs) > 0 {
		command.Progress(ctx, "not all servers answered: %s", strings.Join(errs, "; "))
		if len(errs) == len(answers) {
			return nil, kind.Errorf(kind.Busy, "no server answered: %s", strings.Join(errs, "; "))
		}
	}
	slices.SortStableFunc(found, func(a, b row) int {
		return cmp.Or(strings.Compare(a.ID.String(), b.ID.String()), cmp.Compare(a.N, b.N), strings.Compare(string(a.Server), string(b.Server)))
	})
	out := []MessageRow{}
	for _, r := range found[:min(len(found), max(limit, 1))] {
		out = append(out, show(r))
	}
	return out, nil
}

func (m *Mover) changeQueue(ctx context.Context, verb string, in changeQueueIn) ([]ChangeRow, error) {
	c, err := m.changeOf(ctx, verb, in)
	if err != nil {
		return nil, err
	}
	// A destination as a whole may serve several organizations, so who is bound
	// to one holds back what is there for it, and not what comes.
	bound := command.CallerOf(ctx).Organization != ""
	if len(c.IDs) == 0 && c.Dest != "" && !bound && (verb == "suspend" || verb == "resume") {
		if err := m.suspendDest(ctx, verb == "suspend", suspension{Dest: c.Dest, Organization: c.Organization, Server: in.Server,
			By: command.CallerOf(ctx).Name, At: m.now().UTC()}); err != nil {
			return nil, err
		}
		if verb == "suspend" {
			c.DryRun = true // the schedule holds them; only count
		}
	}
	return m.changeAll(ctx, in.Server, c)
}

func (m *Mover) changeOf(ctx context.Context, verb string, in changeQueueIn) (c change, err error) {
	o, err := scope(ctx, in.Organization)
	if err != nil {
		return c, err
	}
	ids, err := parseTraces(in.Trace)
	if err != nil {
		return c, err
	}
	if len(ids) == 0 && in.Destination == "" && in.Organization == "" {
		return c, kind.WithHint(kind.Errorf(kind.Invalid, "queue %s: nothing is named", verb), "give --trace, --destination or --organization; postern queue list shows what waits")
	}
	return change{Do: verb, IDs: ids, Dest: in.Destination, Organization: o}, nil
}

func (m *Mover) changeAll(ctx context.Context, only org.ServerName, c change) ([]ChangeRow, error) {
	answers, err := askAll[change, changeAnswer](ctx, m, only, askChange, c)
	if err != nil {
		return nil, err
	}
	out := []ChangeRow{}
	for _, a := range answers {
		r := ChangeRow{Server: a.Server, Messages: a.Answer.Messages, Rows: a.Answer.Rows}
		if a.Err != nil {
			r.Error = a.Err.Error()
		}
		out = append(out, r)
	}
	return out, nil
}

// suspendDest changes the row of suspended destinations.
func (m *Mover) suspendDest(ctx context.Context, on bool, s suspension) error {
	for range 10 {
		all, rev := m.suspensions()
		all = slices.DeleteFunc(all, func(x suspension) bool {
			return x.Dest == s.Dest && x.Organization == s.Organization && (s.Server == "" || x.Server == s.Server)
		})
		if on {
			if len(all) >= 1000 {
				return kind.Errorf(kind.Full, "1000 destinations are suspended already")
			}
			all = append(all, s)
		}
		b, err := json.Marshal(all)
		if err != nil {
			return err
		}
		_, err = m.deps.Group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: suspensionsKey, Revision: rev}}, Then: []cluster.Op{{Key: suspensionsKey, Value: b}}})
		if !kind.Is(err, kind.Conflict) {
			return err
		}
	}
	return kind.Errorf(kind.Busy, "suspended destinations change all the time")
}

func (m *Mover) removeQueue(ctx context.Context, in removeQueueIn) (command.Plan, error) {
	c, err := m.changeOf(ctx, "remove", in.changeQueueIn)
	if err != nil {
		return command.Plan{}, err
	}
	c.Notify, c.Reason, c.DryRun = in.Notify, cmp.Or(in.Reason, "removed by an administrator"), in.DryRun
	rows, err := m.changeAll(ctx, in.Server, c)
	p := command.Plan{DryRun: in.DryRun}
	for _, r := range rows {
		p.Steps = append(p.Steps, command.Step{Name: "remove on " + string(r.Server), Detail: fmt.Sprintf("%d messages, %d recipients", r.Messages, r.Rows),
			Done: !in.DryRun && r.Error == "", Error: r.Error})
	}
	return p, err
}

func tlsName(v uint8) string {
	if v == 0 {
		return ""
	}
	return "TLS, " + min(tlspolicy.Basis(v-1), tlspolicy.DANE).String()
}

func reply(code uint16, status, text string) string {
	var parts []string
	if code != 0 {
		parts = append(parts, fmt.Sprint(code))
	}
	for _, s := range []string{status, text} {
		if s != "" {
			parts = append(parts, s)
		}
	}
	return strings.Join(parts, " ")
}

func because(r row) string {
	return map[queue.Why]string{queue.WhyGroup: "group", queue.WhyAlias: "alias", queue.WhyForward: "forward", queue.WhyRule: "rule", queue.WhyJournal: "journal"}[r.Why]
}
