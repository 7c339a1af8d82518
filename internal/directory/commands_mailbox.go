package directory

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// MailboxRow is a mailbox as commands show it.
type MailboxRow struct {
	Address       string             `json:"address" col:"ADDRESS"`
	Name          string             `json:"name,omitempty" col:"NAME"`
	Type          Type               `json:"type" col:"TYPE"`
	Database      org.DatabaseName   `json:"database" col:"DATABASE"`
	State         string             `json:"state" col:"STATE"` // ready, waiting, disabled, removed
	ID            org.MailboxID      `json:"id" col:"-"`
	Organization  org.OrganizationID `json:"organization" col:"ORGANIZATION"`
	Aliases       []string           `json:"aliases" col:"ALIASES"`
	QuotaBytes    int64              `json:"quota_bytes" col:"-"`
	QuotaMessages int64              `json:"quota_messages" col:"-"`
	Roles         []command.Role     `json:"roles,omitempty" col:"-"`
	Grants        []GrantRow         `json:"grants,omitempty" col:"-"`
	Forward       []string           `json:"forward,omitempty" col:"-"`
	ForwardKeep   bool               `json:"forward_keep,omitempty" col:"-"`
	Route         string             `json:"route,omitempty" col:"-"`
	Language      string             `json:"language,omitempty" col:"-"`
	MaxMessage    int64              `json:"max_message,omitempty" col:"-"`
	Created       time.Time          `json:"created" col:"-"`
	Removed       *time.Time         `json:"removed,omitempty" col:"-"`
	// Password is set once, where it was made on creation.
	Password string `json:"password,omitempty" col:"PASSWORD"`
}

// GrantRow is a grant as commands show it.
type GrantRow struct {
	Address string `json:"address"`
	SendAs  bool   `json:"send_as"`
	Access  bool   `json:"access"`
}

func (d *Directory) mailboxRow(r Recipient) MailboxRow {
	out := MailboxRow{
		Address: r.Address.String(), Name: r.Name, Type: r.Type, Database: r.Database, State: state(r), ID: r.ID,
		Organization: r.Organization, Aliases: []string{}, QuotaBytes: r.QuotaBytes, QuotaMessages: r.QuotaMessages,
		Roles: r.Roles, Created: r.Created, Removed: r.Deleted, Forward: texts(r.Forward), ForwardKeep: r.ForwardKeep, Route: r.Route,
		Language: r.Language, MaxMessage: r.MaxMessage,
	}
	for _, a := range r.Aliases {
		out.Aliases = append(out.Aliases, a.String())
	}
	for _, g := range r.Grants {
		if to, ok := d.ByID(r.Organization, g.Mailbox); ok {
			out.Grants = append(out.Grants, GrantRow{to.Address.String(), g.SendAs, g.Access})
		}
	}
	return out
}

// texts are addresses as text.
func texts(all []mail.Address) []string {
	var out []string
	for _, a := range all {
		out = append(out, a.String())
	}
	return out
}

func state(r Recipient) string {
	switch {
	case r.Purging:
		return "purging"
	case r.Deleted != nil:
		return "removed"
	case r.Disabled:
		return "disabled"
	case r.IsMailbox() && !r.Provisioned:
		return "waiting"
	}
	return "ready"
}

// answer turns a changed recipient into a command's answer.
func (d *Directory) answer(r Recipient, err error) (MailboxRow, error) {
	if err != nil {
		return MailboxRow{}, err
	}
	return d.mailboxRow(r), nil
}

type mailboxIn struct {
	Address mail.Address `json:"address" arg:"1" required:"true" scope:"address" doc:"address of the mailbox" complete:"mailbox list"`
}

type listIn struct {
	Organization string `json:"organization" doc:"only of this organization" complete:"organization list"`
	Filter       string `json:"filter" doc:"only where address or name contain this"`
	After        string `json:"after" doc:"begin after this address"`
	Limit        int    `json:"limit" default:"1000" doc:"at most so many (up to 10000)"`
}

func mailboxCommands(d *Directory) []command.Command {
	return []command.Command{
		createMailboxCommand(d),
		reads("mailbox", "list", "List the mailboxes", func(ctx context.Context, in listIn) ([]MailboxRow, error) {
			var all []Recipient
			for _, o := range d.inScope(ctx, in.Organization) {
				all = append(all, d.Mailboxes(o)...)
			}
			all, err := page(all, in.Filter, in.After, in.Limit)
			out := make([]MailboxRow, 0, len(all))
			for _, r := range all {
				out = append(out, d.mailboxRow(r))
			}
			return out, err
		}),
		reads("mailbox", "show", "Show a mailbox", func(ctx context.Context, in mailboxIn) (MailboxRow, error) {
			r, _, err := d.find(d.state.View(), scopeOf(ctx), in.Address, "mailbox")
			if err != nil {
				return MailboxRow{}, err
			}
			return d.mailboxRow(*r), nil
		}),
		setMailboxCommand(d),
		removeMailboxCommand(d),
		changes("mailbox", "restore", "Bring a removed mailbox back", byAdmins, func(ctx context.Context, in mailboxIn) (MailboxRow, error) {
			return d.answer(d.RestoreMailbox(ctx, in.Address))
		}),
		aliasCommand(d, "add-alias", "Give a mailbox or group one more address", d.AddAlias),
		aliasCommand(d, "remove-alias", "Take an alias away", d.RemoveAlias),
	}
}

