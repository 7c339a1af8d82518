package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
)

// linesDoor answers lines as a door does; box is what both doors share.
type linesDoor struct {
	greeting string
	imap     bool
	box      *fakeBox
	refuse   map[string]string // the answer to a line that has a text in it
}

// fakeBox is a health mailbox.
type fakeBox struct {
	mu       sync.Mutex // guards the rest
	messages []string
	lose     bool // what is accepted
	said     []string
}

func (b *fakeBox) add(m string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.lose {
		b.messages = append(b.messages, m)
	}
}

func (b *fakeBox) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.messages)
}

// open serves the door and tells where.
func (d *linesDoor) open(t *testing.T) string {
	https := httptest.NewTLSServer(nil)
	cert := https.TLS.Certificates[0]
	https.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	t.Cleanup(func() { l.Close(); all.Wait() })
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() { d.serve(c, &tls.Config{Certificates: []tls.Certificate{cert}}) })
		}
	})
	return l.Addr().String()
}

func (d *linesDoor) serve(c net.Conn, secure *tls.Config) {
	defer func() { c.Close() }()
	fmt.Fprintf(c, "%s\r\n", d.greeting)
	r := bufio.NewReader(c)
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimSpace(line)
		answer := d.answer(line)
		if _, err := io.WriteString(c, strings.Join(answer, "\r\n")+"\r\n"); err != nil {
			return
		}
		switch {
		case strings.HasSuffix(line, "STARTTLS"):
			c = tls.Server(c, secure)
			r = bufio.NewReader(c)
		case line == "DATA":
			d.take(c, r)
		}
	}
}

// take reads a message to its end.
func (d *linesDoor) take(c net.Conn, r *bufio.Reader) {
	var m strings.Builder
	for {
		line, err := r.ReadString('\n')
		if err != nil || strings.TrimSpace(line) == "." {
			break
		}
		m.WriteString(line)
	}
	d.box.add(m.String())
	fmt.Fprint(c, "250 2.0.0 taken\r\n")
}

func (d *linesDoor) answer(line string) []string {
	d.box.mu.Lock()
	d.box.said = append(d.box.said, line)
	d.box.mu.Unlock()
	tag, _, _ := strings.Cut(line, " ")
	for text, answer := range d.refuse {
		if strings.Contains(line, text) {
			return []string{strings.ReplaceAll(answer, "TAG", tag)}
		}
	}
	if !d.imap {
		switch {
		case strings.HasPrefix(line, "EHLO"):
			return []string{"250-mbx1", "250 STARTTLS"}
		case line == "DATA":
			return []string{"354 go on"}
		}
		return []string{"250 2.0.0 fine"}
	}
	switch {
	case strings.Contains(line, "SELECT"):
		return []string{fmt.Sprintf("* %d EXISTS", d.box.count()), tag + " OK"}
	case strings.Contains(line, "UID SEARCH"):
		return []string{"* SEARCH" + d.found(line), tag + " OK"}
	case strings.Contains(line, "EXPUNGE"):
		d.box.mu.Lock()
		d.box.messages = nil
		d.box.mu.Unlock()
	}
	return []string{tag + " OK"}
}

func (d *linesDoor) found(line string) (uids string) {
	d.box.mu.Lock()
	defer d.box.mu.Unlock()
	_, what, _ := strings.Cut(line, "Message-ID ")
	for i, m := range d.box.messages {
		if strings.Contains(m, what) || strings.Contains(line, "SUBJECT") {
			uids += fmt.Sprintf(" %d", i+1)
		}
	}
	return uids
}

// deepWorld is a server with doors and what the probes know of it.
func deepWorld(t *testing.T, smtp, imap *linesDoor) (*deep, flowDoors) {
	box := &fakeBox{}
	smtp.box, imap.box, imap.imap = box, box, true
	smtp.greeting, imap.greeting = "220 mbx1", "* OK mbx1"
	p := paths{Server: "MBX1", Secret: []byte("secret"), Mounted: map[org.ServerName][]org.DatabaseName{"MBX1": {"DB01"}},
		States: map[org.Component]org.ComponentState{org.Submission: org.Active, org.IMAPComponent: org.Active, org.Transport: org.Active}}
	return newDeep(&atlas{live: func() paths { return p }}), flowDoors{tryAddr{addr: smtp.open(t)}, tryAddr{addr: imap.open(t)}}
}

