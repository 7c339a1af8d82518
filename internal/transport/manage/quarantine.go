package manage

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/quarantine"
)

// QuarantineRow is a quarantined message as commands show it.
type QuarantineRow struct {
	ID           string             `json:"id" col:"ID"`
	Received     time.Time          `json:"received" col:"RECEIVED"`
	Organization org.OrganizationID `json:"organization" col:"ORGANIZATION"`
	Sender       string             `json:"sender" col:"SENDER"`
	Recipients   []string           `json:"recipients" col:"RECIPIENTS"`
	Reason       string             `json:"reason" col:"REASON"`
	Malware      bool               `json:"malware" col:"-"`
	Score        float64            `json:"score,omitempty" col:"-"`
	From         string             `json:"from" col:"-"`
	Subject      string             `json:"subject" col:"SUBJECT"`
	Size         int64              `json:"size" col:"-"`
	Trace        string             `json:"trace" col:"-"`
	Remote       string             `json:"remote,omitempty" col:"-"`
	Account      string             `json:"account,omitempty" col:"-"`
	Expires      time.Time          `json:"expires" col:"EXPIRES"`
}

// QuarantineShown is one quarantined message with the beginning of its header.
type QuarantineShown struct {
	QuarantineRow
	Header []HeaderLine `json:"header" col:"HEADER"`
}

// HeaderLine is a line of a message's header.
type HeaderLine struct {
	Line string `json:"line" col:"LINE"`
}

func quarantineRow(e quarantine.Entry) QuarantineRow {
	out := QuarantineRow{ID: e.ID.String(), Received: e.Received, Organization: e.Organization, Sender: "<" + e.Envelope.From + ">", Recipients: []string{},
		Reason: e.Reason, Malware: e.Malware, Score: e.Score, From: e.From, Subject: e.Subject, Size: e.Size, Trace: e.Trace.String(),
		Remote: e.Origin.Remote, Account: e.Origin.Account, Expires: e.Expires}
	for _, r := range e.Envelope.Recipients {
		out.Recipients = append(out.Recipients, r.Address)
	}
	return out
}

type quarantineIn struct {
	ID           mail.TraceID `json:"id" arg:"1" required:"true" doc:"identity of the message" complete:"quarantine list"`
	Organization string       `json:"organization" doc:"organization that has it; without, all are looked through" complete:"organization list"`
}

// held finds whose quarantine has a message.
func (d Deps) held(ctx context.Context, in quarantineIn) (quarantine.Entry, string, error) {
	var away error
	for _, o := range d.inScope(ctx, in.Organization) {
		e, head, err := d.Quarantine.Show(ctx, o, in.ID)
		if err == nil {
			return e, head, nil
		}
		if !kind.Is(err, kind.NotFound) {
			away = err
		}
	}
	if away != nil {
		return quarantine.Entry{}, "", away
	}
	return quarantine.Entry{}, "", noSuch("message", in.ID.String(), "postern quarantine list")
}

func quarantineCommands(d Deps) []command.Command {
	type listIn struct {
		Organization string        `json:"organization" doc:"only of this organization" complete:"organization list"`
		Sender       string        `json:"sender" doc:"only from senders that contain this"`
		Recipient    string        `json:"recipient" doc:"only for recipients that contain this"`
		Reason       string        `json:"reason" doc:"only with a reason that contains this"`
		Last         time.Duration `json:"last" doc:"only of this time, as in 24h"`
		Limit        int           `json:"limit" doc:"at most so many of each organization, the newest" default:"100"`
	}
	type deleteIn struct {
		quarantineIn
		DryRun bool `json:"dry_run" doc:"only show what would be done"`
	}
	list := reads("quarantine", "list", "List messages that are kept in quarantine", func(ctx context.Context, in listIn) ([]QuarantineRow, error) {
		if in.Limit < 1 || in.Limit > quarantine.MaxList {
			return nil, kind.Errorf(kind.Invalid, "limit: want 1 to %d", quarantine.MaxList)
		}
		f := quarantine.Filter{Sender: in.Sender, Recipient: in.Recipient, Reason: in.Reason, Limit: in.Limit}
		if in.Last > 0 {
			f.Since = d.Now().Add(-in.Last)
		}
		out := []QuarantineRow{}
		for _, o := range d.inScope(ctx, in.Organization) {
			all, err := d.Quarantine.List(ctx, o, f)
			if err != nil {
				return nil, kind.WithHint(err, "ask for one organization with --organization")
			}
			for _, e := range all {
				out = append(out, quarantineRow(e))
			}
		}
		return out, nil
	})
	show := reads("quarantine", "show", "Show a message that is kept in quarantine, with its header", func(ctx context.Context, in quarantineIn) (QuarantineShown, error) {
		e, head, err := d.held(ctx, in)
		if err != nil {
			return QuarantineShown{}, err
		}
		out := QuarantineShown{QuarantineRow: quarantineRow(e), Header: []HeaderLine{}}
		for line := range strings.Lines(strings.TrimRight(head, "\r\n")) {
			out.Header = append(out.Header, HeaderLine{strings.TrimRight(line, "\r\n")})
		}
		return out, nil
	})
	remove := removes("quarantine", "delete", "Delete a message from quarantine for good", byAdmins, func(ctx context.Context, in deleteIn) (command.Plan, error) {
		e, _, err := d.held(ctx, in.quarantineIn)
		if err != nil {
			return command.Plan{}, err
		}
		return carryOut(in.DryRun, "delete message", fmt.Sprintf("%s from <%s>", e.ID, e.Envelope.From), func() error {
			return d.Quarantine.Delete(ctx, e.Organization, e.ID)
		})
	})
	return []command.Command{list, show, releaseCommand(d), remove}
}

// Released is what became of a message that was let go.
type Released struct {
	ID         string   `json:"id" col:"ID"`
	Trace      string   `json:"trace" col:"TRACE"` // under which it goes on
	Recipients []string `json:"recipients" col:"RECIPIENTS"`
}

func releaseCommand(d Deps) command.Command {
	type releaseIn struct {
		quarantineIn
		Recipients []string `json:"recipient" doc:"only for this recipient of it (may be repeated)"`
	}
	c := changes("quarantine", "release", "Deliver a message that is kept in quarantine", byAdmins, func(ctx context.Context, in releaseIn) (Released, error) {
		e, _, err := d.held(ctx, in.quarantineIn)
		if err != nil {
			return Released{}, err
		}
		receipt, err := d.Quarantine.Release(ctx, e.Organization, e.ID, in.Recipients, ofServers(ctx))
		if err != nil {
			return Released{}, err
		}
		to := in.Recipients
		if len(to) == 0 {
			to = quarantineRow(e).Recipients
		}
		return Released{e.ID.String(), receipt.Trace.String(), to}, nil
	})
	c.Long = "The message is delivered as it came, without being scanned again. Malware is released by administrators of the servers only."
	return c
}
