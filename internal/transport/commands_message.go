package transport

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

type traceIn struct {
	Sender       string         `json:"sender" doc:"envelope sender"`
	Recipient    string         `json:"recipient" doc:"address of a recipient"`
	MessageID    string         `json:"message_id" doc:"Message-ID as in the header"`
	State        string         `json:"state" doc:"only rows in this state, as delivered or deferred"`
	Since        time.Duration  `json:"since" default:"24h" doc:"how far back, from now"`
	Organization string         `json:"organization" doc:"only of this organization" complete:"organization list"`
	Server       org.ServerName `json:"server" doc:"only this server" complete:"server list"`
	Copies       bool           `json:"copies" doc:"also what servers hold for others"`
	Limit        int            `json:"limit" default:"100" doc:"rows at most"`
}

type messageIn struct {
	Trace string `json:"trace" arg:"1" required:"true" doc:"trace, as in the Received field, the log and the answer 250"`
}

// Exported is a message as it is kept.
type Exported struct {
	Trace  string         `json:"trace" col:"TRACE"`
	Server org.ServerName `json:"server" col:"SERVER"`
	Size   int            `json:"size" col:"SIZE"`
	Body   string         `json:"message" col:"MESSAGE"`
}

func messageCommands(m *Mover) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "message", Verb: "trace", Short: "Find messages by sender, recipient or Message-ID on all servers", Roles: seers, Scoped: true,
			Example: "postern message trace --recipient ann@example.com --since 2h"}, m.traceCommand),
		command.New(command.Command{Noun: "message", Verb: "show", Short: "Show what became of a message, one row for each recipient: the delivery report", Roles: seers, Scoped: true},
			func(ctx context.Context, in messageIn) ([]MessageRow, error) {
				rows, err := m.everywhere(ctx, in.Trace)
				out := []MessageRow{}
				for _, r := range rows {
					out = append(out, show(r))
				}
				return out, err
			}),
		command.New(command.Command{Noun: "message", Verb: "export", Short: "Print a message as it is kept in the queue or in Safety Net", Roles: []command.Role{command.ServerAdmin}, Changes: true,
			Long: "It is audited, since it shows what people write to each other."}, m.exportCommand),
	}
}

func (m *Mover) traceCommand(ctx context.Context, in traceIn) ([]MessageRow, error) {
	o, err := scope(ctx, in.Organization)
	if err != nil {
		return nil, err
	}
	f := queue.Filter{Organization: o, Sender: strings.Trim(in.Sender, "<>"), Recipient: strings.Trim(in.Recipient, "<>"), MessageID: in.MessageID,
		From: m.now().Add(-in.Since), Limit: min(max(in.Limit, 1), queue.MaxFind)}
	if in.State != "" {
		if f.State, err = queue.ParseState(in.State); err != nil {
			return nil, err
		}
	}
	return m.collect(ctx, in.Server, f, in.Limit, func(r row) bool { return in.Copies || !r.Copy })
}

// everywhere are the rows of one message on all servers, as far as the caller
// may see them.
func (m *Mover) everywhere(ctx context.Context, trace string) ([]row, error) {
	ids, err := parseTraces([]string{trace})
	if err != nil {
		return nil, err
	}
	answers, err := askAll[idQuery, messageAnswer](ctx, m, "", askMessage, idQuery{ids[0]})
	if err != nil {
		return nil, err
	}
	var own, copies []row
	var errs []error
	for _, a := range answers {
		if a.Err != nil && !kind.Is(a.Err, kind.NotFound) {
			errs = append(errs, fmt.Errorf("%s: %w", a.Server, a.Err))
		}
		for _, r := range a.Answer.Rows {
			r, ok := seen(ctx, r)
			switch {
			case !ok:
			case r.Copy:
				copies = append(copies, r)
			default:
				own = append(own, r)
			}
		}
	}
	if len(own) == 0 {
		own = copies // its server is away: what the others know
	}
	switch {
	case len(own) > 0:
		return own, nil
	case len(errs) > 0:
		return nil, kind.Errorf(kind.Busy, "not all servers answered: %w", errors.Join(errs...))
	}
	return nil, kind.WithHint(kind.Errorf(kind.NotFound, "no server knows message %s", ids[0]), "message trace finds messages of the last 14 days")
}

func (m *Mover) exportCommand(ctx context.Context, in messageIn) (Exported, error) {
	rows, err := m.everywhere(ctx, in.Trace)
	if err != nil {
		return Exported{}, err
	}
	var errs []error
	for _, s := range m.servers() {
		a, err := ask[idQuery, bodyAnswer](ctx, m, s, askBody, idQuery{rows[0].ID})
		if err == nil {
			return Exported{Trace: rows[0].ID.String(), Server: s, Size: len(a.Body), Body: string(a.Body)}, nil
		}
		if !kind.Is(err, kind.NotFound) {
			errs = append(errs, fmt.Errorf("%s: %w", s, err))
		}
	}
	if len(errs) > 0 {
		return Exported{}, errors.Join(errs...)
	}
	return Exported{}, kind.WithHint(kind.Errorf(kind.NotFound, "message %s is not kept any more", rows[0].ID), "it was delivered longer ago than the hold time of Safety Net")
}
