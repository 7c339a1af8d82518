package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// printJSON prints v, indented, as it came: fields that this program does not
// know stay in.
func (p *program) printJSON(v any) error {
	raw, ok := v.(json.RawMessage)
	if !ok {
		b, err := json.Marshal(v)
		if err != nil {
			return err
		}
		raw = b
	}
	var b bytes.Buffer
	if err := json.Indent(&b, raw, "", "  "); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	_, err := fmt.Fprintln(p.Stdout, strings.TrimRight(b.String(), "\n"))
	return err
}

// render prints an answer for people.
func (p *program) render(w io.Writer, t reflect.Type, raw json.RawMessage) error {
	v := reflect.New(t)
	if err := json.Unmarshal(raw, v.Interface()); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	var b bytes.Buffer
	writeValue(&b, v.Elem())
	if b.Len() == 0 && !p.quiet && v.Elem().Kind() == reflect.Slice {
		_, err := fmt.Fprintln(p.Stderr, "none")
		return err
	}
	_, err := w.Write(b.Bytes())
	return err
}

func writeValue(w *bytes.Buffer, v reflect.Value) {
	for v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		if v.IsNil() {
			return
		}
		v = v.Elem()
	}
	switch {
	case v.Kind() == reflect.Slice && rowsOf(v.Type()) != nil:
		writeTable(w, v)
	case v.Kind() == reflect.Struct && rowsOf(v.Type()) != nil:
		writeFacts(w, v)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8:
		for i := range v.Len() {
			fmt.Fprintln(w, cellText(v.Index(i)))
		}
	case v.Kind() == reflect.Struct && v.NumField() == 0:
	default:
		if s := cellText(v); s != "" {
			fmt.Fprintln(w, s)
		}
	}
}

// rowsOf returns the element type of a list of structs, or the struct type
// itself, nil for what is printed as one text.
func rowsOf(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() != reflect.Struct || t == timeType || t.Implements(stringerType) || reflect.PointerTo(t).Implements(stringerType) || t.NumField() == 0 {
		return nil
	}
	return t
}

var (
	timeType     = reflect.TypeFor[time.Time]()
	stringerType = reflect.TypeFor[fmt.Stringer]()
	durationType = reflect.TypeFor[time.Duration]()
)

type column struct {
	heading string
	index   []int
	typ     reflect.Type
}

// columns are the fields with a col tag; of a type without any, all with json
// names.
func columns(t reflect.Type) []column {
	var tagged, all []column
	for _, f := range reflect.VisibleFields(t) {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" || f.Anonymous && name == "" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		col, ok := f.Tag.Lookup("col")
		switch {
		case ok && col == "-":
			continue
		case ok:
			tagged = append(tagged, column{col, f.Index, f.Type})
		}
		all = append(all, column{strings.ToUpper(strings.ReplaceAll(name, "_", " ")), f.Index, f.Type})
	}
	if len(tagged) > 0 {
		return tagged
	}
	return all
}

func writeTable(w *bytes.Buffer, v reflect.Value) {
	if v.Len() == 0 {
		return
	}
	cols := columns(rowsOf(v.Type()))
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for i, c := range cols {
		fmt.Fprint(tw, c.heading, sep(i, cols))
	}
	for r := range v.Len() {
		row := reflect.Indirect(v.Index(r))
		for i, c := range cols {
			text := ""
			if row.IsValid() {
				if fv, err := row.FieldByIndexErr(c.index); err == nil {
					text = cellText(fv)
				}
			}
			fmt.Fprint(tw, text, sep(i, cols))
		}
	}
	_ = tw.Flush() // a buffer takes everything
	trimLines(w)
}

func sep(i int, cols []column) string {
	if i == len(cols)-1 {
		return "\n"
	}
	return "\t"
}

