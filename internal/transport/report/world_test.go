package report

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/xml"
	"errors"
	"io"
	"log/slog"
	"mime"
	"mime/multipart"
	"net"
	netmail "net/mail"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/authn"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// zone answers from fixed records.
type zone struct {
	mu    sync.Mutex // guards all
	txt   map[string][]string
	ips   map[string]string
	fault map[string]bool
}

func (z *zone) LookupTXT(_ context.Context, name string) ([]string, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.fault[name] {
		return nil, &net.DNSError{Err: "timeout", Name: name, IsTemporary: true}
	}
	if all := z.txt[name]; len(all) > 0 {
		return slices.Clone(all), nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (z *zone) LookupIPAddr(_ context.Context, name string) ([]net.IPAddr, error) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if ip := z.ips[name]; ip != "" {
		return []net.IPAddr{{IP: net.ParseIP(ip)}}, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

func (z *zone) LookupMX(context.Context, string) ([]*net.MX, error) {
	return nil, errors.New("nobody asks")
}

func (z *zone) LookupAddr(context.Context, string) ([]string, error) {
	return nil, errors.New("nobody asks")
}

func (z *zone) Exists(context.Context, string) (bool, error) { return true, nil }

// world is a Reporter with a DNS, a disk and a queue.
type world struct {
	t    *testing.T
	zone *zone
	disk *fsx.Mem
	deps Deps
	r    *Reporter

	mu   sync.Mutex // guards all below
	now  time.Time
	full bool
	sent []mail.Submission
	off  bool // reports are not wanted
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

func newWorld(t *testing.T) *world {
	w := &world{t: t, now: noon, disk: fsx.NewMem(), zone: &zone{txt: map[string][]string{}, ips: map[string]string{}, fault: map[string]bool{}}}
	if err := w.disk.MkdirAll("q"); err != nil {
		t.Fatal(err)
	}
	w.deps = Deps{Resolver: w.zone, Submit: w.submit, Server: "MBX1", Hostname: "mx1.example.org", Version: "1.2", Dir: "q", FS: w.disk,
		Settings: w.settings, Now: w.clock, Log: slog.New(slog.DiscardHandler)}
	w.r = New(w.deps)
	return w
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) set(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = now
}

func (w *world) settings() settings.Group {
	w.mu.Lock()
	defer w.mu.Unlock()
	yes := !w.off
	return settings.Group{DMARCReports: &yes, TLSReports: &yes}
}

func (w *world) submit(_ context.Context, s mail.Submission) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.full {
		return kind.Errorf(kind.Full, "the queue is full")
	}
	w.sent = append(w.sent, s)
	return nil
}

// reported ends the day and sends what there is; it gives what was sent to
// whom.
func (w *world) reported() map[string]mail.Submission {
	w.t.Helper()
	w.set(dayOf(noon).Add(aDay + spread))
	w.r.rotate(w.clock())
	w.r.send(w.t.Context(), w.clock())
	out := map[string]mail.Submission{}
	for _, s := range w.sent {
		out[s.Envelope.Recipients[0].Address] = s
	}
	return out
}

// seen is a message from a domain, with what its record says.
func seen(domain, record string) Observation {
	rec, err := authn.ParseDMARC(record)
	if err != nil {
		panic(err)
	}
	return Observation{Time: noon, Remote: netip.MustParseAddr("192.0.2.7"), From: "bounce@Mail." + domain, Disposition: "none", Results: authn.Results{
		MailFrom: authn.SPF{Result: authn.Fail, Domain: "mail." + domain},
		DKIM: []authn.DKIM{{Result: authn.Fail, Domain: "other.example", Selector: "o"}, {Result: authn.Pass, Domain: "other.example", Selector: "s2"},
			{Result: authn.Pass, Domain: domain, Selector: "s1"}},
		DMARC: authn.DMARC{Result: authn.Pass, From: domain, Domain: domain, Record: rec, Published: rec.Policy, DKIMAligned: true}}}
}

// opened is what a message has: its header, the name of the attached file and
// what that holds unpacked.
func opened(t *testing.T, body []byte) (netmail.Header, string, []byte) {
	t.Helper()
	m, err := netmail.ReadMessage(bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	_, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil {
		t.Fatal(err)
	}
	mr := multipart.NewReader(m.Body, params["boundary"])
	text, err := mr.NextPart()
	if err != nil || !strings.HasPrefix(text.Header.Get("Content-Type"), "text/plain") {
		t.Fatalf("first part: %v, %v", text, err)
	}
	p, err := mr.NextPart()
	if err != nil {
		t.Fatal(err)
	}
	g, err := gzip.NewReader(base64.NewDecoder(base64.StdEncoding, p))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := io.ReadAll(g)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := mr.NextPart(); err != io.EOF {
		t.Errorf("after the attachment: %v", err)
	}
	return m.Header, p.FileName(), doc
}

func feedbackOf(t *testing.T, doc []byte) feedback {
	t.Helper()
	var f feedback
	if err := xml.Unmarshal(doc, &f); err != nil {
		t.Fatalf("%v in %s", err, doc)
	}
	return f
}