// TestDeepProbes: a door where somebody can work passes; one that refuses for
// reasons of its own fails; one that cannot say now is not judged.
func TestDeepProbes(t *testing.T) {
	for _, c := range []struct {
		name       string
		smtp, imap map[string]string
		bad        string // the probe that fails
		said       string
	}{
		{"all well", nil, nil, "", "DB01"},
		{"no logins", map[string]string{"AUTH": "535 5.7.8 no"}, nil, "submission", "535"},
		{"logins not judged", map[string]string{"AUTH": "454 4.7.0 later"}, nil, "", "DB01"},
		{"recipient unknown", map[string]string{"RCPT": "550 5.1.1 no"}, nil, "receive", "550"},
		{"greylist", map[string]string{"RCPT": "450 4.7.1 not seen before"}, nil, "", ""},
		{"no TLS", map[string]string{"STARTTLS": "454 4.7.0 none"}, map[string]string{"STARTTLS": "TAG BAD no"}, "imap", "BAD"},
		{"wrong password", nil, map[string]string{"LOGIN": "TAG NO [AUTHENTICATIONFAILED] no"}, "imap", "AUTHENTICATIONFAILED"},
		{"database away", nil, map[string]string{"SELECT": "TAG NO [UNAVAILABLE] later"}, "", ""},
	} {
		d, doors := deepWorld(t, &linesDoor{refuse: c.smtp}, &linesDoor{refuse: c.imap})
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		for name, look := range map[string]func() (health.Reading, error){
			"receive":    func() (health.Reading, error) { return d.use(ctx, "MBX1", doors.submission.addr, false, d.receive) },
			"submission": func() (health.Reading, error) { return d.use(ctx, "MBX1", doors.submission.addr, false, d.submission) },
			"imap":       func() (health.Reading, error) { return d.use(ctx, "MBX1", doors.imap.addr, false, d.imap) },
		} {
			r, err := look()
			switch {
			case err != nil && c.bad == "":
				t.Errorf("%s: %s: %v", c.name, name, err)
			case err == nil && c.bad == name:
				t.Errorf("%s: %s passed: %s", c.name, name, r.Text)
			case c.bad == name && !strings.Contains(err.Error(), c.said):
				t.Errorf("%s: %s: %v", c.name, name, err)
			}
		}
		cancel()
	}
}

// TestMailFlow: a message is sent, read and removed; one that is accepted and
// never seen is a failure that says so, and what is held back is not tried.
func TestMailFlow(t *testing.T) {
	smtp, imap := &linesDoor{}, &linesDoor{}
	d, doors := deepWorld(t, smtp, imap)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if r, err := d.flow(doors)(ctx, ""); err != nil || r.Text != "DB01" || r.Value <= 0 {
		t.Errorf("%+v, %v", r, err)
	}
	if n := smtp.box.count(); n != 0 {
		t.Errorf("%d messages are left", n)
	}
	all := strings.Join(smtp.box.said, "\n")
	for _, want := range []string{"MAIL FROM:<>", "NOTIFY=NEVER", `SUBJECT "health probe of MBX1 "`} {
		if !strings.Contains(all, want) {
			t.Errorf("%q was not said:\n%s", want, all)
		}
	}
	smtp.box.lose = true
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if _, err := d.flow(doors)(short, ""); err == nil || !strings.Contains(err.Error(), "accepted and not delivered") && !strings.Contains(err.Error(), "timeout") {
		t.Error(err)
	}
	d.a.live = func() paths { return paths{} }
	if r, err := d.flow(doors)(ctx, ""); err != nil || !strings.Contains(r.Text, "not tried") {
		t.Errorf("%+v, %v", r, err)
	}
}

// TestHealthConfig: messages are sent each minute, and not where tests count them.
func TestHealthConfig(t *testing.T) {
	for every, want := range map[time.Duration][2]time.Duration{
		time.Minute: {time.Minute, 0}, -1: {0, 0}, 10 * time.Second: {10 * time.Second, 10 * time.Second},
	} {
		h := HealthConfig{MailFlow: conf.Duration(every)}
		if got := [2]time.Duration{h.flowEvery(false), h.flowEvery(true)}; got != want || h.Validate() != nil {
			t.Errorf("%s: %v, want %v (%v)", every, got, want, h.Validate())
		}
	}
}

// TestCertificateDays: those of short life count for more.
func TestCertificateDays(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	day := 24 * time.Hour
	for _, c := range []struct{ life, left, least, most float64 }{
		{365, 20, 20, 20}, {105, 21, 21, 21}, {45, 15, 35, 35}, {6, 2, 35, 35}, {6, 1, 17, 18}, {90, -1, -2, -1},
	} {
		leaf := &x509.Certificate{NotAfter: now.Add(time.Duration(c.left * float64(day)))}
		leaf.NotBefore = leaf.NotAfter.Add(-time.Duration(c.life * float64(day)))
		if got := daysLeft(leaf, now); got < c.least-0.001 || got > c.most+0.001 {
			t.Errorf("%v: %.2f days", c, got)
		}
	}
}
