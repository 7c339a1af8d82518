package command

import (
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"regexp"
	"slices"
	"strings"
)

var wordRE = regexp.MustCompile(`^[a-z][a-z0-9-]{0,30}$`)

// Check reports the first mistake in a table: names that cannot be a path
// element, doubled entries, tags that do not fit. A mistake is one of the
// program, so every door checks when it is made.
func Check(table []Command) error {
	seen := map[string]bool{}
	for _, c := range table {
		if err := checkOne(c); err != nil {
			return fmt.Errorf("command %s: %w", c.Name(), err)
		}
		if seen[c.Name()] {
			return fmt.Errorf("command %s is there twice", c.Name())
		}
		seen[c.Name()] = true
	}
	return nil
}

func checkOne(c Command) error {
	verb := strings.Split(c.Verb, " ")
	if !wordRE.MatchString(c.Noun) || len(verb) > 2 || slices.ContainsFunc(verb, func(w string) bool { return !wordRE.MatchString(w) }) {
		return fmt.Errorf("want a noun and one or two words as verb, in small letters, digits and -")
	}
	if c.Short == "" {
		return fmt.Errorf("no Short")
	}
	if c.Out == nil || c.Run == nil {
		return fmt.Errorf("no Out or no Run: make it with New")
	}
	p, err := ParamsOf(c.In)
	if err != nil {
		return err
	}
	optional := false
	args := p.Args()
	for i, f := range args {
		switch {
		case f.Arg != i+1:
			return fmt.Errorf("argument %d is missing", i+1)
		case optional && f.Required:
			return fmt.Errorf("argument %s is required after an optional one", f.Name)
		case f.Type.Kind() == reflect.Slice && i < len(args)-1:
			return fmt.Errorf("argument %s is a list and not the last", f.Name)
		}
		optional = optional || !f.Required
	}
	for _, f := range p.Fields() {
		if f.Secret && !c.Changes {
			return fmt.Errorf("secret %s would be in the address of a GET", f.Name)
		}
	}
	dry, ok := p.Lookup("dry_run")
	if c.Dangerous && (!c.Changes || !ok || dry.Type.Kind() != reflect.Bool) {
		return fmt.Errorf("dangerous without Changes or without dry_run")
	}
	return nil
}

// Sort orders a table by noun and verb.
func Sort(table []Command) []Command {
	out := slices.Clone(table)
	slices.SortFunc(out, func(a, b Command) int { return strings.Compare(a.Name(), b.Name()) })
	return out
}

// maxAudited bounds one text of redacted parameters, in bytes.
const maxAudited = 512

// Redacted returns the parameters that are set as they may be written down:
// secrets are replaced, long texts and lists cut.
func Redacted(in any) map[string]any {
	v := reflect.ValueOf(in)
	out := map[string]any{}
	if v.Kind() != reflect.Struct {
		return out
	}
	redactInto(out, v, 0)
	return out
}

func redactInto(out map[string]any, v reflect.Value, depth int) {
	for _, sf := range reflect.VisibleFields(v.Type()) {
		name, _, _ := strings.Cut(sf.Tag.Get("json"), ",")
		if sf.Anonymous && name == "" || !sf.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = sf.Name
		}
		fv, err := v.FieldByIndexErr(sf.Index)
		if err != nil || fv.IsZero() {
			continue
		}
		if sf.Tag.Get("secret") == "true" {
			out[name] = "[secret]"
			continue
		}
		out[name] = redact(fv, depth+1)
	}
}

func redact(v reflect.Value, depth int) any {
	if m, ok := v.Interface().(encoding.TextMarshaler); ok && (v.Kind() != reflect.Pointer || !v.IsNil()) {
		if b, err := m.MarshalText(); err == nil {
			return cut(string(b))
		}
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return redact(v.Elem(), depth)
	case reflect.String:
		return cut(v.String())
	case reflect.Struct:
		if _, own := v.Interface().(json.Marshaler); own || depth > 4 || v.NumField() == 0 {
			break
		}
		out := map[string]any{}
		redactInto(out, v, depth)
		return out
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return fmt.Sprintf("[%d bytes]", v.Len())
		}
		out := make([]any, 0, min(v.Len(), 32))
		for i := range min(v.Len(), 32) {
			out = append(out, redact(v.Index(i), depth+1))
		}
		if v.Len() > 32 {
			out = append(out, fmt.Sprintf("[%d more]", v.Len()-32))
		}
		return out
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Float32, reflect.Float64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return v.Interface()
	}
	if s, ok := v.Interface().(fmt.Stringer); ok {
		return cut(s.String())
	}
	if v.Kind() == reflect.Map {
		// A map's values carry no tags, so nothing tells which are secret.
		return fmt.Sprintf("[%d entries]", v.Len())
	}
	return cut(fmt.Sprint(v.Interface()))
}

func cut(s string) string {
	if len(s) <= maxAudited {
		return s
	}
	return strings.ToValidUTF8(s[:maxAudited], "") + "..."
}
