package command

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

var durationType = reflect.TypeFor[time.Duration]()

// setText sets v from text; lists take all texts, everything else exactly one.
func setText(v reflect.Value, texts []string) error {
	if v.Kind() == reflect.Slice && v.Type().Elem().Kind() != reflect.Uint8 && !canText(v) {
		out := reflect.MakeSlice(v.Type(), len(texts), len(texts))
		for i, t := range texts {
			if err := setOne(out.Index(i), t); err != nil {
				return err
			}
		}
		v.Set(out)
		return nil
	}
	if len(texts) != 1 {
		return fmt.Errorf("given %d times", len(texts))
	}
	return setOne(v, texts[0])
}

func canText(v reflect.Value) bool {
	_, ok := v.Addr().Interface().(encoding.TextUnmarshaler)
	return ok
}

func setOne(v reflect.Value, s string) error {
	if !utf8.ValidString(s) && v.Kind() != reflect.Slice {
		return errors.New("want UTF-8") // JSON could not carry it either
	}
	if v.Kind() == reflect.Pointer {
		n := reflect.New(v.Type().Elem())
		if err := setOne(n.Elem(), s); err != nil {
			return err
		}
		v.Set(n)
		return nil
	}
	if u, ok := v.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(s))
	}
	if v.Type() == durationType {
		d, err := time.ParseDuration(s)
		if err != nil {
			return fmt.Errorf("%q is no duration (as in 90s or 1h30m)", s)
		}
		v.SetInt(int64(d))
		return nil
	}
	return setBasic(v, s)
}

func setBasic(v reflect.Value, s string) error {
	var err error
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
	case reflect.Bool:
		var b bool
		if b, err = strconv.ParseBool(s); err != nil {
			return fmt.Errorf("%q is not true or false", s)
		}
		v.SetBool(b)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		var n int64
		if n, err = strconv.ParseInt(s, 10, v.Type().Bits()); err != nil {
			return fmt.Errorf("%q is no whole number in range", s)
		}
		v.SetInt(n)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		var n uint64
		if n, err = strconv.ParseUint(s, 10, v.Type().Bits()); err != nil {
			return fmt.Errorf("%q is no positive whole number in range", s)
		}
		v.SetUint(n)
	case reflect.Float32, reflect.Float64:
		var n float64
		if n, err = strconv.ParseFloat(s, v.Type().Bits()); err != nil || n != n {
			return fmt.Errorf("%q is no number", s)
		}
		v.SetFloat(n)
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes([]byte(s))
			return nil
		}
		return setJSON(v, json.RawMessage(s))
	default:
		return setJSON(v, json.RawMessage(s))
	}
	return nil
}

func setJSON(v reflect.Value, raw json.RawMessage) error {
	if v.Kind() == reflect.Pointer && string(raw) != "null" {
		n := reflect.New(v.Type().Elem())
		if err := setJSON(n.Elem(), raw); err != nil {
			return err
		}
		v.Set(n)
		return nil
	}
	if v.Type() == durationType && len(raw) > 0 && raw[0] == '"' {
		var s string
		if err := json.Unmarshal(raw, &s); err != nil {
			return err
		}
		return setOne(v, s)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v.Addr().Interface()); err != nil {
		var te *json.UnmarshalTypeError
		if errors.As(err, &te) {
			return fmt.Errorf("%s does not fit, want %s", te.Value, plainType(te.Type))
		}
		return errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

// plainType names a type without its Go package.
func plainType(t reflect.Type) string {
	if t == durationType {
		return "a duration"
	}
	return t.Kind().String()
}
