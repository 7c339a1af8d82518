package command

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Field is one parameter of a command, read from the tags of In.
type Field struct {
	Name     string // json name
	Type     reflect.Type
	Index    []int  // for reflect.Value.FieldByIndex
	Arg      int    // place as positional argument, 0 for a flag
	Doc      string // help text
	Default  string // as text, empty for none
	Enum     []string
	Required bool
	Secret   bool
	// Dry says that nothing is changed where it is true: dry_run, and what has the
	// tag dry.
	Dry bool
	// Scope says that the value names what the command works on, so that the
	// door can tell which organization that belongs to: ScopeOrganization,
	// ScopeDomain or ScopeAddress (tag scope). A parameter called
	// "organization" is ScopeOrganization by itself.
	Scope string
	// Complete names the command whose first column completes the value in a
	// shell, for example "server list" (tag complete).
	Complete string
}

// Scopes of a parameter.
const (
	ScopeOrganization = "organization"
	ScopeDomain       = "domain"
	ScopeAddress      = "address"
)

// Flag is the parameter's name as a flag of the CLI.
func (f Field) Flag() string { return strings.ReplaceAll(f.Name, "_", "-") }

// Problem is what is wrong with one parameter.
type Problem struct {
	Field   string `json:"field"`
	Message string `json:"message"`
}

// ParamError lists everything that is wrong with the parameters of one call.
// Its kind is Invalid.
type ParamError struct{ Problems []Problem }

func (e *ParamError) Error() string {
	var b strings.Builder
	for i, p := range e.Problems {
		if i > 0 {
			b.WriteString("; ")
		}
		if p.Field != "" {
			b.WriteString(p.Field + ": ")
		}
		b.WriteString(p.Message)
	}
	return b.String()
}

// Params reads and checks the parameters of one command. It is safe for
// concurrent use.
type Params struct {
	in     reflect.Type
	fields []Field
	byName map[string]int
}

// ParamsOf reads the tags of t, a struct type.
func ParamsOf(t reflect.Type) (*Params, error) {
	if t == nil || t.Kind() != reflect.Struct {
		return nil, fmt.Errorf("parameters are %v, want a struct", t)
	}
	p := &Params{in: t, byName: map[string]int{}}
	for _, sf := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if sf.Anonymous && name == "" || !sf.IsExported() || name == "-" {
			continue
		}
		f, err := fieldOf(sf, name)
		if err != nil {
			return nil, fmt.Errorf("%s.%s: %w", t, sf.Name, err)
		}
		if _, twice := p.byName[f.Name]; twice {
			return nil, fmt.Errorf("%s: parameter %s is there twice", t, f.Name)
		}
		p.byName[f.Name] = len(p.fields)
		p.fields = append(p.fields, f)
	}
	return p, nil
}

func fieldOf(sf reflect.StructField, name string) (Field, error) {
	tag := sf.Tag
	f := Field{
		Name: name, Type: sf.Type, Index: sf.Index, Doc: tag.Get("doc"), Default: tag.Get("default"),
		Required: tag.Get("required") == "true", Secret: tag.Get("secret") == "true",
		Scope: tag.Get("scope"), Complete: tag.Get("complete"), Dry: name == "dry_run" || tag.Get("dry") == "true",
	}
	if name == "" {
		return f, errors.New("no json tag")
	}
	if e := tag.Get("enum"); e != "" {
		f.Enum = strings.Split(e, ",")
	}
	if a := tag.Get("arg"); a != "" {
		n, err := strconv.Atoi(a)
		if err != nil || n < 1 {
			return f, fmt.Errorf("arg %q is no place", a)
		}
		f.Arg = n
	}
	if f.Scope == "" && name == "organization" {
		f.Scope = ScopeOrganization
	}
	switch f.Scope {
	case "", ScopeOrganization, ScopeDomain, ScopeAddress:
	default:
		return f, fmt.Errorf("scope %q is not known", f.Scope)
	}
	if f.Default != "" {
		v := reflect.New(f.Type).Elem()
		if err := setText(v, []string{f.Default}); err != nil {
			return f, fmt.Errorf("default: %w", err)
		}
		if msg := f.allowed(v); msg != "" {
			return f, fmt.Errorf("default: %s", msg)
		}
	}
	return f, nil
}

// Fields lists the parameters in the order of the struct.
func (p *Params) Fields() []Field { return p.fields }

// Args lists the positional parameters in their order.
func (p *Params) Args() []Field {
	var out []Field
	for _, f := range p.fields {
		if f.Arg > 0 {
			out = append(out, f)
		}
	}
	slices.SortFunc(out, func(a, b Field) int { return a.Arg - b.Arg })
	return out
}

