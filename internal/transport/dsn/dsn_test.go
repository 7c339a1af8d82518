package dsn

import (
	"bufio"
	"bytes"
	"flag"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	netmail "net/mail"
	"net/textproto"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/mail"
)

var update = flag.Bool("update", false, "write the golden files")

var now = time.Date(2026, 11, 21, 14, 30, 0, 0, time.FixedZone("", 3600))

const original1 = "Received: from client.example.org by mx1.example.org; Sat, 21 Nov 2026 10:00:00 +0100\r\n" +
	"From: Alice <alice@example.org>\r\nTo: bob@example.net\r\nSubject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\n" +
	"Message-ID: <1@client.example.org>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain\r\n\r\n" +
	"Hello\r\n--\r\nAlice\r\n"

// simple is a failed message of Alice to Bob.
func simple() Report {
	trace, _ := mail.ParseTraceID("068rt3c4e0r3gg28140g20a1c0")
	return Report{
		Kind:         Failed,
		Parent:       Parent{Trace: trace, Envelope: mail.Envelope{From: "alice@example.org"}, Organization: "o1", Received: now.Add(-time.Hour), Full: []byte(original1)},
		ReportingMTA: "mx1.example.org",
		Now:          now,
		Recipients: []Recipient{{Row: 1, Address: "bob@example.net", Status: "5.1.1", Code: 550, Host: "mx.example.net",
			Text: "5.1.1 <bob@example.net>: no such user", Last: now.Add(-time.Minute)}},
	}
}

// dsn is a notification as the standard library reads it.
type dsn struct {
	header netmail.Header
	types  []string
	text   string
	groups []textproto.MIMEHeader // of the report, the message's first
	bodies []string
}

// parse reads a notification and checks what is true of all of them.
func parse(t testing.TB, s mail.Submission) dsn {
	t.Helper()
	checkLines(t, s)
	m, err := netmail.ReadMessage(bytes.NewReader(s.Body))
	if err != nil {
		t.Fatalf("not a message: %v\n%q", err, s.Body)
	}
	var d dsn
	d.header = m.Header
	checkHeader(t, s, m.Header)
	kind, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || kind != "multipart/report" || params["report-type"] != "delivery-status" {
		t.Fatalf("type %s %v %v", kind, params, err)
	}
	r := multipart.NewReader(m.Body, params["boundary"])
	for {
		p, err := r.NextRawPart()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatalf("part %d: %v\n%q", len(d.types)+1, err, s.Body)
		}
		b, err := io.ReadAll(p)
		if err != nil {
			t.Fatalf("part %d: %v", len(d.types)+1, err)
		}
		kind, _, err := mime.ParseMediaType(p.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		d.types = append(d.types, kind)
		d.bodies = append(d.bodies, string(b))
	}
	if len(d.types) != 3 || d.types[0] != "text/plain" {
		t.Fatalf("parts %v\n%q", d.types, s.Body)
	}
	d.text = unquoted(t, d.bodies[0])
	if !utf8.ValidString(d.text) {
		t.Error("text is not UTF-8")
	}
	d.groups = groups(t, d.bodies[1])
	return d
}

func checkLines(t testing.TB, s mail.Submission) {
	t.Helper()
	ok, eight := plain(s.Body)
	if !ok {
		t.Fatalf("lines that cannot travel: %q", s.Body)
	}
	if eight && !s.Envelope.EightBit {
		t.Fatalf("8-bit without saying so: %q", s.Body)
	}
	head, _, _ := bytes.Cut(s.Body, []byte("\r\n\r\n"))
	if !isASCII(string(head)) && !s.Envelope.UTF8 {
		t.Fatalf("UTF-8 in the header without saying so: %q", head)
	}
	if s.Envelope.UTF8 && !utf8.Valid(head) {
		t.Fatalf("header is not UTF-8: %q", head)
	}
}

// ours are the only fields a notification has.
var ours = []string{"From", "To", "Subject", "Date", "Message-Id", "In-Reply-To", "References", "Auto-Submitted", "Mime-Version",
	"Content-Type", "Content-Transfer-Encoding"}

