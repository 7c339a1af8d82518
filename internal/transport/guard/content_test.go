package guard

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/authn"
	"github.com/postern-mail/postern/internal/transport/scrub"
	"github.com/postern-mail/postern/internal/transport/scrub/clamd"
	"github.com/postern-mail/postern/internal/transport/scrub/rspamd"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/sign"
)

const plain = "From: Ann <ann@example.test>\r\nTo: bob@target.test\r\nSubject: hello\r\nDate: Fri, 21 Nov 2025 10:00:00 +0000\r\nMessage-ID: <1@example.test>\r\n\r\nHello.\r\n"

func letter(from string) []byte {
	return []byte(strings.Replace(plain, "ann@example.test", from, 1))
}

// signer signs for domains and knows the records that say so.
type signer struct {
	key  ed25519.PrivateKey
	zone []string
}

func newSigner(t *testing.T, domains ...string) *signer {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	txt, err := sign.FormatKeyRecord(pub)
	if err != nil {
		t.Fatal(err)
	}
	s := &signer{key: key}
	for _, d := range domains {
		s.zone = append(s.zone, fmt.Sprintf("s1._domainkey.%s. 60 IN TXT %q", d, txt))
	}
	return s
}

func (s *signer) sign(t *testing.T, domain string, msg []byte) []byte {
	t.Helper()
	field, err := sign.Sign(msg, []sign.Key{{Domain: domain, Selector: "s1", Signer: s.key}}, sign.SignOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	return append(field, msg...)
}

// give hands a message in as the door does, and gives the verdict on it.
func (w *world) give(t *testing.T, p *mail.Peer, from string, body []byte, rcpts ...string) (mail.Verdict, *mail.Submission) {
	t.Helper()
	e := mail.Envelope{From: from, Recipients: to(rcpts...)}
	if v := w.Sender(t.Context(), p, &e); v.Action != mail.ActionPass {
		t.Fatalf("sender %s: %+v", from, v)
	}
	for _, r := range e.Recipients {
		if v := w.Recipient(t.Context(), p, &e, r); v.Action != mail.ActionPass {
			t.Fatalf("recipient %s: %+v", r.Address, v)
		}
	}
	s := &mail.Submission{Trace: mail.NewTraceID(time.Now()), Envelope: e, Body: body, Received: time.Now(), Priority: mail.PriorityNormal,
		Origin: mail.Origin{Connector: p.Connector, Organization: p.Organization, Trusted: p.Connector != ""}}
	return w.Content(t.Context(), p, s), s
}

// TestTenants: what a cloud shares proves a tenant only together with its signature.
func TestTenants(t *testing.T) {
	keys := newSigner(t, "example.test", "other.test", "evil.test")
	w := newWorld(t, append(keys.zone, "example.test. 60 IN TXT \"v=spf1 ip4:209.85.128.0/17 -all\"")...)
	for _, c := range connectors() {
		w.put(t, settings.ConnectorKey(c.Organization, c.Name), c)
	}
	google := func() *mail.Peer { return peerAt("209.85.220.41") }
	for _, c := range []struct {
		name string
		body []byte
		to   string
		want mail.Action
		conn bool
	}{
		{"unsigned", []byte(plain), "bob@target.test", mail.ActionRefuse, false},
		{"signed by the tenant", keys.sign(t, "example.test", []byte(plain)), "bob@target.test", mail.ActionPass, true},
		{"signed by another tenant", keys.sign(t, "other.test", []byte(plain)), "bob@target.test", mail.ActionRefuse, false},
		{"signed by a stranger", keys.sign(t, "evil.test", []byte(plain)), "bob@target.test", mail.ActionRefuse, false},
		{"signed, then changed", append(keys.sign(t, "example.test", []byte(plain)), "More.\r\n"...), "bob@target.test", mail.ActionRefuse, false},
		{"unsigned, to us", []byte(plain), "ann@example.test", mail.ActionPass, false},
	} {
		p := google()
		v, s := w.give(t, p, "ann@example.test", c.body, c.to)
		if v.Action != c.want || (p.Connector != "") != c.conn || s.Origin.Trusted != c.conn {
			t.Errorf("%s: %+v, connector %q, origin %+v", c.name, v, p.Connector, s.Origin)
		}
	}
}

func TestAuthentication(t *testing.T) {
	keys := newSigner(t, "strict.test", "friend.test")
	zone := append(keys.zone, "strict.test. 60 IN MX 10 mx.strict.test.", `strict.test. 60 IN TXT "v=spf1 ip4:192.0.2.0/24 -all"`,
		`_dmarc.strict.test. 60 IN TXT "v=DMARC1; p=reject; rua=mailto:r@strict.test"`,
		"soft.test. 60 IN MX 10 mx.soft.test.", `_dmarc.soft.test. 60 IN TXT "v=DMARC1; p=quarantine"`,
		"friend.test. 60 IN MX 10 mx.friend.test.")
	w := newWorld(t, zone...)
	var noted []Observation
	w.deps.Note = func(o Observation) { noted = append(noted, o) }
	group := directory.Destination{Kind: directory.KindGroup, Organization: "example", Members: nil, Senders: directory.SenderRule{Domains: []string{"strict.test"}}}
	w.people.known["group@example.test"] = group

	check := func(name string, p *mail.Peer, from string, body []byte, rcpt string, want mail.Action, status string) mail.Verdict {
		t.Helper()
		v, s := w.give(t, p, from, body, rcpt)
		if v.Action != want || v.Status != status || (s.Quarantine != "") != (want == mail.ActionQuarantine) {
			t.Errorf("%s: %+v, quarantine %q", name, v, s.Quarantine)
		}
		return v
	}
	out, home := "198.51.100.7", "192.0.2.5"
	v := check("SPF passes", peerAt(home), "x@strict.test", letter("x@strict.test"), "ann@example.test", mail.ActionPass, "")
	if got := string(v.Prepend); !strings.HasPrefix(got, "Authentication-Results: mx.example.test") || !strings.Contains(got, "dmarc=pass") || !strings.HasSuffix(got, "\r\n") {
		t.Errorf("prepended %q", got)
	}
	if !w.mem.knows(knownKey(peerAt("192.0.2.99").Remote, "strict.test"), time.Now()) {
		t.Error("a proven sender is not known")
	}
	check("DKIM passes", peerAt(out), "x@friend.test", keys.sign(t, "strict.test", letter("x@strict.test")), "ann@example.test", mail.ActionPass, "")
	check("DMARC rejects", peerAt(out), "x@friend.test", letter("x@strict.test"), "ann@example.test", mail.ActionRefuse, "5.7.1")
	v = check("DMARC quarantines", peerAt(out), "x@friend.test", letter("x@soft.test"), "ann@example.test", mail.ActionQuarantine, "")
	if !strings.Contains(string(v.Prepend), "dmarc=fail") {
		t.Errorf("quarantined with %q", v.Prepend)
	}
	check("no From", peerAt(out), "x@friend.test", []byte("Subject: x\r\n\r\nx\r\n"), "ann@example.test", mail.ActionRefuse, "5.6.0")
	check("two From", peerAt(out), "x@friend.test", append([]byte("From: x@friend.test\r\n"), letter("x@strict.test")...), "ann@example.test", mail.ActionRefuse, "5.6.0")
	check("group, proven", peerAt(home), "x@strict.test", letter("x@strict.test"), "group@example.test", mail.ActionPass, "")
	check("group, claimed", peerAt(out), "x@strict.test", letter("x@friend.test"), "group@example.test", mail.ActionRefuse, "5.7.1") // friend.test has no policy
	check("account", &mail.Peer{Remote: peerAt(out).Remote, Door: doorSubmission, Account: "example/x", Organization: "example"}, "ann@example.test", letter("x@strict.test"), "ann@example.test", mail.ActionPass, "")

	var done []string
	for _, o := range noted {
		done = append(done, string(o.Disposition)+o.Override)
	}
	if got := strings.Join(done, " "); got != "none none reject quarantine none" {
		t.Errorf("noted %s", got)
	}
	w.put(t, AllowPrefix+"198.51.100.0/24", Entry{Value: "198.51.100.0/24"})
	check("allowed network", peerAt(out), "x@friend.test", letter("x@strict.test"), "ann@example.test", mail.ActionPass, "")
	if last := noted[len(noted)-1]; last.Override != "local_policy" || last.Disposition != authn.DispositionNone {
		t.Errorf("noted %+v", last)
	}
	off := false
	w.group(t, settings.Group{DMARCEnforce: &off})
	check("not enforced", peerAt("198.51.101.1"), "x@friend.test", letter("x@strict.test"), "ann@example.test", mail.ActionPass, "")
}

// attached is a message with a part of a name, a type and content.
func attached(name, media, content string) []byte {
	return []byte("From: x@friend.test\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\nContent-Type: text/plain\r\n\r\nMZ is a text.\r\n" +
		"--b\r\nContent-Type: " + media + "\r\nContent-Disposition: attachment; filename=\"" + name + "\"\r\nContent-Transfer-Encoding: base64\r\n\r\n" +
		base64.StdEncoding.EncodeToString([]byte(content)) + "\r\n--b--\r\n")
}

func TestAttachments(t *testing.T) {
	w := newWorld(t, "friend.test. 60 IN MX 10 mx.friend.test.")
	w.people.known["eve@other.test"] = directory.Destination{Kind: directory.KindMailbox, Organization: "other"}
	w.put(t, settings.PolicyKey("example"), settings.Policy{Organization: "example", Attachments: []settings.AttachmentRule{
		{Extension: "exe", Action: "reject"}, {Extension: "zip", Action: "quarantine"}, {Type: "video/*", Action: "quarantine"}, {Type: "text/html", Action: "reject"}}})
	bomb := "From: x@friend.test\r\nContent-Type: multipart/mixed; boundary=b0\r\n\r\n"
	for i := range 200 {
		bomb += fmt.Sprintf("--b%d\r\nContent-Type: multipart/mixed; boundary=b%d\r\n\r\n", i, i+1)
	}
	for _, c := range []struct {
		name string
		body []byte
		to   []string
		want mail.Action
	}{
		{"nothing", letter("x@friend.test"), []string{"ann@example.test"}, mail.ActionPass},
		{"document", attached("a.pdf", "application/pdf", "%PDF-1"), []string{"ann@example.test"}, mail.ActionPass},
		{"program", attached("a.EXE", "application/pdf", "x"), []string{"ann@example.test"}, mail.ActionRefuse},
		{"two extensions", attached("a.pdf.exe", "application/pdf", "x"), []string{"ann@example.test"}, mail.ActionRefuse},
		{"dots and blanks at the end", attached("a.exe. .", "application/pdf", "x"), []string{"ann@example.test"}, mail.ActionRefuse},
		{"stream", attached("a.exe::$DATA", "application/pdf", "x"), []string{"ann@example.test"}, mail.ActionRefuse},
		{"renamed", attached("a.pdf", "application/pdf", "MZ\x90\x00"), []string{"ann@example.test"}, mail.ActionRefuse},
		{"archive", attached("a.zip", "application/zip", "PK"), []string{"ann@example.test"}, mail.ActionQuarantine},
		{"type", attached("a", "Video/MP4", "x"), []string{"ann@example.test"}, mail.ActionQuarantine},
		{"type that is refused", attached("a", "text/html", "x"), []string{"ann@example.test"}, mail.ActionRefuse},
		{"of others", attached("a.exe", "application/pdf", "x"), []string{"eve@other.test"}, mail.ActionPass},
		{"of both", attached("a.exe", "application/pdf", "x"), []string{"eve@other.test", "ann@example.test"}, mail.ActionQuarantine},
		{"too deep to see", []byte(bomb), []string{"ann@example.test"}, mail.ActionQuarantine},
	} {
		if v, s := w.give(t, peerAt("198.51.100.7"), "x@friend.test", c.body, c.to...); v.Action != c.want || (s.Quarantine != "") != (c.want == mail.ActionQuarantine) {
			t.Errorf("%s: %+v, %q", c.name, v, s.Quarantine)
		}
	}
}

// scanners are servers that speak the real protocols.
func scanners(t *testing.T, w *world, spam, malware func() string) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		answer := spam()
		if answer == "" {
			rw.WriteHeader(http.StatusInternalServerError)
		}
		io.WriteString(rw, answer)
	}))
	t.Cleanup(srv.Close)
	rs, err := rspamd.New(rspamd.Config{URL: srv.URL, Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(rs.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { instream(c, malware()) })
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	cl, err := clamd.New(clamd.Config{Address: l.Addr().String(), Timeout: 5 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	w.spam, w.malware = newScanner("spam", rs), newScanner("malware", cl)
}

// said is what a scanner says now.
type said struct{ v atomic.Value }

func (s *said) set(text string) { s.v.Store(text) }

func (s *said) get() string {
	text, _ := s.v.Load().(string)
	return text
}

// instream reads what clamd is sent and answers.
func instream(c net.Conn, answer string) {
	defer c.Close()
	if _, err := io.ReadFull(c, make([]byte, len("zINSTREAM\x00"))); err != nil {
		return
	}
	for {
		var n uint32
		if err := binary.Read(c, binary.BigEndian, &n); err != nil {
			return
		}
		if n == 0 {
			break
		}
		if _, err := io.CopyN(io.Discard, c, int64(n)); err != nil {
			return
		}
	}
	io.WriteString(c, answer)
}

func TestScanners(t *testing.T) {
	w := newWorld(t, "friend.test. 60 IN MX 10 mx.friend.test.", `friend.test. 60 IN TXT "v=spf1 ip4:198.51.100.0/24 -all"`)
	var spam, malware said
	scanners(t, w, spam.get, malware.get)
	const (
		ham    = `{"action":"no action","score":0.1,"required_score":15,"milter":{"add_headers":{"X-Test":"a","Received":"b","X-Spam-Flag":"NO"}}}`
		junk   = `{"action":"add header","score":7,"required_score":15}`
		gtube  = `{"action":"reject","score":15,"required_score":15,"messages":{"smtp_message":"Gtube pattern"}}`
		soft   = `{"action":"soft reject","messages":{"smtp_message":"Not now"}}`
		drop   = `{"action":"discard"}`
		clean  = "stream: OK\x00"
		eicar  = "stream: Eicar-Signature FOUND\x00"
		limits = "stream: Heuristics.Limits.Exceeded.MaxScanSize FOUND\x00"
		broken = "stream: Can't allocate memory ERROR\x00"
	)
	account := &mail.Peer{Remote: peerAt("198.51.100.7").Remote, Door: doorSubmission, Account: "example/x", Organization: "example"}
	for _, c := range []struct {
		name                      string
		spam, malware             string
		peer                      *mail.Peer
		spamAction, malwareAction string
		group                     settings.Group
		want                      mail.Action
		status                    string
	}{
		{"clean", ham, clean, nil, "", "", settings.Group{}, mail.ActionPass, ""},
		{"spam, default", junk, clean, nil, "", "", settings.Group{}, mail.ActionQuarantine, ""},
		{"spam, marked", junk, clean, nil, "mark", "", settings.Group{}, mail.ActionPass, ""},
		{"spam, refused", gtube, clean, nil, "reject", "", settings.Group{}, mail.ActionRefuse, "5.7.1"},
		{"spam of an account", gtube, clean, account, "reject", "", settings.Group{}, mail.ActionPass, ""},
		{"later", soft, clean, nil, "", "", settings.Group{}, mail.ActionDefer, "4.7.1"},
		{"discarded", drop, clean, nil, "", "", settings.Group{}, mail.ActionDiscard, ""},
		{"malware, default", ham, eicar, nil, "", "", settings.Group{}, mail.ActionRefuse, "5.7.1"},
		{"malware, kept", ham, eicar, nil, "", "quarantine", settings.Group{}, mail.ActionQuarantine, ""},
		{"malware of an account", ham, eicar, account, "", "", settings.Group{}, mail.ActionRefuse, "5.7.1"},
		{"not looked at wholly", ham, limits, nil, "", "", settings.Group{}, mail.ActionQuarantine, ""},
		{"malware scanner fails, closed", ham, broken, nil, "", "", settings.Group{}, mail.ActionDefer, "4.3.0"},
		{"malware scanner fails, open", ham, broken, nil, "", "", settings.Group{MalwareScanFail: "open"}, mail.ActionPass, ""},
		{"spam scanner fails, open", "", clean, nil, "", "", settings.Group{}, mail.ActionPass, ""},
		{"spam scanner fails, closed", "", clean, nil, "", "", settings.Group{SpamScanFail: "closed"}, mail.ActionDefer, "4.3.0"},
	} {
		spam.set(c.spam)
		malware.set(c.malware)
		w.group(t, c.group)
		w.put(t, settings.PolicyKey("example"), settings.Policy{Organization: "example", SpamAction: c.spamAction, MalwareAction: c.malwareAction})
		p := c.peer
		if p == nil {
			p = peerAt("198.51.100.7")
		}
		v, s := w.give(t, p, "x@friend.test", letter("x@friend.test"), "ann@example.test")
		if v.Action != c.want || v.Status != c.status || (s.Quarantine != "") != (c.want == mail.ActionQuarantine) {
			t.Errorf("%s: %+v, quarantine %q", c.name, v, s.Quarantine)
		}
		got := string(v.Prepend)
		switch c.name {
		case "clean":
			if !strings.Contains(got, "X-Spam-Status: No, score=0.1 required=15.0\r\n") || !strings.Contains(got, "X-Test: a\r\n") || strings.Contains(got, "Received: b") || strings.Contains(got, "Flag") {
				t.Errorf("clean: %q", got)
			}
		case "spam, marked":
			if !strings.Contains(got, "X-Spam-Flag: YES\r\n") || s.Priority != mail.PriorityLow {
				t.Errorf("marked: %q, %v", got, s.Priority)
			}
		case "spam, refused":
			if v.Text != "Gtube pattern" {
				t.Errorf("text %q", v.Text)
			}
		}
	}
	// Who is proven and allowed is not asked about.
	spam.set(gtube)
	malware.set(clean)
	w.put(t, AllowPrefix+"friend.test", Entry{Value: "friend.test"})
	if v, _ := w.give(t, peerAt("198.51.100.7"), "x@friend.test", letter("x@friend.test"), "ann@example.test"); v.Action != mail.ActionPass {
		t.Errorf("allowed sender: %+v", v)
	}
}

// TestScannerDown: an operator hears of it once, and once that it is over.
func TestScannerDown(t *testing.T) {
	w := newWorld(t, "friend.test. 60 IN MX 10 mx.friend.test.")
	var answer said
	scanners(t, w, func() string { return `{"action":"no action"}` }, answer.get)
	give := func() {
		w.give(t, peerAt("198.51.100.7"), "x@friend.test", letter("x@friend.test"), "ann@example.test")
	}
	for range 6 {
		give()
	}
	answer.set("stream: OK\x00")
	give()
	give()
	if all := w.events.Recent(10); len(all) != 2 || !strings.Contains(all[0].Sentence, "does not answer") || !strings.Contains(all[1].Sentence, "answers again") {
		t.Errorf("%+v", all)
	}
}

func TestOutsideIsCounted(t *testing.T) {
	w := newWorld(t)
	w.group(t, settings.Group{OutboundAccountPerHour: 3})
	p := &mail.Peer{Remote: peerAt("198.51.100.7").Remote, Door: doorSubmission, Account: "example/" + ann.String(), Organization: "example"}
	w.give(t, p, "ann@example.test", []byte(plain), "a@target.test", "b@target.test", "bea@example.test", "c@target.test")
	if w.Held(p.Account) {
		t.Error("held at the limit")
	}
	w.give(t, p, "ann@example.test", []byte(plain), "bea@example.test")
	if w.Held(p.Account) {
		t.Error("mail inside counts")
	}
	w.give(t, p, "ann@example.test", []byte(plain), "d@target.test")
	if !w.Held(p.Account) {
		t.Error("not held")
	}
}

func TestBulk(t *testing.T) {
	for head, want := range map[string]bool{
		"Subject: x\r\n": false, "List-Id: <x>\r\n": true, "Precedence: Bulk\r\n": true, "Precedence: first-class\r\n": false,
		"Subject: x\r\n\r\nPrecedence: bulk\r\n": false,
	} {
		if got := bulk([]byte(head + "\r\nbody\r\n")); got != want {
			t.Errorf("%q: %v", head, got)
		}
	}
}

// slowScanner counts how many are in it until it is let go.
type slowScanner struct {
	mu      sync.Mutex
	in, max int
	release chan struct{}
}

func (s *slowScanner) Scan(ctx context.Context, _ scrub.Mail) (scrub.Finding, error) {
	s.mu.Lock()
	s.in++
	s.max = max(s.max, s.in)
	s.mu.Unlock()
	defer func() { s.mu.Lock(); s.in--; s.mu.Unlock() }()
	select {
	case <-s.release:
		return scrub.Finding{}, nil
	case <-ctx.Done():
		return scrub.Finding{}, ctx.Err()
	}
}

// TestScansAtOnce: a scanner that hangs holds so many messages and no more, and
// the others get their answer in bounded time.
func TestScansAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &slowScanner{release: make(chan struct{})}
		s := newScanner("malware", slow)
		errs := make(chan error, 2*scansAtOnce)
		began := time.Now()
		for range 2 * scansAtOnce {
			go func() {
				_, err := s.ask(context.Background(), scrub.Mail{})
				errs <- err
			}()
		}
		for range scansAtOnce { // those that found no place
			if err := <-errs; !kind.Is(err, kind.Busy) {
				t.Error(err)
			}
		}
		synctest.Wait()
		slow.mu.Lock()
		if d := time.Since(began); d != scanQueue || slow.max != scansAtOnce {
			t.Errorf("%d at once, waited %s", slow.max, d)
		}
		slow.mu.Unlock()
		close(slow.release)
		for range scansAtOnce {
			if err := <-errs; err != nil {
				t.Error(err)
			}
		}
	})
}
