package transport

import (
	"context"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// The roles that see and that change what transport has.
var (
	seers    = []command.Role{command.ServerAdmin, command.OrganizationAdmin, command.HelpDesk, command.Auditor}
	changers = []command.Role{command.ServerAdmin, command.OrganizationAdmin}
	servers  = []command.Role{command.ServerAdmin, command.Auditor}
)

// Commands are the room's entries of the command table. m may be nil for
// listing them.
func Commands(m *Mover) []command.Command {
	var all []command.Command
	all = append(all, queueCommands(m)...)
	all = append(all, messageCommands(m)...)
	all = append(all, safetyNetCommands(m)...)
	all = append(all, reportCommands(m)...)
	return append(all, manageCommands(m)...)
}

// MessageRow is a message for one recipient as commands show it.
type MessageRow struct {
	Trace     string             `json:"trace" col:"TRACE"`
	Received  time.Time          `json:"received" col:"RECEIVED"`
	Server    org.ServerName     `json:"server" col:"SERVER"`
	Sender    string             `json:"sender" col:"SENDER"`
	Recipient string             `json:"recipient" col:"RECIPIENT"`
	State     string             `json:"state" col:"STATE"`
	Dest      string             `json:"destination,omitempty" col:"DESTINATION"`
	Attempts  int                `json:"attempts" col:"TRIED"`
	Next      *time.Time         `json:"next,omitempty" col:"NEXT"`
	Expires   *time.Time         `json:"expires,omitempty" col:"-"`
	Last      *time.Time         `json:"last,omitempty" col:"-"`
	Reply     string             `json:"reply,omitempty" col:"REPLY"`
	Host      string             `json:"host,omitempty" col:"-"`
	TLS       string             `json:"tls,omitempty" col:"-"`
	Original  string             `json:"original_recipient,omitempty" col:"-"`
	Row       int                `json:"row" col:"-"`
	Because   string             `json:"because,omitempty" col:"-"` // group, alias, forward, rule, journal
	Of        int                `json:"of_row,omitempty" col:"-"`
	Org       org.OrganizationID `json:"organization,omitempty" col:"-"`
	Shadow    org.ServerName     `json:"shadow,omitempty" col:"SHADOW"`
	Mailbox   string             `json:"mailbox,omitempty" col:"-"`
	Database  org.DatabaseName   `json:"database,omitempty" col:"-"`
	Duplicate bool               `json:"duplicate,omitempty" col:"-"`
	Repeat    bool               `json:"repeat_possible,omitempty" col:"-"`
	Report    string             `json:"report,omitempty" col:"-"` // trace of the notification to the sender
	Parent    string             `json:"parent,omitempty" col:"-"` // trace of the message this one reports on or copies
	TakenFrom org.ServerName     `json:"taken_from,omitempty" col:"-"`
	Subject   string             `json:"subject,omitempty" col:"-"`
	MessageID string             `json:"message_id,omitempty" col:"-"`
	Size      int64              `json:"size" col:"-"`
	Account   string             `json:"account,omitempty" col:"-"`
	Door      string             `json:"door,omitempty" col:"-"`
	Remote    string             `json:"remote,omitempty" col:"-"`
}

func moment(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Truncate(time.Millisecond)
	return &t
}

func show(r row) MessageRow {
	out := MessageRow{Trace: r.ID.String(), Received: r.Received.UTC().Truncate(time.Millisecond), Server: r.Server, Sender: "<" + r.Sender + ">", Recipient: r.Address,
		State: r.State.String(), Dest: r.Dest, Attempts: int(r.Attempts), Expires: moment(r.Expires), Last: moment(r.Last), Host: r.Host, TLS: tlsName(r.TLS),
		Original: r.Original, Row: int(r.N), Because: because(r), Org: r.Organization, Shadow: r.Shadow, Duplicate: r.Duplicate, Repeat: r.RepeatPossible,
		TakenFrom: r.TakenFrom, Subject: r.Subject, MessageID: r.MessageID, Size: r.Size, Account: r.Account, Door: r.Door, Remote: r.Remote}
	if !r.State.Finished() {
		out.Next = moment(r.Next)
	}
	if r.Why != 0 {
		out.Of = int(r.Parent)
	}
	if r.Code != 0 || r.Status != "" || r.Text != "" {
		out.Reply = reply(r.Code, r.Status, r.Text)
	}
	if r.Mailbox.Database != "" {
		out.Mailbox, out.Database = r.Mailbox.ID.String(), r.Mailbox.Database
	}
	if r.Child != (mail.TraceID{}) {
		out.Report = r.Child.String()
	}
	if r.Report != (mail.TraceID{}) {
		out.Parent = r.Report.String()
	}
	return out
}

// seen is a row as a caller may know it. Who is bound to an organization sees
// what its people get, and of what they sent the recipients they named: not
// whom a group or forward of another organization led to, nor where its
// mailboxes are.
func seen(ctx context.Context, r row) (row, bool) {
	o := org.OrganizationID(command.CallerOf(ctx).Organization)
	if o == "" || r.Organization == o {
		return r, true
	}
	if r.SenderOrg != o || r.Why != 0 && r.Organization != "" {
		return r, false
	}
	if r.Organization != "" {
		r.Dest, r.Mailbox = "", org.MailboxRef{}
	}
	return r, true
}

// scope is the organization that a caller is bound to, or asked for.
func scope(ctx context.Context, asked string) (org.OrganizationID, error) {
	bound := command.CallerOf(ctx).Organization
	if bound != "" && asked != "" && asked != bound {
		return "", kind.Errorf(kind.NotFound, "there is no organization %s", asked)
	}
	if bound != "" {
		return org.OrganizationID(bound), nil
	}
	return org.OrganizationID(asked), nil
}

func parseTraces(texts []string) (out []mail.TraceID, err error) {
	for _, t := range texts {
		id, err := mail.ParseTraceID(strings.ToLower(strings.TrimSpace(t)))
		if err != nil {
			return nil, kind.Errorf(kind.Invalid, "%w", err)
		}
		out = append(out, id)
	}
	return out, nil
}