func checkHeader(t testing.TB, s mail.Submission, h netmail.Header) {
	t.Helper()
	for name, values := range h {
		if !slices.Contains(ours, name) || len(values) != 1 {
			t.Fatalf("field %s: %q", name, values)
		}
	}
	for _, name := range []string{"From", "To"} {
		if a, err := h.AddressList(name); err != nil || len(a) != 1 {
			t.Fatalf("%s: %v %v in %q", name, a, err, h.Get(name))
		}
	}
	if _, err := h.Date(); err != nil {
		t.Fatal(err)
	}
	if h.Get("Auto-Submitted") != "auto-replied" || h.Get("Message-Id") == "" {
		t.Fatalf("header %v", h)
	}
	if s.Envelope.From != "" || len(s.Envelope.Recipients) != 1 || s.Envelope.Recipients[0].Notify != "NEVER" || s.Priority != mail.PriorityHigh {
		t.Fatalf("envelope %+v", s.Envelope)
	}
	a, err := mail.ParseAddress(s.Envelope.Recipients[0].Address)
	to, _ := h.AddressList("To")
	if err != nil || to[0].Address != a.Local+"@"+a.Domain {
		t.Fatalf("envelope to %q, header to %q", a, to[0].Address)
	}
}

func unquoted(t testing.TB, s string) string {
	t.Helper()
	p := "--b\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n" + s + "\r\n--b--\r\n"
	part, err := multipart.NewReader(strings.NewReader(p), "b").NextPart()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(part)
	if err != nil {
		t.Fatalf("quoted-printable: %v in %q", err, s)
	}
	return string(b)
}

// groups reads the report's groups of fields.
func groups(t testing.TB, s string) (out []textproto.MIMEHeader) {
	t.Helper()
	r := textproto.NewReader(bufio.NewReader(strings.NewReader(s + "\r\n\r\n")))
	for range strings.Split(s, "\r\n\r\n") {
		h, err := r.ReadMIMEHeader()
		if err != nil {
			t.Fatalf("report: %v in %q", err, s)
		}
		out = append(out, h)
	}
	for i, h := range out {
		need := []string{"Final-Recipient", "Action", "Status"}
		if i == 0 {
			need = []string{"Reporting-Mta"}
		}
		for _, name := range need {
			if len(h[name]) != 1 {
				t.Fatalf("group %d has %d %s: %q", i, len(h[name]), name, s)
			}
		}
	}
	return out
}

func build(t testing.TB, r Report) (mail.Submission, dsn) {
	t.Helper()
	s, ok := Build(r)
	if !ok {
		t.Fatal("no notification")
	}
	return s, parse(t, s)
}

