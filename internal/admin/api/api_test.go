package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/admin/admintest"
	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/admin/audit"
	"github.com/postern-mail/postern/internal/admin/wire"
	"github.com/postern-mail/postern/internal/base/event"
)

func TestReadAndChange(t *testing.T) {
	w := newWorld(t, nil)
	if a := w.want(w.do("root", "GET", "/api/v1/shelf/list", ""), 200); strings.TrimSpace(string(a.body)) != "[]" {
		t.Errorf("an empty list is %s", a.body)
	}
	w.want(w.do("root", "POST", "/api/v1/shelf/create", `{"name":"Novels","tag":["a","b"],"age":"1h30m"}`), 200)
	var shelves []admintest.Shelf
	a := w.want(w.do("root", "GET", "/api/v1/shelf/list?tag=b", ""), 200)
	if err := json.Unmarshal(a.body, &shelves); err != nil || len(shelves) != 1 {
		t.Fatalf("list: %s, %v", a.body, err)
	}
	if s := shelves[0]; s.Size != 10 || s.Age != 90*time.Minute || !slices.Equal(s.Tags, []string{"a", "b"}) {
		t.Errorf("shelf %+v: default, duration or list lost", s)
	}
	if a.header.Get("Trace-Id") == "" || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("headers %v", a.header)
	}
}

func TestBadParameters(t *testing.T) {
	w := newWorld(t, nil)
	for _, c := range []struct {
		body, field, message string
	}{
		{`{}`, "name", "required"},
		{`{"name":""}`, "name", "required"},
		{`{"name":null}`, "name", "required"},
		{`{"name":"x","shade":1}`, "shade", "there is no such parameter"},
		{`{"NAME":"x"}`, "NAME", "there is no such parameter"},
		{`{"name":"x","name":"y"}`, "name", "given twice"},
		{`{"name":"x","color":"pink"}`, "color", `"pink" is not one of red, green, blue`},
		{`{"name":"x","size":"many"}`, "size", "string does not fit, want int64"},
		{`{"name":"x","age":"old"}`, "age", `"old" is no duration (as in 90s or 1h30m)`},
		{`[1]`, "", "body: want a JSON object"},
		{`{"name":"x"} {}`, "", "body: more after the object"},
	} {
		a := w.want(w.do("root", "POST", "/api/v1/shelf/create", c.body), 422)
		if len(a.problem.Errors) == 0 || a.problem.Errors[0].Field != c.field || a.problem.Errors[0].Message != c.message {
			t.Errorf("%s: %+v, want %s: %s", c.body, a.problem.Errors, c.field, c.message)
		}
	}
	w.want(w.do("root", "GET", "/api/v1/shelf/list?shade=1", ""), 422)
	w.want(w.do("root", "GET", "/api/v1/shelf/list?tag=a&tag=b", ""), 422)
	w.want(w.do("root", "POST", "/api/v1/shelf/create?name=x", "{}"), 422)
	w.want(w.do("root", "POST", "/api/v1/shelf/create", "name=x", func(r *http.Request) {
		r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}), 415)
	w.want(w.do("root", "POST", "/api/v1/shelf/create", `{"name":"`+strings.Repeat("x", 1<<20)+`"}`), 413)
	if a := w.want(w.do("root", "DELETE", "/api/v1/shelf/list", ""), 405); a.header.Get("Allow") != "GET" {
		t.Errorf("Allow is %q", a.header.Get("Allow"))
	}
	w.want(w.do("root", "GET", "/api/v1/shelf/burn", ""), 404)
}

func TestErrorsByKind(t *testing.T) {
	w := newWorld(t, nil)
	for k, status := range map[string]int{
		"internal": 500, "not found": 404, "exists": 409, "denied": 403, "invalid": 422, "busy": 503,
		"elsewhere": 503, "corrupt": 500, "full": 507, "conflict": 409, "panic": 500,
	} {
		a := w.want(w.do("root", "POST", "/api/v1/shelf/fail", `{"kind":"`+k+`"}`), status)
		if a.problem.TraceID != a.header.Get("Trace-Id") {
			t.Errorf("%s: trace %q, header %q", k, a.problem.TraceID, a.header.Get("Trace-Id"))
		}
		if (status == 503) != (a.header.Get("Retry-After") != "") {
			t.Errorf("%s: Retry-After %q", k, a.header.Get("Retry-After"))
		}
		if status == 500 && (strings.Contains(string(a.body), "inner detail") || strings.Contains(string(a.body), "fell down") ||
			!strings.Contains(a.problem.Hint, a.problem.TraceID)) {
			t.Errorf("%s: %s", k, a.body)
		}
	}
	if !strings.Contains(w.log.String(), "inner detail nobody should see") || !strings.Contains(w.log.String(), "the shelf fell down") {
		t.Error("the log does not have what the answer left out")
	}
	a := w.want(w.do("root", "GET", "/api/v1/shelf/show?name=x", ""), 404)
	if a.problem.Detail != "shelf x does not exist" || a.problem.Hint != "postern shelf list" {
		t.Errorf("problem %+v", a.problem)
	}
	if !slices.ContainsFunc(w.events.Recent(100), func(e event.Event) bool { return e.Code == api.EventPanic.Code }) {
		t.Error("no event of the panic")
	}
}

