package settings

import (
	"encoding"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// field is one setting of a struct.
type field struct {
	name, doc, def string
	enum           []string
	secret         bool
	hide           []string // settings of the section that stand elsewhere
	index          []int
}

// fieldsOf lists the settings of a struct in the order of its fields. Embedded
// structs without a name of their own count as part of it.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for f := range t.Fields() {
		tag, ok := f.Tag.Lookup("toml")
		name, _, _ := strings.Cut(tag, ",")
		if f.Anonymous && !ok && f.Type.Kind() == reflect.Struct {
			for _, in := range fieldsOf(f.Type) {
				in.index = append(slices.Clone(f.Index), in.index...)
				out = append(out, in)
			}
			continue
		}
		if !f.IsExported() || !ok || name == "-" || name == "" {
			continue
		}
		x := field{name: name, doc: f.Tag.Get("doc"), def: f.Tag.Get("default"), secret: f.Tag.Get("secret") == "true", index: f.Index}
		if e := f.Tag.Get("enum"); e != "" {
			x.enum = strings.Split(e, ",")
		}
		if h := f.Tag.Get("hide"); h != "" {
			x.hide = strings.Split(h, ",")
		}
		out = append(out, x)
	}
	return out
}

// without leaves out what another part of the file says.
func without(fields []field, hide []string) []field {
	return slices.DeleteFunc(fields, func(f field) bool { return slices.Contains(hide, f.name) })
}

func find(fields []field, name string) (field, bool) {
	i := slices.IndexFunc(fields, func(f field) bool { return f.name == name })
	if i < 0 {
		return field{}, false
	}
	return fields[i], true
}

var (
	durationType = reflect.TypeFor[time.Duration]()
	textType     = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isSize tells numbers that may be written as "10GiB".
func isSize(v reflect.Value) bool {
	return v.Kind() == reflect.Int64 && v.Type() != durationType && !reflect.PointerTo(v.Type()).Implements(textType)
}

// textParser returns how a value is read from text, where it is.
func textParser(v reflect.Value) (func(string) error, bool) {
	switch {
	case v.Type() == durationType:
		return func(s string) error {
			d, err := time.ParseDuration(s)
			if err != nil {
				return fmt.Errorf("%q is not a duration", s)
			}
			v.SetInt(int64(d))
			return nil
		}, true
	case v.CanAddr() && v.Addr().Type().Implements(textType):
		u := v.Addr().Interface().(encoding.TextUnmarshaler)
		return func(s string) error { return u.UnmarshalText([]byte(s)) }, true
	case isSize(v):
		return func(s string) error {
			n, err := ParseSize(s)
			if err != nil {
				return err
			}
			v.SetInt(n)
			return nil
		}, true
	}
	return nil, false
}

// ParseSize reads a number of bytes: "500", "10MiB", "2GB".
func ParseSize(s string) (int64, error) {
	i := strings.IndexFunc(s, func(r rune) bool { return (r < '0' || r > '9') && r != '.' })
	if i < 0 {
		i = len(s)
	}
	n, err := strconv.ParseFloat(s[:i], 64)
	units := map[string]float64{"": 1, "B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12,
		"KIB": 1 << 10, "MIB": 1 << 20, "GIB": 1 << 30, "TIB": 1 << 40}
	unit, ok := units[strings.ToUpper(strings.TrimSpace(s[i:]))]
	if err != nil || !ok || n*unit > math.MaxInt64/2 {
		return 0, fmt.Errorf("%q is not a size", s)
	}
	return int64(n * unit), nil
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case int64:
		return "a number"
	case float64:
		return "a number with a fraction"
	case bool:
		return "true or false"
	case []any:
		return "a list"
	case map[string]any:
		return "a section"
	}
	return fmt.Sprintf("%T", v)
}

func wantName(v reflect.Value) string {
	switch {
	case v.Kind() == reflect.String:
		return "text"
	case v.Kind() == reflect.Bool:
		return "true or false"
	case v.CanInt(), v.CanUint():
		return "a number"
	case v.CanFloat():
		return "a number with a fraction"
	}
	return v.Type().String()
}

func example(v reflect.Value) string {
	switch {
	case v.Type() == durationType, strings.HasSuffix(v.Type().Name(), "Duration"):
		return `"30s" or "5m"`
	case isSize(v):
		return `1048576 or "10GiB"`
	case v.Kind() == reflect.Bool:
		return "true"
	case v.CanInt(), v.CanUint():
		return "100"
	case v.CanFloat():
		return "0.5"
	}
	return `"text"`
}
