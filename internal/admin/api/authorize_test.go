package api_test

import (
	"context"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/admin/admintest"
	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

func contextWithCancel() (context.Context, context.CancelFunc) {
	return context.WithCancel(context.Background())
}

// inputs are parameters of each command that point at an organization.
func inputs(c command.Command, organization string) any {
	switch c.Name() {
	case "shelf list":
		return admintest.ListIn{Organization: organization}
	case "shelf create":
		return admintest.CreateIn{Name: "x", Organization: organization}
	case "shelf lock":
		return admintest.LockIn{Address: "who@" + organization + ".test", Code: "1"}
	case "shelf show":
		return admintest.NameIn{Name: "x"}
	}
	return reflect.Zero(c.In).Interface()
}

// TestEveryRouteForEveryRole goes through all routes, all roles, and the
// caller's own and another organization, and compares with the page of who may
// do what (testdata/roles.txt). POSTERN_UPDATE=1 writes the page anew.
func TestEveryRouteForEveryRole(t *testing.T) {
	callers := []command.Caller{
		{Name: "nobody", Organization: "red"},
		{Name: "root", Roles: []command.Role{command.ServerAdmin}},
		{Name: "bound-root", Roles: []command.Role{command.ServerAdmin}, Organization: "red"},
		{Name: "admin", Roles: []command.Role{command.OrganizationAdmin}, Organization: "red"},
		{Name: "unbound-admin", Roles: []command.Role{command.OrganizationAdmin}},
		{Name: "help-desk", Roles: []command.Role{command.HelpDesk}, Organization: "red"},
		{Name: "auditor", Roles: []command.Role{command.Auditor}},
		{Name: "red-auditor", Roles: []command.Role{command.Auditor}, Organization: "red"},
		{Name: "auditor-and-help-desk", Roles: []command.Role{command.Auditor, command.HelpDesk}, Organization: "red"},
	}
	var b strings.Builder
	for _, c := range command.Sort(append(admintest.Commands(nil), api.Specs()...)) {
		p, err := command.ParamsOf(c.In)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&b, "%s\n", c.Name())
		for _, caller := range callers {
			fmt.Fprintf(&b, "  %-22s", caller.Name)
			for _, organization := range []string{"red", "blue", "unknown"} {
				fmt.Fprintf(&b, " %s=%s", organization, verdict(c, p, caller, organization))
			}
			b.WriteString("\n")
		}
	}
	if os.Getenv("POSTERN_UPDATE") != "" {
		if err := os.WriteFile("testdata/roles.txt", []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/roles.txt")
	if err != nil || string(want) != b.String() {
		t.Errorf("who may do what differs from testdata/roles.txt (%v):\n%s", err, b.String())
	}
}

func verdict(c command.Command, p *command.Params, caller command.Caller, organization string) string {
	err := api.Allowed(c, p, caller)
	if err == nil {
		_, err = api.InScope(c, p, caller, inputs(c, organization), admintest.OrganizationOf)
	}
	switch {
	case err == nil:
		return "yes"
	case kind.Is(err, kind.Denied):
		return "no"
	}
	return err.Error()
}

func TestOrganizationIsFilledIn(t *testing.T) {
	c := admintest.Commands(nil)[0]
	p, err := command.ParamsOf(c.In)
	if err != nil {
		t.Fatal(err)
	}
	in, err := api.InScope(c, p, command.Caller{Organization: "red"}, admintest.ListIn{}, nil)
	if got, _ := in.(admintest.ListIn); err != nil || got.Organization != "red" {
		t.Errorf("%+v, %v", in, err)
	}
}

// TestOverTheWire shows that the routes ask: the table above is of functions.
func TestOverTheWire(t *testing.T) {
	w := newWorld(t, nil)
	w.want(w.do("", "GET", "/api/v1/shelf/list", ""), 401)
	w.want(w.do("nobody@red", "GET", "/api/v1/shelf/list", ""), 403)
	w.want(w.do("organization-admin@red", "POST", "/api/v1/shelf/create", `{"name":"R"}`), 200)
	w.want(w.do("organization-admin@red", "POST", "/api/v1/shelf/create", `{"name":"B","organization":"blue"}`), 403)
	w.want(w.do("help-desk@red", "POST", "/api/v1/shelf/create", `{"name":"H"}`), 403)
	w.want(w.do("help-desk@blue", "POST", "/api/v1/shelf/lock", `{"address":"x@red.test","code":"1"}`), 403)
	w.want(w.do("auditor@red", "POST", "/api/v1/shelf/lock", `{"address":"x@red.test","code":"1"}`), 403)
	w.want(w.do("root", "POST", "/api/v1/shelf/create", `{"name":"B","organization":"blue"}`), 200)
	if a := w.want(w.do("auditor@red", "GET", "/api/v1/shelf/list", ""), 200); strings.Contains(string(a.body), "blue") {
		t.Errorf("red sees %s", a.body)
	}
	w.want(w.do("auditor", "GET", "/api/v1/event/list", ""), 200)
	w.want(w.do("auditor@red", "GET", "/api/v1/event/list", ""), 403)
	if a := w.want(w.do("auditor@red", "GET", "/api/v1/shelf/mine", ""), 200); !strings.Contains(string(a.body), "auditor@red of red") {
		t.Errorf("caller is %s", a.body)
	}
}
