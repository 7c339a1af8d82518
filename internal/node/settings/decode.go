package settings

import (
	"errors"
	"fmt"
	"os"
	"reflect"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// maxFile bounds a configuration file: it is written by people.
const maxFile = 1 << 20

// Positions tells the line of each key of a file by its dotted path
// ("volume[1].path").
type Positions map[string]int

// Line is the line of a key or of the nearest part of the file around it.
func (p Positions) Line(path string) int {
	for path != "" {
		if n, ok := p[path]; ok {
			return n
		}
		if n, ok := p[path+"[0]"]; ok { // the list is where its first entry is
			return n
		}
		i := strings.LastIndexAny(path, ".[")
		if i < 0 {
			return 0
		}
		path = path[:i]
	}
	return 0
}

// File reads a file into v, a pointer to a struct, and returns where its keys
// stand. A missing file is os.ErrNotExist; everything wrong inside is Problems.
func File(path string, v any) (Positions, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	if st.Size() > maxFile {
		return nil, Problems{{File: path, Reason: fmt.Sprintf("%d bytes is too large for a configuration", st.Size()), Remedy: "is this the right file?"}}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return Decode(path, data, v)
}

// Decode is File for data that was read already; file is for messages.
func Decode(file string, data []byte, v any) (Positions, error) {
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return nil, Problems{syntax(file, err)}
	}
	d := decoder{file: file, pos: positions(data)}
	d.table("", tree, reflect.ValueOf(v).Elem(), nil)
	return d.pos, d.problems.sorted()
}

func syntax(file string, err error) Problem {
	p := Problem{File: file, Reason: strings.TrimPrefix(err.Error(), "toml: "), Remedy: "this line is not TOML; see https://toml.io"}
	var de *toml.DecodeError
	if errors.As(err, &de) {
		p.Line, _ = de.Position()
		p.Key = strings.Join(de.Key(), ".")
	}
	return p
}

type decoder struct {
	file     string
	pos      Positions
	problems Problems
}

func (d *decoder) refuse(path, remedy, format string, args ...any) {
	d.problems = append(d.problems, Problem{File: d.file, Line: d.pos.Line(path), Key: path,
		Reason: fmt.Sprintf(format, args...), Remedy: remedy})
}

// table assigns a TOML table to a struct.
func (d *decoder) table(path string, tree map[string]any, v reflect.Value, hide []string) {
	fields := without(fieldsOf(v.Type()), hide)
	for name, value := range tree {
		key := join(path, name)
		f, ok := find(fields, name)
		if !ok {
			d.refuse(key, d.suggest(path, name, fields), "no such setting")
			continue
		}
		d.value(key, value, v.FieldByIndex(f.index), f)
	}
}

func (d *decoder) suggest(path, name string, fields []field) string {
	names := make([]string, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	if n := nearest(name, names); n != "" {
		return "did you mean " + join(path, n) + "?"
	}
	where := "at the top of the file"
	if path != "" {
		where = "in [" + path + "]"
	}
	return "known " + where + ": " + strings.Join(names, ", ")
}

// value assigns one TOML value.
func (d *decoder) value(path string, value any, v reflect.Value, f field) {
	if parse, ok := textParser(v); ok {
		s, isText := value.(string)
		if n, isNumber := value.(int64); isNumber && isSize(v) {
			v.SetInt(n)
			d.check(path, v, f)
			return
		}
		if !isText {
			d.refuse(path, "put it in quotes, for example "+example(v), "is %s, want text", typeName(value))
			return
		}
		if err := parse(s); err != nil {
			d.refuse(path, "for example "+example(v), "%s", err)
			return
		}
		d.check(path, v, f)
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		t, ok := value.(map[string]any)
		if !ok {
			d.refuse(path, "write it as a section ["+path+"]", "is %s, want a section", typeName(value))
			return
		}
		d.table(path, t, v, f.hide)
	case reflect.Slice:
		d.slice(path, value, v, f)
	default:
		d.scalar(path, value, v, f)
	}
}

func (d *decoder) slice(path string, value any, v reflect.Value, f field) {
	list, ok := value.([]any)
	if !ok {
		if _, isTable := value.(map[string]any); isTable {
			d.refuse(path, "write it as [["+path+"]]", "is one section, want a list of them")
			return
		}
		d.refuse(path, "write it as a list: ["+fmt.Sprintf("%q", fmt.Sprint(value))+"]", "is %s, want a list", typeName(value))
		return
	}
	out := reflect.MakeSlice(v.Type(), len(list), len(list))
	for i, e := range list {
		d.value(fmt.Sprintf("%s[%d]", path, i), e, out.Index(i), f)
	}
	v.Set(out)
}

func (d *decoder) scalar(path string, value any, v reflect.Value, f field) {
	switch x := value.(type) {
	case string:
		if v.Kind() == reflect.String {
			v.SetString(x)
			d.check(path, v, f)
			return
		}
	case int64:
		if v.CanInt() && !v.OverflowInt(x) {
			v.SetInt(x)
			d.check(path, v, f)
			return
		}
		if v.CanUint() && x >= 0 && !v.OverflowUint(uint64(x)) {
			v.SetUint(uint64(x))
			return
		}
		if v.CanFloat() {
			v.SetFloat(float64(x))
			return
		}
		if v.CanInt() || v.CanUint() {
			d.refuse(path, "give a smaller number that is not negative", "%d is out of range", x)
			return
		}
	case float64:
		if v.CanFloat() {
			v.SetFloat(x)
			return
		}
	case bool:
		if v.Kind() == reflect.Bool {
			v.SetBool(x)
			return
		}
	}
	d.refuse(path, "for example "+example(v), "is %s, want %s", typeName(value), wantName(v))
}

// check applies enum.
func (d *decoder) check(path string, v reflect.Value, f field) {
	if len(f.enum) == 0 || v.Kind() != reflect.String {
		return
	}
	for _, e := range f.enum {
		if v.String() == e {
			return
		}
	}
	remedy := "one of: " + strings.Join(f.enum, ", ")
	if n := nearest(v.String(), f.enum); n != "" {
		remedy = fmt.Sprintf("did you mean %q? %s", n, remedy)
	}
	d.refuse(path, remedy, "unknown value %q", v.String())
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}