// trimLines takes the blanks off that an empty last column leaves.
func trimLines(w *bytes.Buffer) {
	lines := strings.Split(w.String(), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " ")
	}
	w.Reset()
	w.WriteString(strings.Join(lines, "\n"))
}

// writeFacts prints one thing: its plain fields as "heading  value", then its
// lists as tables.
func writeFacts(w *bytes.Buffer, v reflect.Value) {
	var nested []column
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, c := range columns(v.Type()) {
		fv, err := v.FieldByIndexErr(c.index)
		if err != nil {
			continue
		}
		for fv.Kind() == reflect.Pointer && !fv.IsNil() {
			fv = fv.Elem()
		}
		switch {
		case (fv.Kind() == reflect.Slice || fv.Kind() == reflect.Struct) && rowsOf(fv.Type()) != nil:
			nested = append(nested, c)
		default:
			if text := cellText(fv); text != "" {
				fmt.Fprintf(tw, "%s:\t%s\n", sentence(c.heading), text)
			}
		}
	}
	_ = tw.Flush() // a buffer takes everything
	for _, c := range nested {
		var inner bytes.Buffer
		fv, _ := v.FieldByIndexErr(c.index) // it was there above
		writeValue(&inner, fv)
		if inner.Len() == 0 {
			continue
		}
		if w.Len() > 0 {
			fmt.Fprintf(w, "\n%s:\n", sentence(c.heading))
		}
		w.Write(inner.Bytes())
	}
}

// sentence makes "MAX SIZE" to "Max size".
func sentence(s string) string {
	s = strings.ToLower(s)
	if s == "" {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:]
}

// cellText is a value as one text without line breaks or terminal controls,
// which may come from outside.
func cellText(v reflect.Value) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, rawText(v))
}

func rawText(v reflect.Value) string {
	if !v.IsValid() || (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) && v.IsNil() {
		return ""
	}
	if v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface {
		return rawText(v.Elem())
	}
	switch {
	case v.Type() == timeType:
		t, _ := v.Interface().(time.Time)
		if t.IsZero() {
			return ""
		}
		return t.Local().Format("2006-01-02 15:04:05")
	case v.Type() == durationType:
		if v.IsZero() {
			return ""
		}
		d, _ := v.Interface().(time.Duration)
		return rounded(d).String()
	}
	if s, ok := v.Interface().(fmt.Stringer); ok {
		return s.String()
	}
	return basicText(v)
}

func basicText(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		if v.Bool() {
			return "yes"
		}
		return "no"
	case reflect.Float32, reflect.Float64:
		return strconv.FormatFloat(v.Float(), 'f', -1, 64)
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return fmt.Sprintf("%d bytes", v.Len())
		}
		var parts []string
		for i := range v.Len() {
			parts = append(parts, rawText(v.Index(i)))
		}
		return strings.Join(parts, ", ")
	case reflect.Map:
		var parts []string
		for it := v.MapRange(); it.Next(); {
			parts = append(parts, rawText(it.Key())+"="+rawText(it.Value()))
		}
		slices.Sort(parts)
		return strings.Join(parts, " ")
	case reflect.Struct:
		var parts []string
		for _, c := range columns(v.Type()) {
			if fv, err := v.FieldByIndexErr(c.index); err == nil && !fv.IsZero() {
				parts = append(parts, strings.ToLower(c.heading)+"="+rawText(fv))
			}
		}
		return strings.Join(parts, " ")
	}
	return fmt.Sprint(v.Interface())
}

// rounded keeps the digits of a duration that matter.
func rounded(d time.Duration) time.Duration {
	switch {
	case d > 10*time.Second:
		return d.Round(time.Second)
	case d > time.Second:
		return d.Round(10 * time.Millisecond)
	case d > time.Millisecond:
		return d.Round(10 * time.Microsecond)
	}
	return d
}

func readAtMost(r io.Reader, name string, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(b)) > limit {
		return nil, usage("", "%s is over %d bytes", name, limit)
	}
	return b, nil
}