// Lookup finds a parameter by its json name.
func (p *Params) Lookup(name string) (Field, bool) {
	i, ok := p.byName[name]
	if !ok {
		return Field{}, false
	}
	return p.fields[i], true
}

// FromValues reads parameters given as text: a query or the flags of the CLI.
// Lists are given by repeating the name. The result is a value of type In;
// the error is of kind Invalid and holds a ParamError.
func (p *Params) FromValues(q url.Values) (any, error) {
	v := reflect.New(p.in).Elem()
	var bad []Problem
	given := make(map[string]bool, len(q))
	for name, texts := range q {
		i, ok := p.byName[name]
		if !ok {
			bad = append(bad, Problem{name, "there is no such parameter"})
			continue
		}
		given[name] = true
		if err := setText(v.FieldByIndex(p.fields[i].Index), texts); err != nil {
			bad = append(bad, Problem{name, err.Error()})
		}
	}
	return p.finish(v, given, bad)
}

// FromJSON reads parameters given as one JSON object. Names are exact,
// unknown and doubled names are refused, null means not given, and durations
// may be text ("10s"). An empty body is an empty object.
func (p *Params) FromJSON(body []byte) (any, error) {
	v := reflect.New(p.in).Elem()
	given := map[string]bool{}
	bad, err := p.readObject(body, v, given)
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "%w", &ParamError{[]Problem{{"", "body: " + err.Error()}}})
	}
	return p.finish(v, given, bad)
}

func (p *Params) readObject(body []byte, v reflect.Value, given map[string]bool) ([]Problem, error) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, nil
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("want a JSON object")
	}
	var bad []Problem
	seen := map[string]bool{}
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string) // the decoder gives only strings here
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return nil, err
		}
		i, ok := p.byName[name]
		switch {
		case !ok:
			bad = append(bad, Problem{name, "there is no such parameter"})
		case seen[name]:
			bad = append(bad, Problem{name, "given twice"})
		case string(raw) != "null":
			given[name] = true
			if err := setJSON(v.FieldByIndex(p.fields[i].Index), raw); err != nil {
				bad = append(bad, Problem{name, err.Error()})
			}
		}
		seen[name] = true
	}
	if _, err := dec.Token(); err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("more after the object")
	}
	return bad, nil
}

// finish fills in defaults and checks what is there.
func (p *Params) finish(v reflect.Value, given map[string]bool, bad []Problem) (any, error) {
	for _, f := range p.fields {
		fv := v.FieldByIndex(f.Index)
		if !given[f.Name] && f.Default != "" {
			if err := setText(fv, []string{f.Default}); err != nil {
				bad = append(bad, Problem{f.Name, err.Error()})
			}
		}
		empty := fv.Kind() == reflect.String && fv.Len() == 0 || fv.Kind() == reflect.Slice && fv.Len() == 0
		if f.Required && (!given[f.Name] || empty) {
			bad = append(bad, Problem{f.Name, "required"})
		} else if msg := f.allowed(fv); given[f.Name] && msg != "" {
			bad = append(bad, Problem{f.Name, msg})
		}
	}
	if len(bad) > 0 {
		slices.SortStableFunc(bad, func(a, b Problem) int { return strings.Compare(a.Field, b.Field) })
		return nil, kind.Errorf(kind.Invalid, "%w", &ParamError{slices.Compact(bad)})
	}
	return v.Interface(), nil
}

// allowed says why a value is outside the enumeration, empty if it is not. A
// word that differs in case only is put right.
func (f Field) allowed(v reflect.Value) string {
	if len(f.Enum) == 0 {
		return ""
	}
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			if msg := f.allowed(v.Index(i)); msg != "" {
				return msg
			}
		}
		return ""
	case reflect.Pointer:
		if v.IsNil() {
			return ""
		}
		return f.allowed(v.Elem())
	}
	text := fmt.Sprint(v.Interface())
	if text == "" && !f.Required || slices.Contains(f.Enum, text) {
		return ""
	}
	// People write "draining" for Draining.
	if i := slices.IndexFunc(f.Enum, func(e string) bool { return strings.EqualFold(e, text) }); i >= 0 && v.Kind() == reflect.String {
		v.SetString(f.Enum[i])
		return ""
	}
	return fmt.Sprintf("%q is not one of %s", text, strings.Join(f.Enum, ", "))
}

// Pick returns the named parameters of in, for sending them on.
func (p *Params) Pick(in any, names url.Values) map[string]any {
	v := reflect.ValueOf(in)
	out := make(map[string]any, len(names))
	for name := range names {
		if i, ok := p.byName[name]; ok {
			out[name] = v.FieldByIndex(p.fields[i].Index).Interface()
		}
	}
	return out
}
