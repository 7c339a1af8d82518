package inbox

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// atOnce are the questions that are answered at a time.
const atOnce = 2

// Deps is what the commands work with. Names and parameters can be read from
// those of zero Deps.
type Deps struct {
	Store Store
	// Mailbox finds who has an address.
	Mailbox func(a mail.Address) (org.MailboxRef, org.OrganizationID, bool)
	Now     func() time.Time
}

// Summary is what commands say of the reports that were read.
type Summary struct {
	Reports    int  `json:"reports" col:"REPORTS"`
	Unreadable int  `json:"unreadable" col:"UNREADABLE"`
	Unproven   int  `json:"unproven" col:"UNPROVEN"` // messages that are not from who they say
	Cut        bool `json:"cut" col:"CUT"`           // there are more than one command reads
}

// SourceSummary is the answer about DMARC.
type SourceSummary struct {
	Summary
	Sources []Source `json:"sources" col:"SOURCES"`
}

// SessionSummary is the answer about TLS.
type SessionSummary struct {
	Summary
	Sessions []Sessions `json:"sessions" col:"SESSIONS"`
}

type reportIn struct {
	Mailbox string        `json:"mailbox" arg:"1" required:"true" doc:"address of the mailbox that the reports arrive in" complete:"mailbox list"`
	Folder  string        `json:"folder" doc:"its folder that has them" default:"INBOX"`
	Domain  string        `json:"domain" doc:"only about this domain" complete:"domain list"`
	Last    time.Duration `json:"last" doc:"reports that came in this time" default:"168h"`
	Limit   int           `json:"limit" doc:"rows at most" default:"100"`
}

// find checks a question. A mailbox of somebody else is one that is not there.
func (d Deps) find(ctx context.Context, in reportIn) (org.MailboxRef, Filter, error) {
	if in.Limit < 1 || in.Limit > MaxRows {
		return org.MailboxRef{}, Filter{}, kind.Errorf(kind.Invalid, "limit: want 1 to %d", MaxRows)
	}
	if in.Last <= 0 {
		return org.MailboxRef{}, Filter{}, kind.Errorf(kind.Invalid, "last: want a time, as in 168h")
	}
	f := Filter{Folder: in.Folder, Since: d.Now().Add(-in.Last)}
	if in.Domain != "" {
		domain, err := mail.NormalizeDomain(in.Domain)
		if err != nil {
			return org.MailboxRef{}, Filter{}, kind.Errorf(kind.Invalid, "domain: %w", err)
		}
		f.Domain = domain
	}
	missing := kind.WithHint(kind.Errorf(kind.NotFound, "mailbox %.200s: no such mailbox", in.Mailbox), "postern mailbox list")
	a, err := mail.ParseAddress(in.Mailbox)
	if err != nil {
		return org.MailboxRef{}, Filter{}, missing
	}
	at, o, ok := d.Mailbox(a)
	if bound := command.CallerOf(ctx).Organization; !ok || bound != "" && bound != string(o) {
		return org.MailboxRef{}, Filter{}, missing
	}
	return at, f, nil
}

// Commands are the entries of the command table.
func Commands(d Deps) []command.Command {
	const long = "The reports are read from the mailbox when asked, and stay there. What they say is what their senders claim; messages that fail DMARC are left out."
	entry := func(verb, short, example string) command.Command {
		return command.Command{Noun: "report", Verb: verb, Short: short, Long: long, Example: example, Scoped: true,
			Roles: []command.Role{command.ServerAdmin, command.OrganizationAdmin}}
	}
	turns := make(chan struct{}, atOnce)
	return []command.Command{
		command.New(entry("dmarc", "Sum up the DMARC reports that others sent, by domain and source, those with most failures first",
			"postern report dmarc dmarc@example.com --domain example.com --last 720h"), oneByOne(turns, d.dmarc)),
		command.New(entry("tls", "Sum up the TLS reports that others sent, failures first", "postern report tls tls@example.com"), oneByOne(turns, d.tls)),
	}
}

func summary(r Read, cut bool) Summary {
	return Summary{Reports: r.Reports, Unreadable: r.Bad, Unproven: r.Unproven, Cut: r.Cut || cut}
}

// oneByOne lets only so many questions be answered at a time: each may need the
// memory of some large messages.
func oneByOne[In, Out any](turns chan struct{}, run func(ctx context.Context, in In) (Out, error)) func(ctx context.Context, in In) (Out, error) {
	return func(ctx context.Context, in In) (out Out, err error) {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
			return run(ctx, in)
		case <-ctx.Done():
			return out, context.Cause(ctx)
		}
	}
}

func (d Deps) dmarc(ctx context.Context, in reportIn) (SourceSummary, error) {
	at, f, err := d.find(ctx, in)
	if err != nil {
		return SourceSummary{}, err
	}
	rows, read, err := DMARC(ctx, d.Store, at, f)
	if err != nil {
		return SourceSummary{}, err
	}
	n := min(len(rows), in.Limit)
	return SourceSummary{summary(read, n < len(rows)), rows[:n]}, nil
}

func (d Deps) tls(ctx context.Context, in reportIn) (SessionSummary, error) {
	at, f, err := d.find(ctx, in)
	if err != nil {
		return SessionSummary{}, err
	}
	rows, read, err := TLS(ctx, d.Store, at, f)
	if err != nil {
		return SessionSummary{}, err
	}
	n := min(len(rows), in.Limit)
	return SessionSummary{summary(read, n < len(rows)), rows[:n]}, nil
}
