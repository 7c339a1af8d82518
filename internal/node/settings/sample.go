package settings

import (
	"encoding"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
)

// Sample writes the file that documents every setting of v, a struct that
// holds the defaults. All settings are commented out: the file as written
// changes nothing.
func Sample(w io.Writer, head string, v any) error {
	var b strings.Builder
	for line := range strings.SplitSeq(strings.TrimSpace(head), "\n") {
		b.WriteString(strings.TrimRight("# "+line, " ") + "\n")
	}
	sampleTable(&b, "", reflect.ValueOf(v), nil)
	_, err := io.WriteString(w, b.String())
	return err
}

// sampleTable writes the plain settings first, then the sections, as TOML wants it.
func sampleTable(b *strings.Builder, path string, v reflect.Value, hide []string) {
	fields := without(fieldsOf(v.Type()), hide)
	for _, f := range fields {
		fv := v.FieldByIndex(f.index)
		if isSection(fv) {
			continue
		}
		b.WriteByte('\n')
		sampleDoc(b, f)
		fmt.Fprintf(b, "#%s = %s\n", f.name, sampleValue(fv, f))
	}
	for _, f := range fields {
		fv := v.FieldByIndex(f.index)
		if !isSection(fv) {
			continue
		}
		b.WriteByte('\n')
		sampleDoc(b, f)
		key := join(path, f.name)
		if fv.Kind() == reflect.Slice {
			fmt.Fprintf(b, "#[[%s]]\n", key)
			sampleTable(b, key, reflect.New(fv.Type().Elem()).Elem(), f.hide)
			continue
		}
		// Sections stand as they are: an empty one changes nothing, and a
		// setting that is uncommented below lands where it belongs.
		fmt.Fprintf(b, "[%s]\n", key)
		sampleTable(b, key, fv, f.hide)
	}
}

func isSection(v reflect.Value) bool {
	t := v.Type()
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct && !reflect.PointerTo(t).Implements(textType)
}

func sampleDoc(b *strings.Builder, f field) {
	text := f.doc
	if len(f.enum) > 0 {
		text = strings.TrimSuffix(text, ".") + ". One of: " + strings.Join(f.enum, ", ") + "."
	}
	for _, line := range wrap(text, 92) {
		b.WriteString("# " + line + "\n")
	}
}

func sampleValue(v reflect.Value, f field) string {
	if f.def != "" && v.IsZero() {
		if v.Kind() == reflect.String || v.Type() == durationType || implementsText(v) {
			return strconv.Quote(f.def)
		}
		return f.def
	}
	return tomlValue(v)
}

func implementsText(v reflect.Value) bool { return reflect.PointerTo(v.Type()).Implements(textType) }

func tomlValue(v reflect.Value) string {
	if v.Type() == durationType {
		return strconv.Quote(time.Duration(v.Int()).String())
	}
	if m, ok := v.Interface().(encoding.TextMarshaler); ok {
		t, err := m.MarshalText()
		if err != nil {
			return `""`
		}
		return strconv.Quote(string(t))
	}
	switch v.Kind() {
	case reflect.String:
		return strconv.Quote(v.String())
	case reflect.Slice:
		items := make([]string, v.Len())
		for i := range items {
			items[i] = tomlValue(v.Index(i))
		}
		return "[" + strings.Join(items, ", ") + "]"
	case reflect.Struct, reflect.Map:
		return "{}"
	}
	return fmt.Sprint(v.Interface())
}

// wrap breaks text at spaces.
func wrap(text string, width int) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(text) {
		if line != "" && len(line)+1+len(word) > width {
			lines = append(lines, line)
			line = ""
		}
		if line != "" {
			line += " "
		}
		line += word
	}
	if line != "" {
		lines = append(lines, line)
	}
	return lines
}
