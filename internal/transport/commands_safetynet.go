package transport

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/safetynet"
)

// RequestRow is a Safety Net request as commands show it.
type RequestRow struct {
	ID         string              `json:"id" col:"REQUEST"`
	Database   org.DatabaseName    `json:"database" col:"DATABASE"`
	From       time.Time           `json:"from" col:"FROM"`
	To         time.Time           `json:"to" col:"TO"`
	State      string              `json:"state" col:"STATE"`
	Why        string              `json:"why,omitempty" col:"-"` // of the state
	Reason     string              `json:"reason" col:"REASON"`
	By         string              `json:"by" col:"-"`
	Found      int                 `json:"found" col:"FOUND"`
	Delivered  int                 `json:"delivered" col:"DELIVERED"`
	Duplicates int                 `json:"duplicates" col:"HAD-IT"`
	Failed     int                 `json:"failed" col:"FAILED"`
	Parts      []org.SafetyNetPart `json:"parts,omitempty" col:"-"`
}

func requestRow(s safetynet.Status) RequestRow {
	r := s.Request
	return RequestRow{ID: r.ID, Database: r.Database, From: r.From, To: r.To, State: s.State, Why: s.Why, Reason: r.Why, By: r.By,
		Found: s.Found, Delivered: s.Delivered, Duplicates: s.Duplicates, Failed: s.Failed, Parts: s.Parts}
}

type requestIn struct {
	Database  org.DatabaseName `json:"database" arg:"1" required:"true" doc:"database that lost messages" complete:"database list"`
	From      time.Time        `json:"from" required:"true" doc:"begin of the interval, as 2026-01-31T12:00:00Z"`
	To        time.Time        `json:"to" doc:"end of the interval; now when not given"`
	Sender    string           `json:"sender" doc:"only from this envelope sender"`
	Recipient string           `json:"recipient" doc:"only for this address"`
	MessageID string           `json:"message_id" doc:"only with this Message-ID"`
	Resubmit  string           `json:"resubmit_to" doc:"address that gets the messages instead"`
	Reason    string           `json:"reason" doc:"why, for the list"`
}

type requestID struct {
	ID string `json:"id" arg:"1" required:"true" doc:"request, as safetynet list shows it" complete:"safetynet list"`
}

func safetyNetCommands(m *Mover) []command.Command {
	change := func(verb, short string, do func(context.Context, string) error) command.Command {
		return command.New(command.Command{Noun: "safetynet", Verb: verb, Short: short, Changes: true},
			func(ctx context.Context, in requestID) (RequestRow, error) {
				if err := do(ctx, in.ID); err != nil {
					return RequestRow{}, err
				}
				s, err := m.net.Show(in.ID)
				return requestRow(s), err
			})
	}
	return []command.Command{
		command.New(command.Command{Noun: "safetynet", Verb: "list", Short: "List requests to deliver kept messages again", Roles: servers},
			func(context.Context, command.None) ([]RequestRow, error) {
				out := []RequestRow{}
				for _, s := range m.net.Requests() {
					out = append(out, requestRow(s))
				}
				return out, nil
			}),
		command.New(command.Command{Noun: "safetynet", Verb: "show", Short: "Show a request and what each server did for it", Roles: servers},
			func(_ context.Context, in requestID) (RequestRow, error) {
				s, err := m.net.Show(in.ID)
				return requestRow(s), err
			}),
		command.New(command.Command{Noun: "safetynet", Verb: "request", Short: "Deliver again what was delivered to a database in an interval", Changes: true,
			Long:    "Messages that a mailbox has already are not doubled.",
			Example: "postern safetynet request DB01 --from 2026-01-31T12:00:00Z"},
			func(ctx context.Context, in requestIn) (RequestRow, error) {
				id, err := m.net.Create(ctx, safetynet.Request{Database: in.Database, From: in.From, To: in.To, ResubmitTo: in.Resubmit, Why: in.Reason,
					By: command.CallerOf(ctx).Name, Conditions: org.SafetyNetConditions{Sender: in.Sender, Recipient: in.Recipient, MessageID: in.MessageID}})
				if err != nil {
					return RequestRow{}, err
				}
				s, err := m.net.Show(id)
				return requestRow(s), err
			}),
		change("cancel", "Remove a request; what it did stays", func(ctx context.Context, id string) error { return m.net.Cancel(ctx, id) }),
		change("disable", "Let a request rest", func(ctx context.Context, id string) error { return m.net.Disable(ctx, id) }),
		change("enable", "Let a request go on", func(ctx context.Context, id string) error { return m.net.Enable(ctx, id) }),
	}
}
