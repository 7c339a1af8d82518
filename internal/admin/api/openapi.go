package api

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/command"
)

// describe writes the OpenAPI 3.1 document of the table.
func describe(table []command.Command, version string) (doc []byte, err error) {
	defer func() {
		if v := recover(); v != nil { // the schema library panics at types it cannot describe
			err = fmt.Errorf("schema: %v", v)
		}
	}()
	reg := huma.NewMapRegistry("#/components/schemas/", schemaNames())
	api := &huma.OpenAPI{
		OpenAPI: "3.1.0",
		Info: &huma.Info{
			Title: "Postern admin API", Version: version,
			Description: "Every command of the CLI is here: GET for what only reads, POST for what changes. Errors are RFC 9457 problems.",
		},
		Servers: []*huma.Server{{URL: "/"}},
		Components: &huma.Components{
			Schemas: reg,
			SecuritySchemes: map[string]*huma.SecurityScheme{
				"basic":  {Type: "http", Scheme: "basic"},
				"bearer": {Type: "http", Scheme: "bearer"},
			},
		},
		Security: []map[string][]string{{"bearer": {}}, {"basic": {}}},
		Paths:    map[string]*huma.PathItem{},
	}
	problem := reg.Schema(reflect.TypeFor[wire.Problem](), true, "")
	seen := map[string]bool{}
	for _, c := range table {
		op, err := operation(reg, c, problem)
		if err != nil {
			return nil, err
		}
		item := &huma.PathItem{Get: op}
		if c.Changes {
			item = &huma.PathItem{Post: op}
		}
		api.Paths[wire.Path(c)] = item
		if !seen[c.Noun] {
			seen[c.Noun] = true
			api.Tags = append(api.Tags, &huma.Tag{Name: c.Noun})
		}
	}
	sessionPaths(reg, api, problem)
	return json.Marshal(api)
}

func sessionPaths(reg huma.Registry, api *huma.OpenAPI, problem *huma.Schema) {
	answer := func(id, short string, s *huma.Schema) *huma.Operation {
		return &huma.Operation{OperationID: id, Summary: short, Tags: []string{"session"}, Responses: map[string]*huma.Response{
			"200":     {Description: "done", Content: content(wire.JSON, s)},
			"default": {Description: "an error", Content: content(wire.ProblemJSON, problem)},
		}}
	}
	in := answer("session-login", "make a token", reg.Schema(reflect.TypeFor[wire.Session](), true, ""))
	in.RequestBody = &huma.RequestBody{Content: content(wire.JSON, reg.Schema(reflect.TypeFor[wire.Login](), true, ""))}
	api.Paths[wire.Base+"/session/login"] = &huma.PathItem{Post: in}
	api.Paths[wire.Base+"/session/logout"] = &huma.PathItem{
		Post: answer("session-logout", "end the token", &huma.Schema{Type: huma.TypeObject})}
}

func content(media string, s *huma.Schema) map[string]*huma.MediaType {
	return map[string]*huma.MediaType{media: {Schema: s}}
}

func operation(reg huma.Registry, c command.Command, problem *huma.Schema) (*huma.Operation, error) {
	p, err := command.ParamsOf(c.In)
	if err != nil {
		return nil, err
	}
	about := c.Long
	if about != "" {
		about += "\n\n"
	}
	about += "Roles: " + rolesText(c) + "."
	media, out := wire.JSON, reg.Schema(c.Out, true, schemaName(c, "Out"))
	if c.Stream {
		media = wire.NDJSON
		about += " The answer is a stream of lines with progress; the last has the result or the error."
	}
	op := &huma.Operation{
		OperationID: strings.ReplaceAll(c.Name(), " ", "-"), Summary: c.Short, Description: about, Tags: []string{c.Noun},
		Responses: map[string]*huma.Response{
			"200":     {Description: "done", Content: content(media, out)},
			"default": {Description: "an error", Content: content(wire.ProblemJSON, problem)},
		},
	}
	if c.Changes {
		op.RequestBody = &huma.RequestBody{Required: needsBody(p), Content: content(wire.JSON, bodySchema(reg, c, p))}
		return op, nil
	}
	for _, f := range p.Fields() {
		op.Parameters = append(op.Parameters, &huma.Param{
			Name: f.Name, In: "query", Description: f.Doc, Required: f.Required, Schema: fieldSchema(reg, c, f),
		})
	}
	return op, nil
}

// schemaName hints at a name for what belongs to a command.
func schemaName(c command.Command, part string) string {
	return strings.ReplaceAll(c.Name(), " ", "") + part
}

func needsBody(p *command.Params) bool {
	for _, f := range p.Fields() {
		if f.Required {
			return true
		}
	}
	return false
}

func bodySchema(reg huma.Registry, c command.Command, p *command.Params) *huma.Schema {
	s := &huma.Schema{Type: huma.TypeObject, AdditionalProperties: false, Properties: map[string]*huma.Schema{}}
	for _, f := range p.Fields() {
		s.Properties[f.Name] = fieldSchema(reg, c, f)
		if f.Required {
			s.Required = append(s.Required, f.Name)
		}
	}
	return s
}

// fieldSchema describes one parameter with the rules of package command, which
// are not those of the library: nothing is required unless it says so.
func fieldSchema(reg huma.Registry, c command.Command, f command.Field) *huma.Schema {
	s := *reg.Schema(f.Type, true, schemaName(c, f.Name))
	if s.Ref != "" {
		return &s
	}
	if f.Type.String() == "time.Duration" {
		s = huma.Schema{Type: huma.TypeString, Examples: []any{"90s", "1h30m"}}
	}
	s.Description = f.Doc
	if f.Secret {
		s.Format = "password"
	}
	list := &s
	if s.Type == huma.TypeArray && s.Items != nil {
		items := *s.Items
		s.Items, list = &items, &items
	}
	for _, e := range f.Enum {
		list.Enum = append(list.Enum, e)
	}
	if f.Default != "" {
		s.Default = defaultOf(s.Type, f.Default)
	}
	return &s
}

// defaultOf is the default as JSON has it.
func defaultOf(typ, text string) any {
	var v any
	if typ != huma.TypeString && json.Unmarshal([]byte(text), &v) == nil {
		return v
	}
	return text
}

// schemaNames names types with their package, because several have a Status.
// Types that still have the same name, such as local ones, are numbered.
func schemaNames() func(t reflect.Type, hint string) string {
	taken := map[string]reflect.Type{}
	return func(t reflect.Type, hint string) string {
		for t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		name := huma.DefaultSchemaNamer(t, hint)
		if t.Name() == "" || t.PkgPath() == "" {
			return name
		}
		pkg := path.Base(t.PkgPath())
		name = strings.ToUpper(pkg[:1]) + pkg[1:] + name
		for n, base := 2, name; ; n++ {
			if other, ok := taken[name]; !ok || other == t {
				taken[name] = t
				return name
			}
			name = fmt.Sprintf("%s%d", base, n)
		}
	}
}

// OpenAPI writes the document of a table with the door's own entries, for
// publishing it without a server.
func OpenAPI(table []command.Command, version string) ([]byte, error) {
	return describe(command.Sort(append(Specs(), table...)), version)
}

var _ http.Handler = (*route)(nil)