func TestStream(t *testing.T) {
	w := newWorld(t, nil)
	w.want(w.do("root", "POST", "/api/v1/shelf/create", `{"name":"A"}`), 200)
	a := w.want(w.do("root", "GET", "/api/v1/shelf/dust", ""), 200)
	if got := string(a.body); got != "{\"progress\":\"dusting A\"}\n{\"result\":\"clean\"}\n" || a.header.Get("Content-Type") != wire.NDJSON {
		t.Errorf("stream %q of %s", got, a.header.Get("Content-Type"))
	}
	a = w.want(w.do("root", "POST", "/api/v1/shelf/fail", `{"kind":"busy","after":2}`), 200)
	lines := bytes.Split(bytes.TrimSpace(a.body), []byte("\n"))
	var last wire.Line
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil || len(lines) != 3 || last.Error == nil || last.Error.Status != 503 {
		t.Errorf("stream %s: %v", a.body, err)
	}
}

func TestAuditBeforeRun(t *testing.T) {
	w := newWorld(t, nil)
	var before []audit.Record
	w.library.Before = func(context.Context, string) { before = w.records() }
	w.want(w.do("org-admin@red", "POST", "/api/v1/shelf/lock", `{"address":"x@red.test","code":"1234"}`), 401) // no such login
	if len(before) != 0 {
		t.Fatal("ran")
	}
	w.want(w.do("organization-admin@red", "POST", "/api/v1/shelf/lock", `{"address":"x@red.test","code":"hush-1234"}`), 200)
	if len(before) != 1 || before[0].Outcome != audit.Started || before[0].Command != "shelf lock" || before[0].Caller != "organization-admin@red" ||
		before[0].Organization != "red" || before[0].Server != "MBX1" || before[0].TraceID == "" {
		t.Fatalf("while it ran the log had %+v", before)
	}
	w.want(w.do("root", "POST", "/api/v1/shelf/fail", `{"kind":"panic"}`), 500)
	all := w.records()
	if len(all) != 2 || all[0].Outcome != audit.Done || all[1].Outcome != audit.Failed {
		t.Fatalf("afterwards the log has %+v", all)
	}
	file, err := os.ReadFile(filepath.Join(w.dir, "audit.jsonl"))
	if err != nil || bytes.Count(file, []byte("\n")) != 4 {
		t.Errorf("file %s: %v", file, err)
	}
	for _, text := range []string{string(file), w.log.String(), string(mustJSON(t, all))} {
		if strings.Contains(text, "hush-1234") || strings.Contains(text, "open sesame") {
			t.Errorf("a secret is in %s", text)
		}
	}
	// Readers see their own organization; nothing runs when the record cannot be written.
	a := w.want(w.do("organization-admin@blue", "GET", "/api/v1/audit/list", ""), 200)
	if strings.TrimSpace(string(a.body)) != "[]" {
		t.Errorf("blue sees %s", a.body)
	}
	ran := false
	w.library.Before = func(context.Context, string) { ran = true }
	w.state.LoseQuorum(true)
	w.want(w.do("root", "POST", "/api/v1/shelf/create", `{"name":"A"}`), 503)
	if ran {
		t.Error("a change ran without a record")
	}
	w.want(w.do("root", "GET", "/api/v1/shelf/list", ""), 200)
}

