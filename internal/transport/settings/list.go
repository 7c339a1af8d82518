package settings

import (
	"fmt"
	"reflect"
	"strings"
)

// Setting is one setting as people see it.
type Setting struct {
	Key     string `json:"key" col:"SETTING"`
	Value   string `json:"value" col:"VALUE"`
	Default string `json:"default" col:"DEFAULT"`
	Unit    string `json:"unit" col:"UNIT"`
	Allowed string `json:"allowed,omitempty" col:"-"`
	Changed bool   `json:"changed" col:"-"` // differs from the default
	Doc     string `json:"doc" col:"MEANING"`
}

// List is every setting of a row with the value that counts, in the order of
// the rows' documentation. T is Group, Policy, Connector or Rule.
func List[T Group | Policy | Connector | Rule](stored T) []Setting {
	filled := stored
	fill(&filled)
	set, v := reflect.ValueOf(stored), reflect.ValueOf(filled)
	var out []Setting
	for _, f := range fieldsOf(v.Type()) {
		s := Setting{Key: f.name, Value: text(v.Field(f.index)), Default: f.def, Doc: f.doc, Unit: f.unitOf(v.Field(f.index).Type()), Allowed: f.allowed()}
		s.Changed = !set.Field(f.index).IsZero() && s.Value != f.value()
		out = append(out, s)
	}
	return out
}

// unitOf says in what a value is given.
func (f field) unitOf(t reflect.Type) string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch {
	case f.unit != "":
		return f.unit
	case t.Name() == "Duration":
		return "duration"
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() == reflect.Slice:
		return "list"
	case t.Kind() == reflect.Int:
		return "number"
	case f.enum != nil:
		return "word"
	}
	return "text"
}

// allowed says which values are.
func (f field) allowed() string {
	switch {
	case f.enum != nil:
		return strings.Join(f.enum, ", ")
	case f.min != "" && f.max != "":
		return f.min + " to " + f.max
	case f.max != "":
		return "up to " + f.max
	}
	return ""
}

// Set changes one setting, given as text; "default" or nothing takes it back
// to its default. A value that cannot be is Invalid, with a hint. Whether it
// fits the others is for Validate to tell.
func (g *Group) Set(key, value string) error {
	return set(g, "transport", "postern transport show", key, value)
}

// Set is as Group.Set.
func (p *Policy) Set(key, value string) error {
	return set(p, "the policy", "postern policy show "+string(p.Organization), key, value)
}

// Set is as Group.Set. The password is not set here: it comes sealed.
func (c *Connector) Set(key, value string) error {
	return set(c, "a connector", "postern connector show "+string(c.Organization)+" "+c.Name, key, value)
}

// Set is as Group.Set.
func (r *Rule) Set(key, value string) error {
	return set(r, "a rule", "postern rule list --organization "+string(r.Organization), key, value)
}

// Markdown is the part of docs/settings.md that is about the rows of the
// agreed state.
func Markdown() string {
	var b strings.Builder
	b.WriteString("## Transport, for the whole group\n\n`postern transport show` lists them, `postern transport set SETTING VALUE` changes one, `default` as a value takes it back. All servers follow at once.\n\n")
	table(&b, List(Group{}))
	b.WriteString("\n## Policy of an organization\n\n`postern policy show ORGANIZATION`, `postern policy set ORGANIZATION SETTING VALUE`.\n\n")
	table(&b, List(Policy{}))
	b.WriteString("\n## Connectors\n\n`postern connector show ORGANIZATION NAME`, `postern connector set ORGANIZATION NAME SETTING VALUE`.\n\n")
	table(&b, List(Connector{}))
	b.WriteString("\n## Transport rules\n\n`postern rule list`, `postern rule set ORGANIZATION NAME SETTING VALUE`. All conditions that are there have to hold.\n\n")
	table(&b, List(Rule{}))
	return b.String()
}

func table(b *strings.Builder, all []Setting) {
	b.WriteString("| Setting | Default | Unit | Meaning |\n|---|---|---|---|\n")
	for _, s := range all {
		def, unit := s.Default, s.Unit
		if def == "" {
			def = "none"
		}
		if s.Allowed != "" {
			unit += " (" + s.Allowed + ")"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", s.Key, def, unit, strings.ReplaceAll(s.Doc, "|", "\\|"))
	}
}
