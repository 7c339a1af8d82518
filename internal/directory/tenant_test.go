package directory

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

// call runs a command as the doors do, from JSON.
func (f *fixture) call(ctx context.Context, name, in string) (string, error) {
	f.t.Helper()
	for _, c := range Commands(f.Directory) {
		if c.Name() != name {
			continue
		}
		p, err := command.ParamsOf(c.In)
		if err != nil {
			f.t.Fatal(err)
		}
		v, err := p.FromJSON([]byte(in))
		if err != nil {
			f.t.Fatalf("%s %s: %v", name, in, err)
		}
		out, err := c.Run(ctx, v)
		b, _ := json.Marshal(out)
		return string(b), err
	}
	f.t.Fatalf("no command %s", name)
	return "", nil
}

func TestCommandTable(t *testing.T) {
	f := newFixture(t, cheap())
	table := Commands(f.Directory)
	if err := command.Check(table); err != nil {
		t.Fatal(err)
	}
	for _, c := range table {
		if !c.Scoped || len(c.Roles) == 0 {
			t.Errorf("%s is not scoped or has no roles", c.Name())
		}
		if strings.Contains(c.Verb, "remove") && c.Verb != "remove-alias" && !c.Dangerous {
			t.Errorf("%s cannot be tried dry", c.Name())
		}
		if c.Changes && len(c.Roles) == len(byAll) {
			t.Errorf("%s may be run by who only reads", c.Name())
		}
		p, err := command.ParamsOf(c.In)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Args()) == 0 {
			if _, err := p.FromValues(url.Values{}); err != nil {
				t.Errorf("%s without parameters: %v", c.Name(), err)
			}
		}
	}
}

// twoTenants has the same names in two organizations.
func twoTenants(t *testing.T) *fixture {
	f := newFixture(t, cheap())
	for _, o := range []string{"red", "blue"} {
		f.mailbox("ann@"+o+".example", "a.smith@"+o+".example")
		f.mailbox("bob@" + o + ".example")
		f.mailbox("gone@" + o + ".example")
		f.must(f.RemoveMailbox(t.Context(), addr("gone@"+o+".example"), false))
		f.group("team@"+o+".example", "ann@"+o+".example")
		f.must(f.CreateAdministrator(t.Context(), o+"-admin", "", []command.Role{command.ServerAdmin}, secret))
	}
	return f
}

// TestTenantsAreStrangers runs every command as the administrator of blue
// against red: it must answer exactly as for what does not exist, and change
// nothing (design pledge G7).
func TestTenantsAreStrangers(t *testing.T) {
	f := twoTenants(t)
	ctx := as(t.Context(), "blue", command.OrganizationAdmin)
	before := f.mem.View().(*memoryView).items

	// X stands for red, which exists, and then for a name that does not.
	for _, c := range []struct{ name, in string }{
		{"organization show", `{"organization":"X"}`},
		{"organization remove", `{"organization":"X"}`},
		{"domain list", `{"organization":"X"}`},
		{"domain remove", `{"domain":"X.example"}`},
		{"domain remove", `{"domain":"X.example","dry_run":true}`},
		{"mailbox list", `{"organization":"X"}`},
		{"mailbox show", `{"address":"ann@X.example"}`},
		{"mailbox create", `{"address":"ann@X.example"}`},
		{"mailbox create", `{"address":"new@X.example"}`},
		{"mailbox create", `{"address":"new@blue.example","alias":["new@X.example"]}`},
		{"mailbox create", `{"address":"new@blue.example","alias":["ann@X.example"]}`},
		{"mailbox set", `{"address":"ann@X.example","disabled":true}`},
		{"mailbox set", `{"address":"ann@X.example","forward":["ann@blue.example"]}`},
		{"domain set", `{"domain":"X.example","no_plus":true}`},
		{"domain set", `{"domain":"X.example","catch_all":"ann@blue.example"}`},
		{"group set", `{"address":"team@X.example","senders_inside_only":true}`},
		{"group set", `{"address":"team@blue.example","owner":["ann@X.example"]}`},
		{"group set", `{"address":"team@blue.example","allow_sender":["ann@X.example"]}`},
		{"mailbox remove", `{"address":"ann@X.example"}`},
		{"mailbox remove", `{"address":"ann@X.example","now":true,"dry_run":true}`},
		{"mailbox restore", `{"address":"gone@X.example"}`},
		{"mailbox password", `{"address":"ann@X.example","password":"my own words"}`},
		{"mailbox create-app-password", `{"address":"ann@X.example","name":"p"}`},
		{"mailbox list-app-passwords", `{"address":"ann@X.example"}`},
		{"mailbox remove-app-password", `{"address":"ann@X.example","name":"p"}`},
		{"mailbox add-alias", `{"address":"ann@X.example","alias":"b@X.example"}`},
		{"mailbox add-alias", `{"address":"ann@blue.example","alias":"new@X.example"}`},
		{"mailbox add-alias", `{"address":"ann@blue.example","alias":"ann@X.example"}`},
		{"mailbox remove-alias", `{"address":"ann@X.example","alias":"a.smith@X.example"}`},
		{"mailbox remove-alias", `{"address":"ann@blue.example","alias":"a.smith@X.example"}`},
		{"mailbox grant", `{"address":"ann@X.example","to":"bob@X.example","access":true}`},
		{"mailbox grant", `{"address":"ann@X.example","to":"ann@blue.example","access":true}`},
		{"mailbox grant", `{"address":"ann@blue.example","to":"ann@X.example","access":true}`},
		{"mailbox revoke", `{"address":"ann@X.example","from":"bob@X.example"}`},
		{"group create", `{"address":"new@X.example"}`},
		{"group list", `{"organization":"X"}`},
		{"group show", `{"address":"team@X.example"}`},
		{"group add-member", `{"address":"team@X.example","member":"bob@X.example"}`},
		{"group add-member", `{"address":"team@blue.example","member":"ann@X.example"}`},
		{"group add-member", `{"address":"team@blue.example","member":"team@X.example"}`},
		{"group remove-member", `{"address":"team@X.example","member":"ann@X.example"}`},
		{"group remove", `{"address":"team@X.example"}`},
		{"administrator create", `{"login":"ann@X.example","role":["help-desk"]}`},
		{"administrator create", `{"login":"somebody","organization":"X","role":["help-desk"]}`},
		{"administrator create", `{"login":"X-admin","role":["help-desk"]}`},
		{"administrator remove", `{"login":"X-admin"}`},
		{"administrator remove", `{"login":"ann@X.example"}`},
		{"administrator password", `{"login":"X-admin","password":"my own words"}`},
	} {
		stranger, nothing := strings.ReplaceAll(c.in, "X", "red"), strings.ReplaceAll(c.in, "X", "green")
		out1, err1 := f.call(ctx, c.name, stranger)
		out2, err2 := f.call(ctx, c.name, nothing)
		if a, b := strings.ReplaceAll(fmt.Sprint(out1, err1), "red", "green"), fmt.Sprint(out2, err2); a != b {
			t.Errorf("%s %s tells a stranger apart:\n %s\n %s", c.name, c.in, a, b)
		}
		if err1 == nil && !strings.HasSuffix(c.name, "list") {
			t.Errorf("%s %s worked: %s", c.name, stranger, out1)
		}
	}
	after := f.mem.View().(*memoryView).items
	if len(before) != len(after) {
		t.Errorf("%d rows became %d", len(before), len(after))
	}
	for key, it := range before {
		if after[key].Revision != it.Revision {
			t.Errorf("%s was changed", key)
		}
	}
	for _, list := range []string{"organization list", "domain list", "mailbox list", "group list", "administrator list"} {
		out, err := f.call(ctx, list, `{}`)
		if err != nil || strings.Contains(out, "red") || list != "administrator list" && !strings.Contains(out, "blue") {
			t.Errorf("%s: %s %v", list, out, err)
		}
	}
}