func (w *world) records() []audit.Record {
	var out []audit.Record
	for _, b := range w.state.Prefix(audit.Prefix) {
		var r audit.Record
		if err := json.Unmarshal(b, &r); err != nil {
			w.t.Error(err)
		}
		out = append(out, r)
	}
	return out
}

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestSessions(t *testing.T) {
	w := newWorld(t, func(c *api.Config, _ *api.Deps) { c.SessionLife = time.Hour })
	login := func() (wire.Session, func(*http.Request)) {
		var s wire.Session
		a := w.want(w.do("", "POST", "/api/v1/session/login", `{"login":"root","password":"open sesame"}`), 200)
		if err := json.Unmarshal(a.body, &s); err != nil || s.Token == "" {
			t.Fatalf("%s: %v", a.body, err)
		}
		return s, func(r *http.Request) { r.Header.Set("Authorization", "Bearer "+s.Token) }
	}
	s, with := login()
	w.want(w.do("", "GET", "/api/v1/shelf/list", "", with), 200)
	for k, v := range w.state.Prefix("") {
		if strings.Contains(k+string(v), s.Token) {
			t.Errorf("the token itself is in %s", k)
		}
	}
	w.want(w.do("", "POST", "/api/v1/session/logout", "", with), 200)
	w.want(w.do("", "GET", "/api/v1/shelf/list", "", with), 401)
	_, with = login()
	w.accounts.Set(api.Account{Login: "root", ServerAdmin: true, Stamp: "new password"}, "other")
	w.want(w.do("", "GET", "/api/v1/shelf/list", "", with), 401)
	w.accounts.Set(api.Account{Login: "root", ServerAdmin: true}, "open sesame")
	w.want(w.do("", "GET", "/api/v1/shelf/list", "", with), 200)
	w.accounts.Remove("root")
	w.want(w.do("", "GET", "/api/v1/shelf/list", "", with), 401)
	w.accounts.Set(api.Account{Login: "root", ServerAdmin: true}, "open sesame")
	for range 40 { // old ones are forgotten
		login()
	}
	n := 0
	for range w.state.Prefix("sessions/") {
		n++
	}
	if n > 32 {
		t.Errorf("%d sessions of one login", n)
	}
}

func TestWrongPasswordsAreLimited(t *testing.T) {
	w := newWorld(t, nil)
	wrong := func(r *http.Request) { r.SetBasicAuth("root", "guess") }
	limited := 0
	for range 30 {
		a := w.do("", "GET", "/api/v1/shelf/list", "", wrong)
		switch a.status {
		case 401:
			if len(a.header.Values("WWW-Authenticate")) != 2 {
				t.Errorf("challenge %q", a.header.Values("WWW-Authenticate"))
			}
		case 429:
			limited++
			if a.header.Get("Retry-After") == "" {
				t.Error("no Retry-After")
			}
		default:
			t.Fatalf("status %d", a.status)
		}
	}
	if limited < 15 || w.accounts.Tries() > 15 {
		t.Errorf("%d of 30 limited, %d passwords looked at", limited, w.accounts.Tries())
	}
	blocked := 0
	for _, e := range w.events.Recent(100) {
		if e.Code == api.EventLoginsBlocked.Code {
			blocked++
		}
	}
	if blocked != 1 {
		t.Errorf("%d events", blocked)
	}
	w.want(w.atSocket("GET", "/api/v1/shelf/list", ""), 200)
}

func TestOtherSitesAreRefused(t *testing.T) {
	w := newWorld(t, nil)
	w.want(w.do("root", "POST", "/api/v1/shelf/create", `{"name":"A"}`, func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
	}), 403)
	w.want(w.do("root", "POST", "/api/v1/shelf/create", `{"name":"A"}`, func(r *http.Request) {
		r.Header.Set("Origin", "https://evil.example")
	}), 403)
}

func TestSocket(t *testing.T) {
	w := newWorld(t, nil)
	w.want(w.atSocket("POST", "/api/v1/shelf/create", `{"name":"A"}`), 200)
	if r := w.records(); len(r) != 1 || !strings.HasPrefix(r[0].Caller, "local:") {
		t.Errorf("audit %+v", r)
	}
	fi, err := os.Stat(filepath.Join(w.dir, "run", "admin.sock"))
	if err != nil || fi.Mode().Perm() != 0o600 {
		t.Errorf("socket %v, %v", fi.Mode(), err)
	}
	w.want(w.atSocket("GET", "/debug/pprof/cmdline", ""), 200)
	w.want(w.atSocket("GET", "/healthz", ""), 200)
	for _, path := range []string{"/debug/pprof/cmdline", "/debug/pprof/", "/metrics"} {
		w.want(w.do("root", "GET", path, ""), 404)
	}
	w.want(w.do("", "GET", "/api/v1/shelf/list", ""), 401)
}

