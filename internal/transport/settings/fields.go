package settings

import (
	"encoding"
	"fmt"
	"net/netip"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/kind"
)

// maxItems bounds a list, maxText one text, in octets.
const (
	maxItems = 100
	maxText  = 64 << 10
)

// field is one setting of a row: what its tags say.
type field struct {
	name, doc, unit string
	def, min, max   string // as text, empty for none
	enum            []string
	index           int
}

// fieldsOf lists the settings of a row type in the order of the struct.
func fieldsOf(t reflect.Type) []field {
	var out []field
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		f := field{doc: tag.Get("doc"), unit: tag.Get("unit"), def: tag.Get("default"), min: tag.Get("min"), max: tag.Get("max"), index: i}
		f.name, _, _ = strings.Cut(tag.Get("json"), ",")
		if f.doc == "" {
			continue
		}
		if e := tag.Get("enum"); e != "" {
			f.enum = strings.Split(e, ",")
		}
		out = append(out, f)
	}
	return out
}

// value is the default without the words behind it.
func (f field) value() string {
	v, _, _ := strings.Cut(f.def, " ")
	return v
}

// fill gives every setting that is zero its default.
func fill(row any) {
	v := reflect.ValueOf(row).Elem()
	for _, f := range fieldsOf(v.Type()) {
		if fv := v.Field(f.index); f.def != "" && fv.IsZero() {
			if err := setText(fv, f.value()); err != nil {
				panic("default of " + f.name + ": " + err.Error()) // a tag is wrong; every test meets it
			}
		}
	}
}

// set changes one setting of a row, given as text. "default" or nothing takes
// it back.
func set(row any, what, hint, key, value string) error {
	v := reflect.ValueOf(row).Elem()
	all := fieldsOf(v.Type())
	i := slices.IndexFunc(all, func(f field) bool { return f.name == strings.ReplaceAll(key, "-", "_") })
	if i < 0 {
		err := kind.Errorf(kind.Invalid, "%s has no setting %.60q", what, key)
		if near := nearest(all, key); near != "" {
			return kind.WithHint(err, "did you mean "+near+"?")
		}
		return kind.WithHint(err, hint)
	}
	f := all[i]
	fv := v.Field(f.index)
	next := reflect.New(fv.Type()).Elem()
	if value != "" && value != "default" {
		if err := setText(next, value); err != nil {
			return kind.WithHint(kind.Errorf(kind.Invalid, "%s: %w", f.name, err), f.doc)
		}
		if next.IsZero() && next.Kind() != reflect.Bool && f.def != "" && f.value() != "0" {
			return kind.WithHint(kind.Errorf(kind.Invalid, "%s: %s is not allowed", f.name, value), "the default is "+f.def)
		}
	}
	if err := f.check(next); err != nil {
		return kind.WithHint(err, f.doc)
	}
	fv.Set(next)
	return nil
}

// check tells whether a value is within what the tags allow. Zero always is: it
// is the default.
func (f field) check(v reflect.Value) error {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.String:
		s := v.String()
		if len(s) > maxText || !utf8.ValidString(s) || strings.Contains(s, "\x00") {
			return kind.Errorf(kind.Invalid, "%s: want at most %d octets of UTF-8 text", f.name, maxText)
		}
		if s != "" && f.enum != nil && !slices.Contains(f.enum, s) {
			return kind.Errorf(kind.Invalid, "%s: %.60q is not one of %s", f.name, s, strings.Join(f.enum, ", "))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() != reflect.Uint8 && v.Len() > maxItems {
			return kind.Errorf(kind.Invalid, "%s: %d entries, want at most %d", f.name, v.Len(), maxItems)
		}
	case reflect.Int, reflect.Int64:
		return f.checkNumber(v)
	}
	return nil
}

func (f field) checkNumber(v reflect.Value) error {
	n := v.Int()
	if n == 0 {
		return nil
	}
	low, high := int64(0), int64(1)<<62
	show := func(n int64) string { return strconv.FormatInt(n, 10) }
	if v.Type() == reflect.TypeFor[conf.Duration]() {
		show = func(n int64) string { return Duration(time.Duration(n)) }
	}
	bound := func(text string, n *int64) {
		if b := reflect.New(v.Type()).Elem(); text != "" && setText(b, text) == nil {
			*n = b.Int()
		}
	}
	bound(f.min, &low)
	bound(f.max, &high)
	switch {
	case n < low:
		return kind.Errorf(kind.Invalid, "%s: %s is too little, want at least %s", f.name, show(n), show(low))
	case n > high:
		return kind.Errorf(kind.Invalid, "%s: %s is too much, want at most %s", f.name, show(n), show(high))
	}
	return nil
}

