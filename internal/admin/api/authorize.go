package api

import (
	"encoding"
	"reflect"
	"slices"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Allowed says whether the caller's roles open the command: nil or an error of
// kind.Denied. It reads nothing but its arguments.
//
//   - a server administrator may do everything,
//   - an auditor changes nothing, whatever the table says,
//   - a caller bound to an organization needs a command that keeps to it,
//   - one who is bound to none and no server administrator may only be an
//     auditor.
func Allowed(c command.Command, p *command.Params, caller command.Caller) error {
	if slices.Contains(caller.Roles, command.ServerAdmin) && caller.Organization == "" {
		return nil
	}
	for _, r := range caller.Roles {
		switch {
		case !slices.Contains(c.Roles, r), r == command.ServerAdmin:
		case r == command.Auditor && c.Changes:
		case caller.Organization == "" && r != command.Auditor:
		case caller.Organization != "" && !c.Scoped && !hasScope(p):
		default:
			return nil
		}
	}
	return kind.WithHint(kind.Errorf(kind.Denied, "%s may not run %s", caller.Name, c.Name()), "the command needs one of the roles "+rolesText(c))
}

func hasScope(p *command.Params) bool {
	return slices.ContainsFunc(p.Fields(), func(f command.Field) bool { return f.Scope != "" })
}

func rolesText(c command.Command) string {
	text := string(command.ServerAdmin)
	for _, r := range c.Roles {
		if r != command.ServerAdmin {
			text += ", " + string(r)
		}
	}
	return text
}

// InScope keeps a caller who is bound to an organization inside it. It returns
// the parameters, in which an organization that was not given is the caller's.
// What belongs to another organization and what does not exist are refused
// with the same words, so that nobody can find out what others have.
func InScope(c command.Command, p *command.Params, caller command.Caller, in any, of func(scope, value string) (org.OrganizationID, bool)) (any, error) {
	if caller.Organization == "" {
		return in, nil
	}
	v := reflect.New(reflect.TypeOf(in)).Elem()
	v.Set(reflect.ValueOf(in))
	bound := c.Scoped
	for _, f := range p.Fields() {
		if f.Scope == "" {
			continue
		}
		fv := v.FieldByIndex(f.Index)
		values, ok := texts(fv)
		if !ok {
			return nil, kind.Errorf(kind.Internal, "%s: parameter %s has a scope and is no text", c.Name(), f.Name)
		}
		if len(values) == 0 && f.Scope == command.ScopeOrganization && fv.Kind() == reflect.String {
			fv.SetString(caller.Organization)
			values = []string{caller.Organization}
		}
		for _, value := range values {
			if !belongs(f.Scope, value, caller.Organization, of) {
				return nil, kind.Errorf(kind.Denied, "%s %q is not in your organization", f.Name, value)
			}
			bound = true
		}
	}
	if !bound {
		return nil, kind.Errorf(kind.Denied, "%s: say what in your organization it is for", c.Name())
	}
	return v.Interface(), nil
}

func belongs(scope, value, organization string, of func(scope, value string) (org.OrganizationID, bool)) bool {
	if scope == command.ScopeOrganization {
		return value == organization
	}
	if of == nil {
		return false
	}
	id, ok := of(scope, value)
	return ok && string(id) == organization
}

// texts returns the texts in a field that names things: a string, something
// that is written as text such as an address, or a list of those. What is not
// set gives none.
func texts(v reflect.Value) ([]string, bool) {
	if v.Kind() == reflect.Slice {
		var out []string
		for i := range v.Len() {
			one, ok := texts(v.Index(i))
			if !ok {
				return nil, false
			}
			out = append(out, one...)
		}
		return out, true
	}
	if v.IsZero() {
		return nil, v.Kind() == reflect.String || v.Kind() == reflect.Pointer || v.Type().Implements(textType)
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		b, err := m.MarshalText()
		return []string{string(b)}, err == nil
	}
	switch v.Kind() {
	case reflect.String:
		return []string{v.String()}, true
	case reflect.Pointer:
		return texts(v.Elem())
	}
	return nil, false
}

var textType = reflect.TypeFor[encoding.TextMarshaler]()