// TestRowsAcross plants rows that lead from one organization to another, as no
// change here would write them: look-ups do not follow.
func TestRowsAcross(t *testing.T) {
	f := twoTenants(t)
	v := f.mem.View()
	red, _, _ := f.byAddress(v, addr("ann@red.example"))
	team, rev, _ := f.byAddress(v, addr("team@blue.example"))
	team = team.clone()
	team.Members = append(team.Members, red.ID)
	err := f.change(t.Context(), func(View) (txn, error) {
		var x txn
		x.put(addressKey(addr("spy@blue.example")), 0, owner{"red", red.ID})
		x.put(addressKey(addr("spy2@blue.example")), 0, owner{"blue", red.ID})
		x.put(recipientKey("blue", red.ID), 0, red) // says it is of red
		x.put(recipientKey("blue", team.ID), rev, team)
		return x, nil
	})
	f.must(nil, err)
	for _, a := range []string{"spy@blue.example", "spy2@blue.example"} {
		_, err := f.Resolve(t.Context(), addr(a))
		wantKind(t, a, err, kind.NotFound)
		if _, err := f.login(a, secret, ServiceIMAP, "192.0.2.1"); !kind.Is(err, kind.Denied) {
			t.Errorf("%s logs in: %v", a, err)
		}
	}
	if _, ok := f.ByID("blue", red.ID); ok {
		t.Error("found by its id under another organization")
	}
	res, err := f.Resolve(t.Context(), addr("team@blue.example"))
	if err != nil || f.names(res) != "ann@blue.example" {
		t.Errorf("group: %v %v", f.names(res), err)
	}
	for _, r := range f.Mailboxes("blue") {
		if r.Organization != "blue" {
			t.Errorf("listed: %v", r.Address)
		}
	}
}

// TestHelpDesk may give passwords to people, but not to who has a role.
func TestHelpDesk(t *testing.T) {
	f := twoTenants(t)
	f.must(f.call(t.Context(), "administrator create", `{"login":"bob@red.example","role":["organization-admin"]}`))
	ctx := as(t.Context(), "red", command.HelpDesk)
	f.must(f.call(ctx, "mailbox password", `{"address":"ann@red.example"}`))
	for _, c := range [][2]string{
		{"mailbox password", `{"address":"bob@red.example"}`},
		{"mailbox create-app-password", `{"address":"bob@red.example","name":"p"}`},
	} {
		_, err := f.call(ctx, c[0], c[1])
		wantKind(t, c[0], err, kind.Denied)
	}
}

// TestRolesStay: who is bound to an organization gives nobody more than that.
func TestRolesStay(t *testing.T) {
	f := twoTenants(t)
	ctx := as(t.Context(), "red", command.OrganizationAdmin)
	for _, in := range []string{
		`{"login":"ann@red.example","role":["server-admin"]}`,
		`{"login":"ann@red.example","role":["help-desk","server-admin"]}`,
		`{"login":"other","role":["server-admin"]}`,
		`{"login":"other","role":["organization-admin"]}`,
	} {
		if _, err := f.call(ctx, "administrator create", in); err == nil {
			t.Errorf("%s worked", in)
		}
	}
	f.must(f.call(ctx, "administrator create", `{"login":"ann@red.example","role":["help-desk","auditor"]}`))
	_, err := f.call(t.Context(), "administrator create", `{"login":"ann@red.example","role":["server-admin"]}`)
	wantKind(t, "a mailbox as server administrator", err, kind.Invalid)
}
