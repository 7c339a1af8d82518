package report

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
)

func someSessions(w *world) {
	good := Session{Domain: "Example.COM", Policy: "sts", Result: "success", Published: []string{"version: STSv1", "mode: enforce", "mx: mx.example.com"},
		Hosts: []string{"mx.example.com"}, Host: "mx.example.com", Address: netip.MustParseAddr("192.0.2.1")}
	bad := good
	bad.Result, bad.Source = "certificate-expired", netip.MustParseAddr("198.51.100.1")
	w.r.NoteTLS(good)
	w.r.NoteTLS(good)
	w.r.NoteTLS(bad)
	w.r.NoteTLS(Session{Domain: "example.com", Policy: "sts", Result: "sts-policy-fetch-error"})
	w.r.NoteTLS(Session{Domain: "example.com", Policy: "of another kind", Result: "never heard of"})
}

// TestTLS is a day's report from the sessions to the bytes.
func TestTLS(t *testing.T) {
	w := newWorld(t)
	w.zone.txt["_smtp._tls.example.com"] = []string{"v=TLSRPTv1; rua=mailto:tls@example.net"}
	someSessions(w)
	s, ok := w.reported()["tls@example.net"]
	if !ok {
		t.Fatal("nothing is sent")
	}
	h, file, doc := opened(t, s.Body)
	id := w.r.identity("tls", dayOf(noon), "example.com")
	if want := "mx1.example.org!example.com!1795132800!1795219199!" + id + ".json.gz"; file != want {
		t.Errorf("file %s, want %s", file, want)
	}
	for name, want := range map[string]string{"TLS-Report-Domain": "example.com", "TLS-Report-Submitter": "mx1.example.org", "TLS-Required": "No",
		"Subject": "Report Domain: example.com Submitter: mx1.example.org Report-ID: <" + id + ">"} {
		if got := h.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := h.Get("Content-Type"); !strings.HasPrefix(got, "multipart/report; report-type=tlsrpt;") {
		t.Errorf("type %q", got)
	}
	want := strings.ReplaceAll(`{
 "organization-name": "mx1.example.org",
 "date-range": {
  "start-datetime": "2026-11-20T00:00:00Z",
  "end-datetime": "2026-11-20T23:59:59Z"
 },
 "contact-info": "postmaster@mx1.example.org",
 "report-id": "ID",
 "policies": [
  {
   "policy": {
    "policy-type": "no-policy-found",
    "policy-domain": "example.com"
   },
   "summary": {
    "total-successful-session-count": 0,
    "total-failure-session-count": 1
   },
   "failure-details": [
    {
     "result-type": "validation-failure",
     "failed-session-count": 1
    }
   ]
  },
  {
   "policy": {
    "policy-type": "sts",
    "policy-string": [
     "version: STSv1",
     "mode: enforce",
     "mx: mx.example.com"
    ],
    "policy-domain": "example.com",
    "mx-host": [
     "mx.example.com"
    ]
   },
   "summary": {
    "total-successful-session-count": 2,
    "total-failure-session-count": 2
   },
   "failure-details": [
    {
     "result-type": "certificate-expired",
     "sending-mta-ip": "198.51.100.1",
     "receiving-mx-hostname": "mx.example.com",
     "receiving-ip": "192.0.2.1",
     "failed-session-count": 1
    },
    {
     "result-type": "sts-policy-fetch-error",
     "failed-session-count": 1
    }
   ]
  }
 ]
}
`, "ID", id)
	if string(doc) != want {
		t.Errorf("got\n%s\nwant\n%s", doc, want)
	}
}

// TestPost sends a report by https, to public addresses only and without
// following to elsewhere.
func TestPost(t *testing.T) {
	var got []byte
	code := http.StatusCreated
	srv := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/v1" || r.Header.Get("Content-Type") != "application/tlsrpt+gzip" {
			t.Errorf("%s %s %v", r.Method, r.URL, r.Header)
		}
		g, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		got, _ = io.ReadAll(g)
		rw.Header().Set("Location", "https://elsewhere.example/")
		rw.WriteHeader(code)
	}))
	defer srv.Close()
	w := newWorld(t)
	w.zone.txt["_smtp._tls.example.com"] = []string{"v=TLSRPTv1;rua=https://example.com/v1#x"}
	w.deps.Roots = x509.NewCertPool()
	w.deps.Roots.AddCert(srv.Certificate())
	dialed := ""
	w.deps.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		dialed = addr
		return (&net.Dialer{}).DialContext(ctx, network, srv.Listener.Addr().String())
	}
	w.r = New(w.deps)
	someSessions(w)
	day, c := w.r.today.day, w.r.today.tls["example.com"]
	w.zone.ips["example.com"] = "127.0.0.1"
	if _, err := w.r.sendTLS(t.Context(), day, "example.com", c); !kind.Is(err, kind.Busy) || dialed != "" {
		t.Errorf("a private address: %v, dialed %q", err, dialed)
	}
	w.zone.ips["example.com"] = "203.0.113.9"
	n, err := w.r.sendTLS(t.Context(), day, "example.com", c)
	if n != 1 || err != nil || dialed != "203.0.113.9:443" || !bytes.Contains(got, []byte(`"policy-domain": "example.com"`)) {
		t.Errorf("%d, %v, dialed %s, got %s", n, err, dialed, got)
	}
	code = http.StatusTemporaryRedirect
	if _, err := w.r.sendTLS(t.Context(), day, "example.com", c); !kind.Is(err, kind.Busy) || !strings.Contains(err.Error(), "307") {
		t.Errorf("led elsewhere: %v", err)
	}
}