func TestChangeOutlivesItsClient(t *testing.T) {
	w := newWorld(t, nil)
	reached, leave := make(chan struct{}), make(chan struct{})
	w.library.Before = func(context.Context, string) { close(reached); <-leave }
	c := &http.Client{Transport: w.tcp.Transport.(*http.Transport).Clone()}
	req, err := http.NewRequest("POST", "https://"+w.addr+"/api/v1/shelf/create", strings.NewReader(`{"name":"A"}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", wire.JSON)
	req.SetBasicAuth("root", "open sesame")
	ctx, cancel := contextWithCancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if res, err := c.Do(req.WithContext(ctx)); err == nil {
			_ = res.Body.Close()
		}
	}()
	<-reached
	cancel()
	<-ended
	c.CloseIdleConnections()
	close(leave)
	w.await("outcome", func() bool { r := w.records(); return len(r) == 1 && r[0].Outcome == audit.Done })
}

func TestDescription(t *testing.T) {
	w := newWorld(t, nil)
	a := w.want(w.do("", "GET", "/api/v1/openapi.json", ""), 200)
	var doc struct {
		OpenAPI string `json:"openapi"`
		Paths   map[string]map[string]struct {
			RequestBody struct {
				Content map[string]struct {
					Schema struct {
						Required   []string `json:"required"`
						Properties map[string]struct {
							Enum    []string `json:"enum"`
							Default any      `json:"default"`
							Format  string   `json:"format"`
						} `json:"properties"`
						AdditionalProperties bool `json:"additionalProperties"`
					} `json:"schema"`
				} `json:"content"`
			} `json:"requestBody"`
		} `json:"paths"`
	}
	if err := json.Unmarshal(a.body, &doc); err != nil || doc.OpenAPI != "3.1.0" {
		t.Fatalf("%v: %s", err, a.body)
	}
	for _, c := range append(admintest.Commands(nil), api.Specs()...) {
		if _, ok := doc.Paths[wire.Path(c)][strings.ToLower(wire.Method(c))]; !ok {
			t.Errorf("%s is not described", c.Name())
		}
	}
	in := doc.Paths["/api/v1/shelf/create"]["post"].RequestBody.Content[wire.JSON].Schema
	if !slices.Equal(in.Required, []string{"name"}) || len(in.Properties["color"].Enum) != 3 || in.Properties["size"].Default != float64(10) {
		t.Errorf("create is described as %+v", in)
	}
	if f := doc.Paths["/api/v1/shelf/lock"]["post"].RequestBody.Content[wire.JSON].Schema.Properties["code"].Format; f != "password" {
		t.Errorf("a secret has the format %q", f)
	}
}

func TestMetricsHaveHelp(t *testing.T) {
	w := newWorld(t, nil)
	w.want(w.do("root", "GET", "/api/v1/shelf/list", ""), 200)
	found := gather(t, w.reg)
	if !slices.Contains(found, "postern_admin_requests_total") || len(found) < 5 {
		t.Errorf("metrics %v", found)
	}
}

func gather(t *testing.T, g prometheus.Gatherer) []string {
	t.Helper()
	fams, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, f := range fams {
		if f.GetHelp() == "" {
			t.Errorf("%s has no help", f.GetName())
		}
		out = append(out, f.GetName())
	}
	return out
}

// TestLongCommandOutlivesReadTimeout: the time limit for reading a request is
// over long before the command is.
func TestLongCommandOutlivesReadTimeout(t *testing.T) {
	w := newWorld(t, func(c *api.Config, _ *api.Deps) { c.ReadTimeout = 50 * time.Millisecond })
	w.library.Before = func(ctx context.Context, _ string) {
		select {
		case <-ctx.Done():
		case <-time.After(200 * time.Millisecond):
		}
	}
	for name, send := range map[string]func() answer{
		"HTTP/2 stream": func() answer { return w.do("root", "GET", "/api/v1/shelf/dust", "") },
		"HTTP/1 stream": func() answer { return w.atSocket("GET", "/api/v1/shelf/dust", "") },
		"HTTP/2 change": func() answer { return w.do("root", "POST", "/api/v1/shelf/key", `{"name":"a"}`) },
		"HTTP/1 change": func() answer { return w.atSocket("POST", "/api/v1/shelf/key", `{"name":"a"}`) },
	} {
		if a := send(); a.status != 200 {
			t.Errorf("%s: %d %s", name, a.status, a.body)
		}
	}
}

// TestEndOfServerEndsCommands: a command that runs when the server ends sees
// its context end, and Run waits for it.
func TestEndOfServerEndsCommands(t *testing.T) {
	gone := make(chan struct{})
	reached := make(chan struct{})
	t.Cleanup(func() { // after the world's own: Run is over
		select {
		case <-gone:
		default:
			t.Error("Run ended before its command")
		}
	})
	w := newWorld(t, func(c *api.Config, _ *api.Deps) { c.Drain = 10 * time.Millisecond })
	w.library.Before = func(ctx context.Context, _ string) {
		close(reached)
		<-ctx.Done()
		close(gone)
	}
	asked := make(chan struct{})
	go func() {
		defer close(asked)
		req, err := http.NewRequest("POST", "http://local/api/v1/shelf/key", strings.NewReader(`{"name":"a"}`))
		if err != nil {
			return
		}
		req.Header.Set("Content-Type", wire.JSON)
		if res, err := w.local.Do(req); err == nil {
			_ = res.Body.Close()
		}
	}()
	t.Cleanup(func() { <-reached })
	<-reached
	w.stop()
	<-asked
}
