package rspamd

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// scan asks a server that answers with h.
func scan(t *testing.T, ctx context.Context, timeout time.Duration, m scrub.Mail, h http.HandlerFunc) (scrub.Finding, error) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	c, err := New(Config{URL: srv.URL, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.Scan(ctx, m)
}

func says(body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		io.WriteString(w, body)
	}
}

func TestAnswers(t *testing.T) {
	for body, want := range map[string]scrub.Finding{
		`{"action":"no action","score":-1.5,"required_score":15,"symbols":{"B":{"score":1},"A\n":{}},"messages":{},"milter":{}}`: {Score: -1.5, Required: 15, Symbols: []string{"A", "B"}},
		`{"action":"no action","symbols":{},"messages":[],"milter":[]}`:                                                          {},
		`{"action":"greylist","score":5}`:                                               {Score: 5},
		`{"action":"add header","score":7,"messages":{"smtp_message":"x"}}`:             {Score: 7, Spam: true, Text: "x"},
		`{"action":"rewrite subject","score":7}`:                                        {Score: 7, Spam: true},
		`{"action":"soft reject","messages":{"smtp_message":"Try again\r\n250 later"}}`: {Action: mail.ActionDefer, Text: "Try again 250 later"},
		`{"action":"reject","messages":{"smtp_message":7}}`:                             {Action: mail.ActionRefuse, Spam: true},
		`{"action":"reject","milter":{"reject":"quarantine"}}`:                          {Action: mail.ActionQuarantine, Spam: true},
		`{"action":"reject","milter":{"reject":"discard"}}`:                             {Action: mail.ActionDiscard, Spam: true},
		`{"action":"add header","milter":{"reject":"discard"}}`:                         {Spam: true},
		`{"action":"quarantine"}`:                                                       {Action: mail.ActionQuarantine, Spam: true},
		`{"action":"discard"}`:                                                          {Action: mail.ActionDiscard, Spam: true},
		// What rspamd 3.4 says of GTUBE.
		`{"is_skipped":true,"score":15.0,"required_score":15.0,"action":"reject","symbols":{"GTUBE":{"name":"GTUBE","score":0.0}},"messages":{"smtp_message":"Gtube pattern"}}`: {Action: mail.ActionRefuse, Spam: true, Score: 15, Required: 15, Symbols: []string{"GTUBE"}, Text: "Gtube pattern"},
		`{"action":"no action","is_skipped":true}`: {Partial: true},
		`{"action":"no action","milter":{"add_headers":{"X-Spam":{"value":"a\r\n b","order":1},"X-Bar":"+++","X-List":["1",{"value":"2","order":-7}],"Bad Name":"x","X-Bad":7,"":"x"},"remove_headers":{"X-Old":0,"X-Two":[1,2],"X-Bad":"x"}}}`: {
			Add:    []scrub.HeaderEdit{{Name: "X-Bar", Value: "+++", Order: -1}, {Name: "X-List", Value: "1", Order: -1}, {Name: "X-List", Value: "2", Order: -1}, {Name: "X-Spam", Value: "a b", Order: 1}},
			Remove: []scrub.HeaderEdit{{Name: "X-Old"}, {Name: "X-Two", Order: 1}, {Name: "X-Two", Order: 2}},
		},
	} {
		want.Scanner = "rspamd"
		got, err := scan(t, t.Context(), time.Minute, scrub.Mail{}, says(body))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s:\n got %+v, %v\nwant %+v", body, got, err, want)
		}
	}
}

