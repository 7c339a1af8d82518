package smtpd

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/mail"
)

func TestVerdictAnswers(t *testing.T) {
	for _, c := range []struct {
		v    mail.Verdict
		want string
	}{
		{mail.Verdict{Action: mail.ActionRefuse, Status: "5.1.1", Text: "No such mailbox here"}, "550 5.1.1 No such mailbox here"},
		{mail.Verdict{Action: mail.ActionRefuse}, "550 5.7.1 Refused by policy"},
		{mail.Verdict{Action: mail.ActionRefuse, Status: "5.3.4"}, "552 5.3.4 Refused by policy"},
		{mail.Verdict{Action: mail.ActionRefuse, Status: "5.4.6"}, "554 5.4.6 Refused by policy"},
		{mail.Verdict{Action: mail.ActionRefuse, Status: "4.7.26"}, "550 5.7.26 Refused by policy"},
		{mail.Verdict{Action: mail.ActionRefuse, Status: "5.7.1 x\r\n"}, "550 5.7.1 Refused by policy"},
		{mail.Verdict{Action: mail.ActionRefuse, Status: "5..1"}, "550 5.7.1 Refused by policy"},
		{mail.Verdict{Action: mail.ActionRefuse, Text: "a\r\n250 b\xff"}, "550 5.7.1 a??250 b?"},
		{mail.Verdict{Action: mail.ActionDefer}, "450 4.7.1 Not now, try again later"},
		{mail.Verdict{Action: mail.ActionDefer, Status: "4.2.2", Text: "Mailbox is full"}, "452 4.2.2 Mailbox is full"},
		{mail.Verdict{Action: mail.ActionDefer, Status: "4.3.0"}, "451 4.3.0 Not now, try again later"},
		{mail.Verdict{Action: mail.ActionDefer, Status: "5.2.1"}, "450 4.2.1 Not now, try again later"},
		{mail.Verdict{Action: 99}, "450 4.7.1 Not now, try again later"},
	} {
		r := deferral(c.v)
		if c.v.Action == mail.ActionRefuse {
			r = refusal(c.v)
		}
		if got := r.String(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.v, got, c.want)
		}
	}
	if r := refusal(mail.Verdict{Text: strings.Repeat("ö", 300)}); len(r.text) > 200 {
		t.Error(len(r.text))
	}
}

// Each stage may refuse, and what it refused leaves nothing behind.
func TestPolicyOfTheDialogue(t *testing.T) {
	w := open(t, nil)
	refuse := mail.Verdict{Action: mail.ActionRefuse, Why: "test"}
	w.guard.rule("hello evil.test", refuse)
	w.guard.rule("sender evil@client.test", refuse)
	w.guard.rule("sender slow@client.test", mail.Verdict{Action: mail.ActionDefer, Status: "4.4.3", Close: true})
	c := dial(t, w.addr("receive"))
	c.say("EHLO evil.test", "550 5.7.1 Refused by policy")
	c.say("MAIL FROM:<a@client.test>", "503")
	c.say("EHLO client.test", "250")
	c.say("MAIL FROM:<evil@client.test>", "550 5.7.1")
	c.say("RCPT TO:<ann@example.test>", "503")
	c.mail("Subject: x\r\n\r\nbody", "250", "ann@example.test")
	c.say("MAIL FROM:<slow@client.test>", "451 4.4.3")
	c.closed()

	w.guard.rule("connect submissions", refuse)
	w.guard.rule("connect submission", mail.Verdict{Action: mail.ActionDefer, Status: "4.7.0", Text: "Too many of you"})
	w.guard.rule("connect receive", refuse)
	for name, want := range map[string]string{"receive": "554 5.7.1", "submission": "421 4.7.0 Too many of you"} {
		nc, err := net.Dial("tcp", w.addr(name))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		c = newClient(t, nc)
		c.hear(want)
		if name == "receive" {
			c.say("EHLO client.test", "503 5.5.1")
			c.say("MAIL FROM:<a@client.test>", "503 5.5.1")
			c.say("QUIT", "221")
		}
		c.closed()
	}
}

