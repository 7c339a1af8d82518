package active

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// activateArgs is the order to bring a database back to a moment.
type activateArgs struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the database" complete:"database list"`
	At       string           `json:"at" required:"true" doc:"the moment, as in 2026-11-21T15:04:05Z, or how long ago, as in 2h or 3d"`
	From     org.ServerName   `json:"from_server" doc:"server whose copy is asked; the one with the least to replay when not given" complete:"server list"`
	Comment  string           `json:"comment" doc:"why, for the Safety Net request"`
	DryRun   bool             `json:"dry_run" doc:"only say what would be changed"`
}

func activateCommand(m *Manager) command.Command {
	return command.New(command.Command{Noun: "database", Verb: "activate", Short: "Bring all mailboxes of a database back to a moment", Changes: true, Dangerous: true, Stream: true,
		Long: "Asks a lagged copy, or one with kept checkpoints, for the database as it was at the moment, and changes each live mailbox where it differs: messages that are gone are put back, those that were moved go back, flags, folders and " +
			"subscriptions are as they were. What came since stays where it is. Then Safety Net is asked for all mail since the moment: what was delivered and destroyed since arrives again, the rest is recognised. " +
			"Clients see ordinary changes and need not be kept out; what users changed since the moment is changed back. The database stays active where it is and its copies stay in sync. Run it again when it was broken off: what is right already is left alone.",
		Example: "postern database activate DB01 --at 2026-11-21T15:04:05Z --dry-run"}, m.activate)
}

func (m *Manager) activate(ctx context.Context, in activateArgs) ([]mailbox.Rewound, error) {
	at, err := mailbox.Moment(in.At, time.Now())
	if err != nil {
		return nil, err
	}
	if m.deps.Rewind == nil || m.deps.SafetyNet == nil {
		return nil, kind.WithHint(kind.Errorf(kind.Invalid, "this server has no mail queue, so it cannot ask Safety Net"), "run it at a server that is no witness")
	}
	res, err := m.deps.Rewind(ctx, mailbox.Rewind{Database: in.Database, At: at, From: in.From, DryRun: in.DryRun})
	if err != nil {
		if res.Sum.Back+res.Sum.Moved+res.Sum.Flags+res.Sum.Folders+res.Sum.Again > 0 && !in.DryRun {
			err = kind.WithHint(fmt.Errorf("broken off after %d mailboxes: %w", res.Done, err), "run the same command again: it goes on, and Safety Net is asked at its end")
		}
		return nil, err
	}
	asked, err := m.askSince(ctx, in.Database, at, cmp.Or(in.Comment, "brought back to "+at.UTC().Format(time.RFC3339)), in.DryRun)
	if err != nil {
		return nil, kind.WithHint(fmt.Errorf("the mailboxes are as they were, but Safety Net was not asked: %w", err),
			fmt.Sprintf("postern safetynet request %s --from %s", in.Database, at.UTC().Format(time.RFC3339)))
	}
	rows := res.Mailboxes
	if n := res.Changed - len(rows); n > 0 {
		rows = append(rows, mailbox.Rewound{Mailbox: "...", Result: fmt.Sprintf("and %d more mailboxes", n)})
	}
	res.Sum.Mailbox = fmt.Sprintf("%d of %d", res.Changed, res.Done)
	res.Sum.Result = map[bool]string{true: "dry run, ", false: ""}[in.DryRun] + "from the copy on " + string(res.Server) + "; " + asked
	if res.Failed > 0 {
		res.Sum.Result += fmt.Sprintf("; %d mailboxes were not wholly brought back: see their rows, and run the command again", res.Failed)
	}
	return append(rows, res.Sum), nil
}

// askSince asks Safety Net for what was delivered to a database since a moment, and
// says what of that it still keeps.
func (m *Manager) askSince(ctx context.Context, db org.DatabaseName, at time.Time, why string, dry bool) (string, error) {
	id, op := m.deps.SafetyNet(db, at.Add(-lossyMargin), why)
	var r org.SafetyNetRequest
	if err := json.Unmarshal(op.Value, &r); err != nil {
		return "", err
	}
	said := "Safety Net request " + id
	if dry {
		said = "Safety Net would be asked"
	}
	if r.From.After(at) {
		said += ", which keeps mail since " + r.From.UTC().Format(time.RFC3339) + " only"
	}
	if dry {
		return said, nil
	}
	_, err := m.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: op.Key}}, Then: []cluster.Op{op}})
	return said, err
}
