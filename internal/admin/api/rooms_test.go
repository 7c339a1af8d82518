package api_test

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// TestDirectoryTable shows that the door takes the directory's table: embedded
// parameters, addresses with a scope, types that are local to a function.
func TestDirectoryTable(t *testing.T) {
	table := directory.Commands(nil)
	if err := command.Check(table); err != nil {
		t.Fatal(err)
	}
	doc, err := api.OpenAPI(table, "test")
	if err != nil || !json.Valid(doc) {
		t.Fatalf("describe: %v", err)
	}
	for _, path := range []string{"/api/v1/mailbox/create", "/api/v1/domain/list"} {
		if !strings.Contains(string(doc), path) {
			t.Errorf("%s is not described", path)
		}
	}
}

// TestAddressScope keeps a caller of one organization from addresses of
// another, whatever the command itself does.
func TestAddressScope(t *testing.T) {
	of := func(scope, value string) (org.OrganizationID, bool) {
		return "red", scope == command.ScopeAddress && strings.HasSuffix(value, "@red.test")
	}
	red := command.Caller{Name: "r", Organization: "red", Roles: []command.Role{command.OrganizationAdmin}}
	for _, c := range directory.Commands(nil) {
		p, err := command.ParamsOf(c.In)
		if err != nil {
			t.Fatal(err)
		}
		f, ok := p.Lookup("address")
		if !ok || f.Scope != command.ScopeAddress {
			continue
		}
		for address, want := range map[string]bool{"a@red.test": true, "a@blue.test": false} {
			v := reflect.New(c.In).Elem()
			a, err := mail.ParseAddress(address)
			if err != nil {
				t.Fatal(err)
			}
			v.FieldByIndex(f.Index).Set(reflect.ValueOf(a))
			_, err = api.InScope(c, p, red, v.Interface(), of)
			if (err == nil) != want || err != nil && !kind.Is(err, kind.Denied) {
				t.Errorf("%s %s: %v", c.Name(), address, err)
			}
		}
	}
}

// TestSecretsOfRooms shows that what rooms call a password is not written down.
func TestSecretsOfRooms(t *testing.T) {
	for _, c := range directory.Commands(nil) {
		p, err := command.ParamsOf(c.In)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.Fields() {
			if strings.Contains(f.Name, "password") != f.Secret {
				t.Errorf("%s: parameter %s: secret is %v", c.Name(), f.Name, f.Secret)
			}
			if !f.Secret || f.Type.Kind() != reflect.String {
				continue
			}
			v := reflect.New(c.In).Elem()
			v.FieldByIndex(f.Index).SetString("hush")
			b, err := json.Marshal(command.Redacted(v.Interface()))
			if err != nil || strings.Contains(string(b), "hush") {
				t.Errorf("%s: %s, %v", c.Name(), b, err)
			}
		}
	}
}