// What policy says of the content decides between the queue, the quarantine
// and nothing.
func TestPolicyOfTheContent(t *testing.T) {
	reg := prometheus.NewRegistry()
	w := openWith(t, nil, func(d *Deps) { d.Metrics = reg })
	c := dial(t, w.addr("receive"))
	c.say("HELO client.test", "250")
	const msg = "Subject: x\r\n\r\nbody"
	for _, x := range []struct {
		v          mail.Verdict
		want       string
		kept       int
		quarantine string
	}{
		{mail.Verdict{Action: mail.ActionDefer, Status: "4.7.0"}, "450 4.7.0", 0, ""},
		{mail.Verdict{Action: mail.ActionRefuse, Status: "5.7.1", Text: "GTUBE"}, "550 5.7.1 GTUBE", 0, ""},
		{mail.Verdict{Action: mail.ActionDiscard, Why: "rule 7"}, "250 2.0.0 Kept as ", 0, ""},
		{mail.Verdict{Action: mail.ActionQuarantine, Why: "Eicar"}, "250 2.0.0 Kept as ", 1, "Eicar"},
		{mail.Verdict{Prepend: []byte("X-Spam: a\nb\r\n")}, "451 4.3.0", 0, ""},
		{mail.Verdict{}, "250 2.0.0 Kept as ", 1, ""},
	} {
		w.guard.rule("content ", x.v)
		before := len(w.queue.all())
		c.mail(msg, x.want, "ann@example.test")
		now := w.queue.all()
		if len(now)-before != x.kept {
			t.Fatalf("%+v: kept %d", x.v, len(now)-before)
		}
		if x.kept == 1 && now[before].Quarantine != x.quarantine {
			t.Fatalf("%+v: quarantine %q", x.v, now[before].Quarantine)
		}
	}
	want := map[string]float64{"queued": 1, "refused": 1, "deferred": 2, "discarded": 1, "quarantined": 1}
	if got := results(t, reg); !maps.Equal(got, want) {
		t.Error(got)
	}
	if n := w.memory.used.Load(); n != 0 {
		t.Fatal(n, "bytes are still counted")
	}
}

// results reads how many messages ended how.
func results(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "postern_smtp_messages_total" {
			continue
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == "result" {
					out[l.GetValue()] = m.GetCounter().GetValue()
				}
			}
		}
	}
	return out
}

// A verdict about a sender or one recipient takes hold of the message or the
// recipient.
func TestFates(t *testing.T) {
	w := open(t, nil)
	w.guard.rule("sender bulk@client.test", mail.Verdict{Action: mail.ActionQuarantine, Why: "bulk"})
	w.guard.rule("sender void@client.test", mail.Verdict{Action: mail.ActionDiscard})
	w.guard.rule("recipient trap@example.test", mail.Verdict{Action: mail.ActionDiscard})
	c := dial(t, w.addr("receive"))
	c.say("HELO client.test", "250")
	send := func(from string, to ...string) []mail.Submission {
		before := len(w.queue.all())
		c.say("MAIL FROM:<"+from+">", "250")
		for _, a := range to {
			c.say("RCPT TO:<"+a+">", "250")
		}
		c.say("DATA", "354")
		c.write(".\r\n")
		c.hear("250 2.0.0 Kept as ")
		return w.queue.all()[before:]
	}
	if got := send("bulk@client.test", "ann@example.test"); len(got) != 1 || got[0].Quarantine != "bulk" {
		t.Fatalf("%+v", got)
	}
	if got := send("void@client.test", "ann@example.test"); len(got) != 0 {
		t.Fatalf("%+v", got)
	}
	if got := send("joe@client.test", "trap@example.test"); len(got) != 0 {
		t.Fatalf("%+v", got)
	}
	got := send("joe@client.test", "trap@example.test", "ann@example.test", "ann@EXAMPLE.test", "Ann@example.test")
	var to []string
	for _, r := range got[0].Envelope.Recipients {
		to = append(to, r.Address)
	}
	if !slices.Equal(to, []string{"ann@example.test", "Ann@example.test"}) {
		t.Fatal(to)
	}

	var f fate
	for _, v := range []mail.Action{mail.ActionPass, mail.ActionDiscard, mail.ActionQuarantine, mail.ActionDiscard} {
		f.add(mail.Verdict{Action: v})
	}
	if f.action != mail.ActionQuarantine || f.why == "" {
		t.Fatalf("%+v", f)
	}
}