func createMailboxCommand(d *Directory) command.Command {
	type in struct {
		Address       mail.Address     `json:"address" arg:"1" required:"true" scope:"address" doc:"primary address; its domain says the organization"`
		Aliases       []mail.Address   `json:"alias" doc:"one more address (may be repeated)"`
		Name          string           `json:"name" doc:"display name"`
		Shared        bool             `json:"shared" doc:"a mailbox nobody logs in to"`
		Password      string           `json:"password" secret:"true" doc:"password; one is made if empty"`
		PasswordHash  string           `json:"password_hash" secret:"true" doc:"instead: argon2id, {SSHA512} or {BLF-CRYPT} hash of another system"`
		Database      org.DatabaseName `json:"database" doc:"database; the one with the fewest mailboxes if empty" complete:"database list"`
		QuotaBytes    int64            `json:"quota_bytes" doc:"most bytes, 0 for no limit"`
		QuotaMessages int64            `json:"quota_messages" doc:"most messages, 0 for no limit"`
	}
	c := changes("mailbox", "create", "Create a mailbox", byAdmins, func(ctx context.Context, in in) (MailboxRow, error) {
		if in.Password != "" && in.PasswordHash != "" {
			return MailboxRow{}, kind.Errorf(kind.Invalid, "mailbox %s: a password or a hash, not both", in.Address)
		}
		r, made, err := d.CreateMailbox(ctx, NewMailbox{
			Address: in.Address, Aliases: in.Aliases, Name: in.Name, Shared: in.Shared, Password: in.Password, Hash: in.PasswordHash,
			Database: in.Database, QuotaBytes: in.QuotaBytes, QuotaMessages: in.QuotaMessages,
		})
		row, err := d.answer(r, err)
		row.Password = made
		return row, err
	})
	c.Example = "postern mailbox create ann@example.test --name 'Ann Smith' --database DB01"
	return c
}

func setMailboxCommand(d *Directory) command.Command {
	type in struct {
		mailboxIn
		Name          *string        `json:"name" doc:"display name"`
		QuotaBytes    *int64         `json:"quota_bytes" doc:"most bytes, 0 for no limit"`
		QuotaMessages *int64         `json:"quota_messages" doc:"most messages, 0 for no limit"`
		Disabled      *bool          `json:"disabled" doc:"nobody logs in, nothing is received"`
		Forward       []mail.Address `json:"forward" doc:"address that gets its mail instead (may be repeated); empty for nobody any more"`
		ForwardKeep   *bool          `json:"forward_keep" doc:"what is forwarded comes to the mailbox as well"`
		Route         *string        `json:"route" doc:"connector its mail goes to instead of a database; empty for none"`
		Language      *string        `json:"language" doc:"language of what the system writes to it, such as de or pt-BR"`
		MaxMessage    *int64         `json:"max_message" doc:"largest message it takes in bytes, 0 for the server's limit"`
	}
	c := changes("mailbox", "set", "Change name, limits or state of a mailbox, and where its mail goes", byAdmins, func(ctx context.Context, in in) (MailboxRow, error) {
		return d.answer(d.ChangeMailbox(ctx, in.Address, MailboxChange{
			Name: in.Name, QuotaBytes: in.QuotaBytes, QuotaMessages: in.QuotaMessages, Disabled: in.Disabled,
			Forward: given(in.Forward), ForwardKeep: in.ForwardKeep, Route: in.Route, Language: in.Language, MaxMessage: in.MaxMessage,
		}))
	})
	c.Example = "postern mailbox set ann@example.test --forward ann@example.com --forward-keep"
	return c
}

// given is a list that replaces another one, nil where none was given: to leave
// nothing, one empty element is given.
func given[T any](list []T) *[]T {
	if len(list) == 0 {
		return nil
	}
	return &list
}