// checkAll is check for every setting of a row.
func checkAll(row any) error {
	v := reflect.ValueOf(row).Elem()
	for _, f := range fieldsOf(v.Type()) {
		if err := f.check(v.Field(f.index)); err != nil {
			return err
		}
	}
	return nil
}

// days finds the days of a duration, a unit that time.ParseDuration has not.
var days = regexp.MustCompile(`^([0-9]{1,5})d`)

// setText sets a value from its text: a list is separated by commas or
// spaces, a duration may have days (2d, 1d12h).
func setText(v reflect.Value, s string) error {
	if v.Kind() == reflect.Pointer {
		n := reflect.New(v.Type().Elem())
		if err := setText(n.Elem(), s); err != nil {
			return err
		}
		v.Set(n)
		return nil
	}
	if d, ok := v.Addr().Interface().(*conf.Duration); ok {
		return setDuration(d, s)
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s))
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		switch strings.ToLower(s) {
		case "true", "on", "yes":
			v.SetBool(true)
		case "false", "off", "no":
			v.SetBool(false)
		default:
			return fmt.Errorf("%.60q is not true or false", s)
		}
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(s, 10, v.Type().Bits())
		if err != nil {
			return fmt.Errorf("%.60q is no whole number", s)
		}
		v.SetInt(n)
	case reflect.Slice:
		return setList(v, s)
	default:
		return fmt.Errorf("a %s cannot be set", v.Type())
	}
	return nil
}

func setDuration(d *conf.Duration, s string) error {
	rest, whole := s, time.Duration(0)
	if m := days.FindStringSubmatch(s); m != nil {
		n, _ := strconv.Atoi(m[1]) // five digits
		rest, whole = s[len(m[0]):], time.Duration(n)*24*time.Hour
		if rest == "" {
			rest = "0s"
		}
	}
	t, err := time.ParseDuration(rest)
	if err != nil || t < 0 {
		return fmt.Errorf("%.60q is no duration (as in 30s, 5m, 2d)", s)
	}
	*d = conf.Duration(whole + t)
	return nil
}

func setList(v reflect.Value, s string) error {
	parts := strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
	if len(parts) > maxItems {
		return fmt.Errorf("%d entries, want at most %d", len(parts), maxItems)
	}
	out := reflect.MakeSlice(v.Type(), len(parts), len(parts))
	for i, p := range parts {
		// A single address is a network of one.
		if a, err := netip.ParseAddr(p); err == nil && v.Type().Elem() == reflect.TypeFor[netip.Prefix]() {
			p = netip.PrefixFrom(a, a.BitLen()).String()
		}
		if err := setText(out.Index(i), p); err != nil {
			return err
		}
	}
	v.Set(out)
	return nil
}

// UnmarshalText reads extension=action or type/subtype=action.
func (a *AttachmentRule) UnmarshalText(b []byte) error {
	what, action, ok := strings.Cut(strings.ToLower(string(b)), "=")
	if !ok {
		return fmt.Errorf("%.60q: want extension=action or type/subtype=action", b)
	}
	*a = AttachmentRule{Action: action}
	if strings.Contains(what, "/") {
		a.Type = what
	} else {
		a.Extension = strings.TrimPrefix(what, ".")
	}
	return a.check()
}

// MarshalText writes what UnmarshalText reads; rows keep it so.
func (a AttachmentRule) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// String is the same.
func (a AttachmentRule) String() string { return a.Extension + a.Type + "=" + a.Action }

// Duration writes a duration the short way: 48h, 2m, 1h30m.
func Duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// text writes a value as set reads it.
func text(v reflect.Value) string {
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return ""
		}
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case conf.Duration:
		return Duration(x.Std())
	case fmt.Stringer:
		return x.String()
	}
	if v.Kind() == reflect.Slice {
		parts := make([]string, v.Len())
		for i := range parts {
			parts[i] = text(v.Index(i))
		}
		return strings.Join(parts, ",")
	}
	return fmt.Sprint(v.Interface())
}

// nearest finds the setting somebody meant, empty for none.
func nearest(all []field, key string) string {
	best, least := "", 4
	for _, f := range all {
		if len(key) >= 4 && len(key) <= len(f.name) && strings.Contains(f.name, key) {
			return f.name
		}
		if d := distance(f.name, key); d < least {
			best, least = f.name, d
		}
	}
	return best
}

// distance counts the letters to change, add or drop between two short words.
func distance(a, b string) int {
	if len(b) > 64 {
		return 64
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
