package transport

import (
	"context"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/shadow"
)

// QueueRow is the queue of a server as commands show it.
type QueueRow struct {
	Server      org.ServerName   `json:"server" col:"SERVER"`
	Level       string           `json:"level" col:"PRESSURE"`
	Accepting   bool             `json:"accepting" col:"ACCEPTS"`
	Unfinished  int64            `json:"unfinished" col:"UNFINISHED"`
	Alone       int              `json:"alone" col:"ALONE"`
	Reconciling int              `json:"reconciling" col:"UNSETTLED"`
	LogBytes    int64            `json:"log_bytes" col:"BYTES"`
	Epoch       uint64           `json:"epoch" col:"EPOCH"`
	TakenBy     org.ServerName   `json:"taken_by,omitempty" col:"TAKEN-BY"`
	Copies      []org.ServerName `json:"copies_to,omitempty" col:"COPIES-TO"`
	Why         string           `json:"why,omitempty" col:"-"`
	Error       string           `json:"error,omitempty" col:"ERROR"`
}

const (
	askStatus = "status"
	askDrain  = "drain"
)

type statusAnswer struct {
	Shadow shadow.Status `cbor:"1,keyasint"`
	Queue  queue.Stats   `cbor:"2,keyasint"`
}

type drainQuery struct {
	Resume bool `cbor:"1,keyasint"`
}

func (m *Mover) queueRows(ctx context.Context, only org.ServerName) ([]QueueRow, error) {
	answers, err := askAll[struct{}, statusAnswer](ctx, m, only, askStatus, struct{}{})
	if err != nil {
		return nil, err
	}
	out := []QueueRow{}
	for _, a := range answers {
		if a.Err != nil {
			out = append(out, QueueRow{Server: a.Server, Error: a.Err.Error()})
			continue
		}
		s := a.Answer.Shadow
		r := QueueRow{Server: a.Server, Level: s.Level.String(), Accepting: s.Accepting, Unfinished: a.Answer.Queue.Open, Alone: s.Alone, Reconciling: s.Reconciling,
			LogBytes: a.Answer.Queue.LogBytes, Epoch: s.Epoch, Copies: s.Candidates, Why: s.Row.Why}
		if s.Row.Fenced() {
			r.TakenBy = s.Row.TakenBy
		}
		out = append(out, r)
	}
	return out, nil
}

type redirectIn struct {
	Server org.ServerName `json:"server" arg:"1" required:"true" doc:"server whose messages the others take over" complete:"server list"`
	Resume bool           `json:"resume" doc:"let it accept again"`
	DryRun bool           `json:"dry_run" doc:"only say what would be done"`
}

func (m *Mover) redirectQueue(ctx context.Context, in redirectIn) (command.Plan, error) {
	rows, err := m.queueRows(ctx, in.Server)
	if err != nil {
		return command.Plan{}, err
	}
	r := rows[0]
	if r.Error != "" {
		return command.Plan{}, kind.Errorf(kind.Busy, "%s: %s", in.Server, r.Error)
	}
	p := command.Plan{DryRun: in.DryRun}
	if in.Resume {
		p.Steps = []command.Step{{Name: "accept again", Detail: string(in.Server)}}
	} else {
		p.Steps = []command.Step{{Name: "stop accepting and hand over", Detail: fmt.Sprintf("%d messages of %s to the servers that hold their copies", r.Unfinished, in.Server)}}
		if len(r.Copies) == 0 {
			return p, kind.Errorf(kind.Busy, "no other server can take the messages of %s", in.Server)
		}
	}
	if in.DryRun {
		return p, nil
	}
	_, err = ask[drainQuery, struct{}](ctx, m, in.Server, askDrain, drainQuery{in.Resume})
	p.Steps[0].Done = err == nil
	return p, err
}

// VerifyRow is a difference that queue verify found, or what it compared.
type VerifyRow struct {
	Server  org.ServerName `json:"server" col:"SERVER"`
	Trace   string         `json:"trace,omitempty" col:"TRACE"`
	Address string         `json:"address,omitempty" col:"RECIPIENT"`
	What    string         `json:"what" col:"WHAT"`
	Wrong   bool           `json:"wrong" col:"WRONG"`
}

type verifyIn struct {
	Server org.ServerName `json:"server" doc:"only this server" complete:"server list"`
	Since  time.Duration  `json:"since" doc:"only messages that came so long ago at most; all in the ledger that mailboxes still know of when not given"`
}

func (m *Mover) verifyQueue(ctx context.Context, in verifyIn) ([]VerifyRow, error) {
	since := in.Since
	if since <= 0 || since > m.deps.DuplicateWindow {
		since = m.deps.DuplicateWindow
	}
	logs, err := askAll[struct{}, queue.VerifyReport](ctx, m, in.Server, askLog, struct{}{})
	if err != nil {
		return nil, err
	}
	out := []VerifyRow{}
	bad := 0
	add := func(r VerifyRow) {
		if r.Wrong {
			bad++
		}
		out = append(out, r)
	}
	for _, l := range logs {
		if l.Err != nil {
			return out, fmt.Errorf("verify the ledger of %s: %w", l.Server, l.Err)
		}
		for _, d := range l.Answer.Differences {
			add(VerifyRow{Server: l.Server, Trace: d.ID.String(), What: "ledger key " + d.Key + ": " + d.What, Wrong: true})
		}
		add(VerifyRow{Server: l.Server, What: fmt.Sprintf("%d keys of the ledger compared with the log", l.Answer.Keys)})
		checked, open := 0, 0
		q := rowsQuery{Since: m.now().Add(-since)}
		for {
			a, err := ask[rowsQuery, rowsAnswer](ctx, m, l.Server, askRows, q)
			if err != nil {
				return out, fmt.Errorf("verify rows of %s: %w", l.Server, err)
			}
			checked, open = checked+a.Checked, open+a.Open
			for _, w := range a.Wrong {
				add(VerifyRow{Server: l.Server, Trace: w.ID.String(), Address: w.Address, What: w.What, Wrong: true})
			}
			command.Progress(ctx, "%s: %d rows compared, %d differ", l.Server, checked, bad)
			if a.Cursor == "" {
				break
			}
			q.Cursor = a.Cursor
		}
		add(VerifyRow{Server: l.Server, What: fmt.Sprintf("%d rows compared with what they name, %d of them unfinished", checked, open)})
	}
	if bad > 0 {
		return out, kind.Errorf(kind.Corrupt, "%d differences between the ledger and reality", bad)
	}
	return out, nil
}
