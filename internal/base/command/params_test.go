package command

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

type color string

type inner struct {
	Word   string `json:"word"`
	Hidden string `json:"hidden" secret:"true"`
}

type allIn struct {
	inner
	Name   string         `json:"name" arg:"1" required:"true"`
	Size   int8           `json:"size" default:"7"`
	Count  uint16         `json:"count"`
	Share  float64        `json:"share"`
	Open   bool           `json:"open"`
	Color  color          `json:"color" enum:"red,green"`
	Colors []color        `json:"colors" enum:"red,green"`
	Wait   time.Duration  `json:"wait" default:"1m"`
	At     time.Time      `json:"at"`
	Maybe  *int           `json:"maybe"`
	Raw    []byte         `json:"raw"`
	Nested *inner         `json:"nested"`
	Any    map[string]int `json:"any"`
	Skip   string         `json:"-"`
}

func allParams(t testing.TB) *Params {
	p, err := ParamsOf(reflect.TypeFor[allIn]())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestParametersBothWays(t *testing.T) {
	p := allParams(t)
	q := url.Values{"name": {"x"}, "word": {"w"}, "size": {"-3"}, "count": {"9"}, "share": {"0.5"}, "open": {"true"}, "color": {"red"},
		"colors": {"red", "green"}, "wait": {"90s"}, "at": {"2026-01-02T03:04:05Z"}, "maybe": {"0"}, "raw": {"abc"}, "any": {`{"a":1}`}}
	text, err := p.FromValues(q)
	if err != nil {
		t.Fatal(err)
	}
	body, err := json.Marshal(p.Pick(text, q))
	if err != nil {
		t.Fatal(err)
	}
	fromJSON, err := p.FromJSON(body)
	if err != nil || !reflect.DeepEqual(text, fromJSON) {
		t.Fatalf("%s\n%+v\n%+v: %v", body, text, fromJSON, err)
	}
	in, ok := text.(allIn)
	if !ok || in.Word != "w" || in.Wait != 90*time.Second || in.Maybe == nil || *in.Maybe != 0 || string(in.Raw) != "abc" {
		t.Errorf("%+v", text)
	}
}

// TestEnumerationInAnyCase: "GREEN" is understood, and handed on as it is called.
func TestEnumerationInAnyCase(t *testing.T) {
	p := allParams(t)
	for _, body := range []string{`{"name":"x","color":"GREEN","colors":["Red","green"]}`} {
		in, err := p.FromJSON([]byte(body))
		got, ok := in.(allIn)
		if err != nil || !ok || got.Color != "green" || !reflect.DeepEqual(got.Colors, []color{"red", "green"}) {
			t.Errorf("%s: %+v, %v", body, in, err)
		}
	}
	in, err := p.FromValues(url.Values{"name": {"x"}, "color": {"Red"}})
	if got, ok := in.(allIn); err != nil || !ok || got.Color != "red" {
		t.Errorf("%+v, %v", in, err)
	}
}

func TestDefaults(t *testing.T) {
	in, err := allParams(t).FromJSON([]byte(`{"name":"x","wait":null}`))
	got, ok := in.(allIn)
	if err != nil || !ok || got.Size != 7 || got.Wait != time.Minute || got.Maybe != nil {
		t.Errorf("%+v, %v", in, err)
	}
}

func TestRefused(t *testing.T) {
	p := allParams(t)
	for _, body := range []string{
		``, `{}`, `{"name":1}`, `{"name":"x","size":200}`, `{"name":"x","count":-1}`, `{"name":"x","color":"blue"}`,
		`{"name":"x","colors":["red","blue"]}`, `{"name":"x","at":"yesterday"}`, `{"name":"x","nested":{"wrong":1}}`,
		`{"name":"x","skip":"y"}`, `{"name":"x","inner":{}}`, `nul`, `{"name":"x"`, `"x"`, "{\"name\":\"x\"}x",
	} {
		_, err := p.FromJSON([]byte(body))
		var pe *ParamError
		if !kind.Is(err, kind.Invalid) || !errors.As(err, &pe) || len(pe.Problems) == 0 {
			t.Errorf("%s: %v", body, err)
		}
	}
	for _, query := range []string{"", "name=x&name=y", "name=x&open=perhaps", "name=x&share=NaN", "name=x&wait=1", "name=x&what=1"} {
		q, err := url.ParseQuery(query)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.FromValues(q); !kind.Is(err, kind.Invalid) {
			t.Errorf("%s: %v", query, err)
		}
	}
}

// FuzzParams shows that no query and no body breaks the reader, that it keeps
// its own rules, and that what it took from a query it takes as JSON too.
func FuzzParams(f *testing.F) {
	f.Add("name=x&size=3&colors=red&colors=green", `{"name":"x","wait":"1s"}`)
	f.Add("name=%00&any=[]", `{"name":"x","nested":{"word":"y"}}`)
	f.Add("raw=x&name=y&maybe=1", `{"name":"x","name":"y"}`)
	f.Fuzz(func(t *testing.T, query, body string) {
		p := allParams(t)
		if in, err := p.FromJSON([]byte(body)); err == nil {
			rules(t, in)
		} else if !kind.Is(err, kind.Invalid) {
			t.Errorf("%q: %v", body, err)
		}
		q, err := url.ParseQuery(query)
		if err != nil {
			return
		}
		in, err := p.FromValues(q)
		if err != nil {
			return
		}
		rules(t, in)
		b, err := json.Marshal(p.Pick(in, q))
		if err != nil {
			return // a time far outside, an infinite number
		}
		again, err := p.FromJSON(b)
		if err != nil {
			t.Errorf("%s: %v", b, err)
			return
		}
		if x, y := mustMarshal(in), mustMarshal(again); x != y {
			t.Errorf("%s became %s", x, y)
		}
	})
}

func mustMarshal(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func rules(t *testing.T, in any) {
	v, ok := in.(allIn)
	if !ok || v.Name == "" || v.Color != "" && v.Color != "red" && v.Color != "green" {
		t.Errorf("taken: %+v", in)
	}
	if strings.Contains(mustMarshal(Redacted(in)), "hush-hush") && v.Hidden == "hush-hush" && v.Word != v.Hidden && v.Name != v.Hidden {
		t.Errorf("secret kept: %+v", in)
	}
}

func TestRedacted(t *testing.T) {
	got := mustMarshal(Redacted(allIn{Name: strings.Repeat("x", 1000), Nested: &inner{"w", "hush"}, inner: inner{Hidden: "hush"},
		Raw: []byte("hush"), Any: map[string]int{"hush": 1}, At: time.Unix(0, 0).UTC()}))
	if strings.Contains(got, "hush") || len(got) > 900 || !strings.Contains(got, `"nested":{"hidden":"[secret]","word":"w"}`) ||
		!strings.Contains(got, `"at":"1970-01-01T00:00:00Z"`) {
		t.Errorf("%s", got)
	}
}

func TestCheckFindsMistakes(t *testing.T) {
	run := func(context.Context, None) (None, error) { return None{}, nil }
	good := New(Command{Noun: "a", Verb: "b", Short: "c"}, run)
	if err := Check([]Command{good}); err != nil {
		t.Error(err)
	}
	bad := func(want string, table ...Command) {
		t.Helper()
		if err := Check(table); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	of := func(in any) Command {
		c := good
		c.In = reflect.TypeOf(in)
		return c
	}
	bad("there twice", good, good)
	bad("small letters", New(Command{Noun: "A", Verb: "b", Short: "c"}, run))
	bad("no Short", New(Command{Noun: "a", Verb: "b"}, run))
	bad("dangerous", New(Command{Noun: "a", Verb: "b", Short: "c", Changes: true, Dangerous: true}, run))
	bad("no json tag", of(struct{ X int }{}))
	bad("want a struct", of(1))
	bad("argument 1 is missing", of(struct {
		X int `json:"x" arg:"2"`
	}{}))
	bad("address of a GET", of(struct {
		X string `json:"x" secret:"true"`
	}{}))
	bad("default", of(struct {
		X int `json:"x" default:"many"`
	}{}))
	bad("default", of(struct {
		X string `json:"x" default:"c" enum:"a,b"`
	}{}))
	bad("after an optional", of(struct {
		X string `json:"x" arg:"1"`
		Y string `json:"y" arg:"2" required:"true"`
	}{}))
	bad("not the last", of(struct {
		X []string `json:"x" arg:"1"`
		Y string   `json:"y" arg:"2"`
	}{}))
	bad("scope", of(struct {
		X string `json:"x" scope:"planet"`
	}{}))
}

// TestDry: dry_run and what has the tag change nothing where they are true.
func TestDry(t *testing.T) {
	p, err := ParamsOf(reflect.TypeFor[struct {
		DryRun bool `json:"dry_run"`
		Show   bool `json:"show" dry:"true"`
		Other  bool `json:"other"`
	}]())
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"dry_run": true, "show": true, "other": false} {
		if f, ok := p.Lookup(name); !ok || f.Dry != want {
			t.Errorf("%s: %t, want %t", name, f.Dry, want)
		}
	}
}