// Policy may slow a client down, but not for long, and not when the server
// stops.
func TestDelays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &conn{srv: &Server{stopping: make(chan struct{})}, ctx: context.Background()}
		began := time.Now()
		c.delay(-time.Second)
		c.delay(time.Second)
		c.delay(time.Hour)
		if d := time.Since(began); d != time.Second+maxDelay {
			t.Fatal(d)
		}
		for range 100 {
			c.delay(time.Hour)
		}
		if d := time.Since(began); d != maxDelays {
			t.Fatal(d)
		}
	})
	w := open(t, nil)
	w.guard.rule("connect receive", mail.Verdict{Delay: time.Hour})
	nc, err := net.Dial("tcp", w.addr("receive"))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	eventually(t, "a connection", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.conns) == 1
	})
	began := time.Now()
	w.stop()
	if d := time.Since(began); d > maxDelay/2 {
		t.Fatal(d)
	}
}

// Lines of policy stand between our Received and the message, which is not
// copied for them.
func TestPrepend(t *testing.T) {
	w := open(t, nil)
	w.guard.reverse = "client.example"
	c := dial(t, w.addr("receive"))
	c.say("HELO client.test", "250")
	long := strings.Repeat("X-Spam: "+strings.Repeat("y", 990)+"\r\n", 10)
	for _, front := range []string{"", "Authentication-Results: mx.example.test;\r\n\tspf=pass\r\n", long} {
		w.guard.rule("content ", mail.Verdict{Prepend: []byte(front)})
		c.mail("Return-Path: <forged@x.test>\r\nSubject: x\r\n\r\nbody", "250", "ann@example.test")
		all := w.queue.all()
		s := all[len(all)-1]
		head, want := string(s.Body), "\r\n"+front+"Subject: x\r\n\r\nbody\r\n"
		if !strings.HasPrefix(head, "Return-Path: <joe@client.test>\r\nReceived: from client.test (client.example [127.0.0.1])\r\n\tby mx.example.test with SMTP id "+
			s.Trace.String()+"\r\n\tfor <ann@example.test>;\r\n\t") || !strings.HasSuffix(head, want) {
			t.Fatalf("%q", head)
		}
		seen := w.guard.bodies[len(w.guard.bodies)-1]
		if same := &seen[len(seen)-1] == &s.Body[len(s.Body)-1]; same != (len(front) < headroom-1024) {
			t.Fatal("copied:", !same)
		}
	}
	for b, want := range map[string]bool{
		"": true, "A: b\r\n": true, "A: b\r\n c\r\nD: e\r\n": true, "A: b": false, "A: b\n": false, " A: b\r\n": false, "A: b\r\n\r\n": false,
		"\r\n": false, "A b\r\n": false, "A: b\x00\r\n": false, "A: b\rc\r\n": false, strings.Repeat("A: b\r\n", 20000): false,
	} {
		if wholeLines([]byte(b)) != want {
			t.Errorf("%.40q: want %v", b, want)
		}
	}
	w.guard.reverse = "a)\r\nX: y" // names come from anybody's DNS
	c = dial(t, w.addr("receive"))
	c.say("HELO client.test", "250")
	w.guard.rule("content ", mail.Verdict{})
	c.mail("Subject: x\r\n\r\nbody", "250", "bob@example.test")
	if got := w.queue.mailbox("bob")[0]; !strings.Contains(got, "from client.test ([127.0.0.1])") {
		t.Fatalf("%q", got)
	}
}

// Policy is told of what looks like guessing.
func TestFailed(t *testing.T) {
	w := open(t, nil)
	c := dial(t, w.addr("receive"))
	c.say("FOO", "500")
	c.say("HELO client.test", "250")
	c.say("MAIL FROM:<a@client.test>", "250")
	c.say("RCPT TO:<ghost@example.test>", "550 5.1.1")
	c.say("RCPT TO:<disabled@example.test>", "550 5.2.1")
	c = dial(t, w.addr("submission"))
	c.say("STARTTLS", "220")
	c.tls()
	c.say("EHLO client.test", "250")
	c.say("AUTH PLAIN AGFubkBleGFtcGxlLnRlc3QAd3Jvbmc=", "535")
	c.say("AUTH PLAIN AGJ1c3lAZXhhbXBsZS50ZXN0AHg=", "454") // not judged
	w.guard.mu.Lock()
	defer w.guard.mu.Unlock()
	if want := []string{"receive command", "receive recipient", "submission password"}; !slices.Equal(w.guard.failed, want) {
		t.Fatal(w.guard.failed)
	}
}