func TestGolden(t *testing.T) {
	for name, change := range map[string]func(*Report){
		"failed": func(*Report) {},
		"failed-german-full": func(r *Report) {
			r.Language, r.Parent.Envelope.Ret, r.Parent.Envelope.EnvID = "de-AT", "FULL", "QQ314159"
			r.Recipients[0].ORcpt = "rfc822;Bob@Example.net"
			r.Recipients = append(r.Recipients, Recipient{Row: 3, Address: "carla@example.com", Status: "4.4.7", Text: "no answer from 192.0.2.1"})
		},
		"delayed": func(r *Report) {
			r.Kind = Delayed
			r.Recipients[0].Status, r.Recipients[0].Code, r.Recipients[0].Text = "4.2.2", 452, "4.2.2 over quota"
			r.Recipients[0].Expires = now.Add(44 * time.Hour)
		},
		"relayed": func(r *Report) {
			r.Kind = Relayed
			r.Recipients[0].Notify, r.Recipients[0].Status, r.Recipients[0].Code, r.Recipients[0].Text = "SUCCESS,FAILURE", "", 250, "2.0.0 Ok: queued as 4F1"
		},
		"delivered-german": func(r *Report) {
			r.Kind, r.Language = Delivered, "de"
			r.Recipients[0] = Recipient{Row: 1, Address: "bob@example.org", Notify: "SUCCESS", Status: "2.1.5"}
		},
		"internationalized": func(r *Report) {
			r.Parent.Envelope.From, r.Parent.Envelope.UTF8 = "jürgen@example.org", true
			r.Parent.Full = []byte("From: jürgen@example.org\r\nSubject: Grüße\r\n\r\nüber\r\n")
			r.Recipients[0].Address, r.Recipients[0].ORcpt = "用户@example.net", "utf-8;用户+x@example.net"
			r.Parent.Envelope.Ret = "FULL"
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := simple()
			change(&r)
			s, _ := build(t, r)
			got := strings.ReplaceAll(string(s.Body), "\r\n", "\n")
			file := filepath.Join("testdata", name+".eml")
			if *update {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestWanted(t *testing.T) {
	for _, c := range []struct {
		notify string
		want   string // of failed, delayed, relayed, delivered
	}{
		{"", "yynn"},
		{"NEVER", "nnnn"},
		{"FAILURE", "ynnn"},
		{"SUCCESS", "nnyy"},
		{"SUCCESS,FAILURE,DELAY", "yyyy"},
		{"delay, success", "nyyy"},
	} {
		got := ""
		for k := Failed; k <= Delivered; k++ {
			got += map[bool]string{true: "y", false: "n"}[Wanted(k, c.notify)]
		}
		if got != c.want {
			t.Errorf("NOTIFY %q: %s, want %s", c.notify, got, c.want)
		}
	}
}

// Promise 1.
func TestNothingToTell(t *testing.T) {
	for name, change := range map[string]func(*Report){
		"null sender":         func(r *Report) { r.Parent.Envelope.From = "" },
		"sender not readable": func(r *Report) { r.Parent.Envelope.From = "a@b\r\nBcc: c@d" },
		"nobody":              func(r *Report) { r.Recipients = nil },
		"not wanted":          func(r *Report) { r.Recipients[0].Notify = "NEVER" },
		"success not asked":   func(r *Report) { r.Kind = Delivered },
		"a notification": func(r *Report) {
			r.Parent.Header = []byte("Content-Type: Multipart/Report;\r\n boundary=x; report-type=Delivery-Status\r\n")
		},
		"delay of a machine's": func(r *Report) {
			r.Kind, r.Parent.Header = Delayed, []byte("Auto-Submitted: auto-generated\r\n")
		},
		"delay of a list's": func(r *Report) { r.Kind, r.Parent.Header = Delayed, []byte("Precedence: bulk\r\n") },
	} {
		r := simple()
		change(&r)
		if s, ok := Build(r); ok {
			t.Errorf("%s: %s", name, s.Body)
		}
	}
	r := simple()
	r.Kind, r.Recipients[0].Notify, r.Parent.Header = Delayed, "DELAY", []byte("Auto-Submitted: auto-generated\r\n")
	build(t, r) // it asked
	s, _ := build(t, simple())
	r = simple()
	r.Parent.Full = s.Body // a notification that came from a sender all the same
	if _, ok := Build(r); ok {
		t.Error("a notification about our own")
	}
}

func TestOnlyWantedRecipients(t *testing.T) {
	r := simple()
	r.Recipients = append(r.Recipients, Recipient{Row: 0, Address: "never@example.net", Notify: "NEVER"},
		Recipient{Row: 2, Address: "fail@example.net", Notify: "FAILURE"}, Recipient{Row: 0, Address: "first@example.net"})
	_, d := build(t, r)
	var got []string
	for _, g := range d.groups[1:] {
		got = append(got, g.Get("Final-Recipient"))
	}
	if want := []string{"rfc822;first@example.net", "rfc822;bob@example.net", "rfc822;fail@example.net"}; !slices.Equal(got, want) {
		t.Errorf("reported %v, want %v", got, want)
	}
	if strings.Contains(string(d.text), "never@") {
		t.Error("told of a recipient that asked not to")
	}
}

// Promise 2.
func TestStableIdentity(t *testing.T) {
	a, _ := Build(simple())
	r := simple()
	r.Now, r.ReportingMTA, r.Language, r.Recipients[0].Text = now.Add(time.Hour), "mx2.example.org", "de", "other words"
	b, _ := Build(r)
	if a.Trace != b.Trace || a.Identity != b.Identity {
		t.Error("two servers made two notifications of one")
	}
	if a.Trace == r.Parent.Trace || !bytes.Equal(a.Trace[:6], r.Parent.Trace[:6]) {
		t.Errorf("trace %s of %s", a.Trace, r.Parent.Trace)
	}
	seen := map[[32]byte]string{}
	for name, change := range map[string]func(*Report){
		"same": func(*Report) {}, "kind": func(r *Report) { r.Kind = Delayed }, "row": func(r *Report) { r.Recipients[0].Row = 2 },
		"parent": func(r *Report) { r.Parent.Trace[15]++ }, "rows": func(r *Report) { r.Recipients = append(r.Recipients, Recipient{Row: 9}) },
	} {
		r := simple()
		change(&r)
		s, _ := Build(r)
		if other := seen[s.Identity]; other != "" {
			t.Errorf("%s and %s are one", name, other)
		}
		seen[s.Identity] = name
	}
}

func TestWhatIsReturned(t *testing.T) {
	eight := "From: a@b.example\r\nSubject: x\r\n\r\nüber\r\n"
	for _, c := range []struct {
		name   string
		change func(*Report)
		want   string
		has    string
	}{
		{"no RET", func(*Report) {}, "text/rfc822-headers", "Subject:"},
		{"HDRS", func(r *Report) { r.Parent.Envelope.Ret = "HDRS" }, "text/rfc822-headers", "Subject:"},
		{"FULL", func(r *Report) { r.Parent.Envelope.Ret = "FULL" }, "message/rfc822", "Hello"},
		{"FULL of a delay", func(r *Report) { r.Parent.Envelope.Ret, r.Kind = "FULL", Delayed }, "text/rfc822-headers", "Subject:"},
		{"FULL too large", func(r *Report) { r.Parent.Envelope.Ret, r.MaxFull = "FULL", 50 }, "text/rfc822-headers", "Subject:"},
		{"FULL with REQUIRETLS", func(r *Report) { r.Parent.Envelope.Ret, r.Parent.Envelope.RequireTLS = "FULL", true }, "text/rfc822-headers", "Subject:"},
		{"FULL not at hand", func(r *Report) {
			r.Parent.Envelope.Ret, r.Parent.Header, r.Parent.Full = "FULL", []byte("Subject: y\r\n"), nil
		}, "text/rfc822-headers", "Subject: y"},
		{"FULL 8-bit", func(r *Report) { r.Parent.Envelope.Ret, r.Parent.Full = "FULL", []byte(eight) }, "message/rfc822", "über"},
		{"FULL with bare LF", func(r *Report) {
			r.Parent.Envelope.Ret, r.Parent.Full = "FULL", []byte(strings.ReplaceAll(original1, "\r\n", "\n"))
		}, "text/rfc822-headers", "Subject:"},
		{"8-bit header", func(r *Report) { r.Parent.Header = []byte("Subject: \xe9t\xe9\r\n") }, "text/rfc822-headers", "=E9t=E9"},
		{"UTF-8 header", func(r *Report) {
			r.Parent.Envelope.UTF8, r.Parent.Header = true, []byte("Subject: été\r\n")
		}, "message/global-headers", "été"},
		{"header too long", func(r *Report) {
			r.Parent.Header = []byte("Subject: z\r\n" + strings.Repeat("X-Long: "+strings.Repeat("y", 500)+"\r\n", 1000))
		}, "text/rfc822-headers", "Subject: z"},
		{"line too long", func(r *Report) { r.Parent.Header = []byte("X: " + strings.Repeat("y", 1<<20)) }, "text/rfc822-headers", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := simple()
			c.change(&r)
			s, d := build(t, r)
			if d.types[2] != c.want || !strings.Contains(d.bodies[2], c.has) {
				t.Errorf("%s: %.300q, want %s", d.types[2], d.bodies[2], c.want)
			}
			if len(s.Body) > maxHeader+20<<10 {
				t.Errorf("%d octets", len(s.Body))
			}
			if attached := strings.Contains(d.text, "The message is attached"); attached == strings.Contains(c.want, "headers") {
				t.Errorf("the text says otherwise: %s", d.text)
			}
		})
	}
}

func TestFields(t *testing.T) {
	r := simple()
	r.Parent.Envelope.EnvID = "id\r\nStatus: 2.0.0"
	r.Recipients = []Recipient{
		{Address: "用户@example.net", ORcpt: "utf-8;用户@example.net", Status: "4.4.7", Text: "Zeit abgelaufen – Ende", Code: 451, Host: "h\r\nX: y"},
		{Row: 1, Address: "x@y.example\r\nAction: delivered", ORcpt: "rfc822;a\r\nStatus: 2.0.0", Status: "2.0.0\r\nX: y", Text: "a\r\n\r\nb\x00\x1b[31m"},
		{Row: 2, Address: `"a  b"@example.net`, ORcpt: "x400;/S=a/", Status: "5.7.1"},
		{Row: 3, Address: "q@example.net", ORcpt: "bad type;x"},
	}
	s, d := build(t, r)
	if s.Envelope.UTF8 || s.Envelope.EightBit {
		t.Error("a sender without SMTPUTF8 gets a message that needs it")
	}
	if got := d.groups[0].Get("Original-Envelope-Id"); got != "id Status: 2.0.0" {
		t.Errorf("envelope id %q", got)
	}
	for i, want := range []map[string]string{
		{"Final-Recipient": `utf-8;\x{7528}\x{6237}@example.net`, "Original-Recipient": `utf-8;\x{7528}\x{6237}@example.net`, "Status": "5.4.7",
			"Diagnostic-Code": "smtp; 451 Zeit abgelaufen ? Ende", "Remote-Mta": "dns; h X: y"},
		{"Final-Recipient": "rfc822;x@y.example??Action: delivered", "Original-Recipient": "rfc822;a??Status: 2.0.0", "Status": "5.0.0", "Action": "failed",
			"Diagnostic-Code": "x-postern; a b??[31m"},
		{"Final-Recipient": `rfc822;"a  b"@example.net`, "Original-Recipient": "x400;/S=a/", "Status": "5.7.1"},
		{"Final-Recipient": "rfc822;q@example.net", "Original-Recipient": "", "Status": "5.0.0"},
	} {
		for name, v := range want {
			if got := d.groups[i+1].Get(name); got != v {
				t.Errorf("recipient %d: %s is %q, want %q", i, name, got, v)
			}
		}
	}
}

func TestManyRecipients(t *testing.T) {
	r := simple()
	r.Recipients = nil
	for n := range 12_000 {
		r.Recipients = append(r.Recipients, Recipient{Row: uint16(n), Address: fmt.Sprintf("r%d@example.net", n)})
	}
	_, d := build(t, r)
	if len(d.groups) != maxRecipients+1 || strings.Count(d.text, "\n<") != maxTold {
		t.Errorf("%d in the report, %d in the text", len(d.groups)-1, strings.Count(d.text, "\n<"))
	}
	if !strings.Contains(d.text, "9900 more recipients") {
		t.Error("the text does not say that there are more")
	}
}

// A boundary that the original holds is not taken.
func TestBoundaryIsFree(t *testing.T) {
	r := simple()
	r.Parent.Envelope.Ret = "FULL"
	s, _ := build(t, r)
	m, _ := netmail.ReadMessage(bytes.NewReader(s.Body))
	_, params, _ := mime.ParseMediaType(m.Header.Get("Content-Type"))
	r.Parent.Full = []byte(original1 + "--" + params["boundary"] + "--\r\n\r\nforged\r\n")
	_, d := build(t, r)
	if !strings.Contains(d.bodies[2], "forged") {
		t.Error("the original ended the notification")
	}
}

func TestWords(t *testing.T) {
	en, de := english(), german()
	for code := range en.reasons {
		if de.reasons[code] == "" {
			t.Errorf("no German reason for %s", code)
		}
	}
	if len(de.reasons) != len(en.reasons) {
		t.Error("more German reasons")
	}
	for tag, want := range map[string]string{"": "en", "de": "de", "DE-ch": "de", "de_AT": "de", "den": "en", "fr": "en", "en-GB": "en"} {
		if got := wordsFor(tag).tag; got != want {
			t.Errorf("%q: %s, want %s", tag, got, want)
		}
	}
	for code, want := range map[string]string{"5.1.1": en.reasons["1.1"], "4.4.2": en.reasons["4"], "5.0.0": "", "x": "", "": ""} {
		if got := en.reason(code); got != want {
			t.Errorf("%q: %q, want %q", code, got, want)
		}
	}
}
