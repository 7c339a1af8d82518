package directory

import (
	"context"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// GroupRow is a group as commands show it.
type GroupRow struct {
	Address      string             `json:"address" col:"ADDRESS"`
	Name         string             `json:"name,omitempty" col:"NAME"`
	ID           org.MailboxID      `json:"id" col:"-"`
	Organization org.OrganizationID `json:"organization" col:"ORGANIZATION"`
	Aliases      []string           `json:"aliases" col:"-"`
	Count        int                `json:"count" col:"MEMBERS"`
	// Members are the primary addresses of the members; listings leave them out.
	Members []string `json:"members,omitempty" col:"ADDRESSES"`
	// Owners, Senders and SenderDomains are who hears of failures and who may
	// send; with InsideOnly accounts of the organization may.
	Owners        []string `json:"owners,omitempty" col:"-"`
	InsideOnly    bool     `json:"senders_inside_only,omitempty" col:"-"`
	Senders       []string `json:"allowed_senders,omitempty" col:"-"`
	SenderDomains []string `json:"allowed_domains,omitempty" col:"-"`
	MaxMessage    int64    `json:"max_message,omitempty" col:"-"`
}

func (d *Directory) groupRow(g Recipient, members bool) GroupRow {
	out := GroupRow{Address: g.Address.String(), Name: g.Name, ID: g.ID, Organization: g.Organization, Aliases: []string{}}
	for _, a := range g.Aliases {
		out.Aliases = append(out.Aliases, a.String())
	}
	v := d.state.View()
	out.InsideOnly, out.SenderDomains, out.MaxMessage = g.Senders.Authenticated, g.Senders.Domains, g.MaxMessage
	out.Owners = d.addressesOf(v, g, g.Owners)
	out.Senders = d.addressesOf(v, g, g.Senders.Mailboxes)
	for _, id := range g.Members {
		m, _, ok := d.recipient(v, g.Organization, id)
		if !ok {
			continue
		}
		out.Count++
		if members {
			out.Members = append(out.Members, m.Address.String())
		}
	}
	return out
}

// addressesOf are the primary addresses of recipients of a group's
// organization; those that are gone are left out.
func (d *Directory) addressesOf(v View, g Recipient, ids []org.MailboxID) []string {
	var out []string
	for _, id := range ids {
		if m, _, ok := d.recipient(v, g.Organization, id); ok {
			out = append(out, m.Address.String())
		}
	}
	return out
}

func setGroupCommand(d *Directory) command.Command {
	type in struct {
		Address    mail.Address   `json:"address" arg:"1" required:"true" scope:"address" doc:"address of the group" complete:"group list"`
		Name       *string        `json:"name" doc:"display name"`
		InsideOnly *bool          `json:"senders_inside_only" doc:"accounts of the organization may send to it; with no other sender allowed, only they"`
		Senders    []mail.Address `json:"allow_sender" doc:"mailbox that may send to it (may be repeated); empty for none any more"`
		Domains    []string       `json:"allow_domain" doc:"domain whose senders may send to it, as they say of themselves (may be repeated); empty for none any more"`
		Owners     []mail.Address `json:"owner" doc:"mailbox that hears of failures and may always send (may be repeated); empty for none any more"`
		MaxMessage *int64         `json:"max_message" doc:"largest message it takes in bytes, 0 for the server's limit"`
	}
	c := changes("group", "set", "Change name, owners, limits of a group, and who may send to it", byAdmins, func(ctx context.Context, in in) (GroupRow, error) {
		return d.groupAnswer(d.ChangeGroup(ctx, in.Address, GroupChange{
			Name: in.Name, InsideOnly: in.InsideOnly, Senders: given(in.Senders), Domains: given(in.Domains),
			Owners: given(in.Owners), MaxMessage: in.MaxMessage,
		}))
	})
	c.Long = "Without any sender allowed, everybody may send to the group."
	c.Example = "postern group set all@example.test --senders-inside-only --owner ann@example.test"
	return c
}

func (d *Directory) groupAnswer(g Recipient, err error) (GroupRow, error) {
	if err != nil {
		return GroupRow{}, err
	}
	return d.groupRow(g, true), nil
}

func groupCommands(d *Directory) []command.Command {
	type groupIn struct {
		Address mail.Address `json:"address" arg:"1" required:"true" scope:"address" doc:"address of the group" complete:"group list"`
	}
	type createIn struct {
		Address mail.Address `json:"address" arg:"1" required:"true" scope:"address" doc:"address; its domain says the organization"`
		Name    string       `json:"name" doc:"display name"`
	}
	type memberIn struct {
		groupIn
		Member mail.Address `json:"member" arg:"2" required:"true" doc:"mailbox or group of the same organization"`
	}
	type removeIn struct {
		groupIn
		DryRun bool `json:"dry_run" doc:"only show what would be done"`
	}
	type removeMemberIn struct {
		memberIn
		DryRun bool `json:"dry_run" doc:"only show what would be done"`
	}
	return []command.Command{
		changes("group", "create", "Create a group", byAdmins, func(ctx context.Context, in createIn) (GroupRow, error) {
			return d.groupAnswer(d.CreateGroup(ctx, in.Address, in.Name))
		}),
		reads("group", "list", "List the groups", func(ctx context.Context, in listIn) ([]GroupRow, error) {
			var all []Recipient
			for _, o := range d.inScope(ctx, in.Organization) {
				all = append(all, d.Groups(o)...)
			}
			all, err := page(all, in.Filter, in.After, in.Limit)
			out := make([]GroupRow, 0, len(all))
			for _, g := range all {
				out = append(out, d.groupRow(g, false))
			}
			return out, err
		}),
		reads("group", "show", "Show a group and its members", func(ctx context.Context, in groupIn) (GroupRow, error) {
			g, _, err := d.find(d.state.View(), scopeOf(ctx), in.Address, "group")
			if err != nil {
				return GroupRow{}, err
			}
			return d.groupRow(*g, true), nil
		}),
		setGroupCommand(d),
		changes("group", "add-member", "Put a mailbox or group in a group", byAdmins, func(ctx context.Context, in memberIn) (GroupRow, error) {
			return d.groupAnswer(d.AddMember(ctx, in.Address, in.Member))
		}),
		removes("group", "remove-member", "Take a member out of a group", byAdmins, func(ctx context.Context, in removeMemberIn) (command.Plan, error) {
			if _, _, err := d.find(d.state.View(), scopeOf(ctx), in.Address, "group"); err != nil {
				return command.Plan{}, err
			}
			return carryOut(in.DryRun, "remove member", in.Member.String(), func() error {
				_, err := d.RemoveMember(ctx, in.Address, in.Member)
				return err
			})
		}),
		removes("group", "remove", "Remove a group; its members stay", byAdmins, func(ctx context.Context, in removeIn) (command.Plan, error) {
			if _, _, err := d.find(d.state.View(), scopeOf(ctx), in.Address, "group"); err != nil {
				return command.Plan{}, err
			}
			return carryOut(in.DryRun, "remove group", in.Address.String(), func() error { return d.RemoveGroup(ctx, in.Address) })
		}),
	}
}