// TestFaults: nothing but a whole and known answer is a finding.
func TestFaults(t *testing.T) {
	status := func(code int, body string) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(code)
			io.WriteString(w, body)
		}
	}
	const good = `{"action":"no action"}`
	for name, c := range map[string]struct {
		h    http.HandlerFunc
		want kind.Kind
	}{
		"no action in it": {says(`{"score":1}`), kind.Internal},
		"unknown action":  {says(`{"action":"No Action"}`), kind.Internal},
		"error in it":     {says(`{"error":"parse error"}`), kind.Internal},
		"empty":           {says(``), kind.Internal},
		"null":            {says(`null`), kind.Internal},
		"no JSON":         {says(`pong`), kind.Internal},
		"cut JSON":        {says(good[:len(good)-1]), kind.Internal},
		"wrong type":      {says(`{"action":["no action"]}`), kind.Internal},
		"bad milter part": {says(`{"action":"no action","milter":{"reject":1}}`), kind.Internal},
		"too long":        {says(good + strings.Repeat(" ", maxAnswer)), kind.Internal},
		"server error":    {status(500, good), kind.Busy},
		"forbidden":       {status(403, good), kind.Busy},
		"created":         {status(201, good), kind.Busy},
		"redirect":        {status(307, good), kind.Busy},
		"promised more": {func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, good)
		}, kind.Busy},
		"connection dropped": {func(w http.ResponseWriter, r *http.Request) { panic(http.ErrAbortHandler) }, kind.Busy},
	} {
		got, err := scan(t, t.Context(), time.Minute, scrub.Mail{}, c.h)
		if !kind.Is(err, c.want) || !reflect.DeepEqual(got, scrub.Finding{}) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	c, err := New(Config{URL: "http://" + l.Addr().String(), Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Scan(t.Context(), scrub.Mail{}); !kind.Is(err, kind.Busy) {
		t.Errorf("nobody listens: %v", err)
	}
	for _, cfg := range []Config{{}, {URL: "127.0.0.1:11333", Timeout: 1}, {URL: "file:///x", Timeout: 1}, {URL: "http://x"}, {URL: "http://x/?a=b", Timeout: 1}} {
		if _, err := New(cfg); !kind.Is(err, kind.Invalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// TestHangs: a server that stops, before or within its answer, costs the timeout.
func TestHangs(t *testing.T) {
	for name, begin := range map[string]string{"before": "", "within": `{"action":`} {
		h := func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if begin != "" {
				io.WriteString(w, begin)
				w.(http.Flusher).Flush()
			}
			<-r.Context().Done()
		}
		if _, err := scan(t, t.Context(), 50*time.Millisecond, scrub.Mail{}, h); !kind.Is(err, kind.Busy) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := scan(t, ctx, time.Minute, scrub.Mail{}, h); !kind.Is(err, kind.Busy) {
			t.Errorf("%s, caller gone: %v", name, err)
		}
	}
}

func TestRequest(t *testing.T) {
	m := scrub.Mail{
		Peer: mail.Peer{Remote: netip.MustParseAddr("::ffff:192.0.2.1"), Reverse: "mx.example.com", Helo: "evil\r\nPass: none\x00", Account: "joe",
			TLS: &tls.ConnectionState{Version: tls.VersionTLS13, CipherSuite: tls.TLS_AES_128_GCM_SHA256}},
		Envelope: mail.Envelope{From: "gr\u00fcn\xff@example.com"},
		Body:     []byte("Subject: x\r\n\r\n.\r\nbody\x00\r\n"),
	}
	for i := range 2 * maxRecipients {
		m.Envelope.Recipients = append(m.Envelope.Recipients, mail.EnvelopeRecipient{Address: fmt.Sprintf("r%d@here.example", i)})
	}
	check := func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || string(body) != string(m.Body) || r.Method != "POST" || r.URL.Path != "/checkv2" {
			t.Errorf("%s %s %q %v", r.Method, r.URL, body, err)
		}
		for name, want := range map[string]string{"IP": "192.0.2.1", "Helo": "evilPass: none", "Hostname": "mx.example.com", "User": "joe",
			"From": "gr\u00fcn@example.com", "Queue-Id": m.Trace.String(), "TLS-Version": "TLS 1.3", "TLS-Cipher": "TLS_AES_128_GCM_SHA256", "Pass": "all", "Flags": "milter"} {
			if got := r.Header.Values(name); len(got) != 1 || got[0] != want {
				t.Errorf("%s: %q, want %q", name, got, want)
			}
		}
		if got := r.Header.Values("Rcpt"); len(got) != maxRecipients || got[1] != "r1@here.example" {
			t.Errorf("Rcpt: %q", got)
		}
		io.WriteString(w, `{"action":"no action"}`)
	}
	if _, err := scan(t, t.Context(), time.Minute, m, check); err != nil {
		t.Error(err)
	}
	null := func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Values("From"); len(got) != 1 || got[0] != "<>" || r.Header.Values("User") != nil || r.Header.Values("IP") != nil {
			t.Errorf("%v", r.Header)
		}
		io.WriteString(w, `{"action":"no action"}`)
	}
	if _, err := scan(t, t.Context(), time.Minute, scrub.Mail{Envelope: mail.Envelope{}}, null); err != nil {
		t.Error(err)
	}
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"action":"reject","score":1e3,"symbols":{"A":{}},"messages":{"smtp_message":"x"},"milter":{"reject":"discard","add_headers":{"X":[{"value":"a","order":1}]},"remove_headers":{"Y":0}}}`))
	f.Add([]byte(`{"action":"no action","milter":[]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := read(body)
		if err != nil {
			if !reflect.DeepEqual(got, scrub.Finding{}) {
				t.Fatalf("finding beside an error: %+v", got)
			}
			return
		}
		if len(got.Add) > maxEdits || len(got.Remove) > maxEdits || len(got.Symbols) > maxSymbols || strings.ContainsAny(got.Text, "\r\n\x00") {
			t.Fatalf("%+v", got)
		}
		for _, e := range append(got.Add, got.Remove...) {
			if e.Name == "" || strings.ContainsAny(e.Name+e.Value, "\r\n\x00") || strings.ContainsAny(e.Name, ": ") {
				t.Fatalf("%+v", e)
			}
		}
	})
}