func removeMailboxCommand(d *Directory) command.Command {
	type in struct {
		mailboxIn
		Now    bool `json:"now" doc:"delete it for good at once"`
		DryRun bool `json:"dry_run" doc:"only show what would be done"`
	}
	c := removes("mailbox", "remove", "Take a mailbox out of use; it can be restored for a while", byAdmins, func(ctx context.Context, in in) (command.Plan, error) {
		r, _, err := d.find(d.state.View(), scopeOf(ctx), in.Address, "mailbox")
		if err != nil {
			return command.Plan{}, err
		}
		what := "remove mailbox"
		detail := r.Address.String() + " in " + string(r.Database) + ", kept for " + d.opt.Retention.String()
		if in.Now {
			what, detail = "delete mailbox for good", r.Address.String()+" in "+string(r.Database)
		}
		return carryOut(in.DryRun, what, detail, func() error {
			_, err := d.RemoveMailbox(ctx, in.Address, in.Now)
			return err
		})
	})
	c.Long = "The mailbox keeps its addresses until it is deleted for good; with --now that is at once."
	return c
}

func aliasCommand(d *Directory, verb, short string, do func(ctx context.Context, a, alias mail.Address) (Recipient, error)) command.Command {
	type in struct {
		mailboxIn
		Alias mail.Address `json:"alias" arg:"2" required:"true" doc:"the alias"`
	}
	return changes("mailbox", verb, short, byAdmins, func(ctx context.Context, in in) (MailboxRow, error) {
		return d.answer(do(ctx, in.Address, in.Alias))
	})
}

func grantCommands(d *Directory) []command.Command {
	type in struct {
		mailboxIn
		To     mail.Address `json:"to" arg:"2" required:"true" doc:"mailbox of the same organization that gets the right"`
		SendAs bool         `json:"send_as" doc:"may send under this address"`
		Access bool         `json:"access" doc:"may open the mailbox"`
	}
	type revokeIn struct {
		mailboxIn
		From mail.Address `json:"from" arg:"2" required:"true" doc:"mailbox that loses its rights"`
	}
	return []command.Command{
		changes("mailbox", "grant", "Let another mailbox send as this one or open it", byAdmins, func(ctx context.Context, in in) (MailboxRow, error) {
			if !in.SendAs && !in.Access {
				return MailboxRow{}, kind.Errorf(kind.Invalid, "grant: want --send-as, --access or both")
			}
			return d.answer(d.GrantAccess(ctx, in.Address, in.To, in.SendAs, in.Access))
		}),
		changes("mailbox", "revoke", "Take back what another mailbox was granted", byAdmins, func(ctx context.Context, in revokeIn) (MailboxRow, error) {
			return d.answer(d.GrantAccess(ctx, in.Address, in.From, false, false))
		}),
	}
}

// AppPasswordRow is an app password as commands show it.
type AppPasswordRow struct {
	Name     string    `json:"name" col:"NAME"`
	Services []string  `json:"services" col:"SERVICES"` // empty: all but administration
	Created  time.Time `json:"created" col:"CREATED"`
}

func loginCommands(d *Directory) []command.Command {
	type passwordIn struct {
		mailboxIn
		Password string `json:"password" secret:"true" doc:"password; one is made if empty"`
	}
	type appIn struct {
		mailboxIn
		Name     string   `json:"name" arg:"2" required:"true" doc:"what it is for, for example a device"`
		Services []string `json:"service" enum:"imap,submission" doc:"only for this (may be repeated)"`
	}
	type removeIn struct {
		mailboxIn
		Name   string `json:"name" arg:"2" required:"true" doc:"its name"`
		DryRun bool   `json:"dry_run" doc:"only show what would be done"`
	}
	return []command.Command{
		changes("mailbox", "password", "Give a mailbox another password", byDesk, func(ctx context.Context, in passwordIn) (Secret, error) {
			made, err := d.SetPassword(ctx, in.Address, in.Password)
			return Secret{in.Address.String(), made}, err
		}),
		changes("mailbox", "create-app-password", "Make a password for one device or program", byDesk, func(ctx context.Context, in appIn) (Secret, error) {
			made, err := d.AddAppPassword(ctx, in.Address, in.Name, in.Services)
			return Secret{in.Address.String(), made}, err
		}),
		reads("mailbox", "list-app-passwords", "List the app passwords of a mailbox", func(ctx context.Context, in mailboxIn) ([]AppPasswordRow, error) {
			out := []AppPasswordRow{}
			all, err := d.appPasswords(scopeOf(ctx), in.Address)
			for _, p := range all {
				out = append(out, AppPasswordRow{p.Name, append([]string{}, p.Services...), p.Created})
			}
			return out, err
		}),
		removes("mailbox", "remove-app-password", "Take an app password away", byDesk, func(ctx context.Context, in removeIn) (command.Plan, error) {
			if _, err := d.loginOf(d.state.View(), scopeOf(ctx), in.Address); err != nil {
				return command.Plan{}, err
			}
			return carryOut(in.DryRun, "remove app password", in.Name, func() error { return d.RemoveAppPassword(ctx, in.Address, in.Name) })
		}),
	}
}
