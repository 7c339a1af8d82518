package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

type part struct {
	Name string `json:"name" col:"NAME"`
	N    *int   `json:"n" col:"N"`
}

type whole struct {
	Title string            `json:"title"`
	When  time.Time         `json:"when"`
	For   time.Duration     `json:"for"`
	Share float64           `json:"share"`
	Words map[string]string `json:"words"`
	Inner *part             `json:"inner"`
	Parts []part            `json:"parts"`
	Raw   []byte            `json:"raw"`
	Any   any               `json:"any"`
	Kind  kind.Kind         `json:"kind"`
}

func rendered(t *testing.T, typ reflect.Type, raw string) string {
	t.Helper()
	var out, errs bytes.Buffer
	p := &program{Options: Options{Stdout: &out, Stderr: &errs}}
	if err := p.render(&out, typ, json.RawMessage(raw)); err != nil {
		t.Fatal(err)
	}
	return out.String() + errs.String()
}

func TestRender(t *testing.T) {
	for _, c := range []struct {
		typ       reflect.Type
		raw, want string
	}{
		{reflect.TypeFor[[]part](), `[{"name":"a","n":1},{"name":"bcd"}]`, "NAME  N\na     1\nbcd\n"},
		{reflect.TypeFor[[]*part](), `[null,{"name":"a","n":0}]`, "NAME  N\n\na     0\n"},
		{reflect.TypeFor[[]part](), `[]`, "none\n"},
		{reflect.TypeFor[[]string](), `["a","b"]`, "a\nb\n"},
		{reflect.TypeFor[string](), `"clean"`, "clean\n"},
		{reflect.TypeFor[int](), `7`, "7\n"},
		{reflect.TypeFor[command.None](), `{}`, ""},
		{reflect.TypeFor[part](), `{"name":"x\u001b[2Jy\nz"}`, "Name:  x [2Jy z\n"},
		{reflect.TypeFor[whole](), `{"title":"T","for":1500000000,"share":0.5,"words":{"b":"2","a":"1"},"inner":{"name":"i","n":3},
			"parts":[{"name":"p"}],"raw":"YWI=","any":[1,"x"],"kind":1}`,
			"Title:  T\nFor:    1.5s\nShare:  0.5\nWords:  a=1 b=2\nRaw:    2 bytes\nAny:    1, x\nKind:   not found\n\nInner:\nName:  i\nN:     3\n\nParts:\nNAME  N\np\n"},
	} {
		if got := rendered(t, c.typ, c.raw); got != c.want {
			t.Errorf("%s %s:\n%q, want\n%q", c.typ, c.raw, got, c.want)
		}
	}
}

// FuzzRender shows that no answer breaks the tables, and that none can send
// controls to the terminal.
func FuzzRender(f *testing.F) {
	f.Add(`{"title":"x","parts":[{"name":"\u001b[31m"}],"any":{"a":[null]}}`)
	f.Add(`{"inner":null,"words":null,"when":"2026-01-02T03:04:05Z"}`)
	f.Fuzz(func(t *testing.T, raw string) {
		for _, typ := range []reflect.Type{reflect.TypeFor[whole](), reflect.TypeFor[[]whole](), reflect.TypeFor[any]()} {
			var out bytes.Buffer
			p := &program{Options: Options{Stdout: &out, Stderr: io.Discard}}
			if p.render(&out, typ, json.RawMessage(raw)) != nil {
				continue
			}
			if i := strings.IndexFunc(out.String(), func(r rune) bool { return r != '\n' && unicode.IsControl(r) }); i >= 0 {
				t.Errorf("%q has a control", out.String())
			}
			firstColumn(typ, json.RawMessage(raw))
		}
	})
}

// FuzzLines shows that no stream breaks the reader: it ends with a result or
// an error.
func FuzzLines(f *testing.F) {
	f.Add("{\"progress\":\"a\"}\n{}\n{\"result\":1}\n")
	f.Add("{\"error\":{\"status\":503}}\n")
	f.Add("{\"progress\":\"a\"}\n")
	f.Fuzz(func(t *testing.T, s string) {
		raw, err := readLines(context.Background(), strings.NewReader(s), func() {}, func(string) {})
		if (raw == nil) == (err == nil) {
			t.Errorf("%q: %s, %v", s, raw, err)
		}
	})
}

func TestStreamCutOff(t *testing.T) {
	_, err := readLines(context.Background(), strings.NewReader("{\"progress\":\"half\"}\n"), func() {}, func(string) {})
	if Code(err) != ExitBusy || !strings.Contains(explain(err), "\nhint: see how far it came") {
		t.Errorf("%d %s", Code(err), explain(err))
	}
}

type ownCode struct{ error }

func (ownCode) ExitCode() int { return 42 }

func TestCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, 0}, {errors.New("x"), 1}, {usage("", "x"), 2}, {kind.Errorf(kind.NotFound, "x"), 3}, {kind.Errorf(kind.Denied, "x"), 4},
		{kind.Errorf(kind.Busy, "x"), 5}, {kind.Errorf(kind.Conflict, "x"), 6}, {context.DeadlineExceeded, 5},
		{&wire.Problem{Status: 401}, 4}, {&wire.Problem{Status: 429}, 5}, {&wire.Problem{Status: 507}, 1}, {&wire.Problem{Status: 409}, 6},
		{fmt.Errorf("wrapped: %w", ownCode{errors.New("x")}), 42}, {kind.Errorf(kind.Corrupt, "x"), 1},
	} {
		if got := Code(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	if got := explain(fmt.Errorf("a: %w", kind.WithHint(errors.New("b"), "c"))); got != "a: b\nhint: c" {
		t.Errorf("%q", got)
	}
}

// FuzzLab shows that no lab.json breaks the client.
func FuzzLab(f *testing.F) {
	f.Add([]byte(`{"admin":{"url":"https://127.0.0.1:1"},"servers":[{"https":"127.0.0.1:2","dir":"x"}]}`))
	f.Add([]byte(`{"servers":[{}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "lab.json"), b, 0o600); err != nil {
			t.Fatal(err)
		}
		c := &client{}
		if err := c.useLab(dir); err == nil && len(c.endpoints) == 0 {
			t.Errorf("%s: no servers and no error", b)
		}
	})
}

func TestSecretsFromFiles(t *testing.T) {
	p := &program{Options: Options{Stdin: strings.NewReader("from input\r\nmore")}}
	if s, err := p.readSecret("-"); err != nil || s != "from input" {
		t.Errorf("%q, %v", s, err)
	}
	for name, content := range map[string]string{"empty": "", "blank": "\n", "long": strings.Repeat("x", 5000)} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if s, err := p.readSecret(file); err == nil {
			t.Errorf("%s: %q", name, s)
		}
	}
}
