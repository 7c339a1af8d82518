package remote

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/transport/dns"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

// TestRelays: what arrives is what was accepted, but for our Return-Path, and
// the right to send was asked for in time.
func TestRelays(t *testing.T) {
	w := newWorld(t)
	p := w.host("192.0.2.1")
	p.ext = append(p.ext, "DSN")
	body := "Subject: dots\r\nX-Long: " + strings.Repeat("x", 5000) + "\r\n\r\n.\r\n..\r\n.dot\r\n\tbinary \x01\xff\xfe\r\n" + strings.Repeat("0123456789abcdef\r\n", 5000)
	work := w.work("mx:a.test", "Return-Path: <sender@out.test>\r\n"+body, "one@a.test", "two@a.test")
	work.Rows[0].Notify, work.Rows[0].Original = "SUCCESS,FAILURE", "rfc822;one@old.test"
	work.Message.Envelope.Ret, work.Message.Envelope.EnvID = "HDRS", "id 1"
	rs := w.send(work)
	for _, r := range rs {
		if r.State != queue.StateRelayed || r.Code != 250 || r.Status != "2.6.0" || r.Text != "kept" || r.Host != "mx.a.test" || r.TLS != 0 || !r.Reports {
			t.Errorf("result %+v", r)
		}
	}
	if got := p.got(); len(got) != 1 || got[0] != body {
		t.Errorf("arrived: %d messages, the first of %d bytes; sent %d", len(got), len(got[0]), len(body))
	}
	want := []string{"EHLO out.test", "MAIL FROM:<sender@out.test> SIZE=", "RCPT TO:<one@a.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;one@old.test", "RCPT TO:<two@a.test>", "DATA"}
	for i, line := range want {
		if i >= len(p.said) || !strings.HasPrefix(p.said[i], line) {
			t.Errorf("said %q, want %q at %d", p.said, line, i)
			break
		}
	}
	if !strings.HasSuffix(p.said[1], " RET=HDRS ENVID=id+201") {
		t.Errorf("said %q", p.said[1])
	}
	i := slices.Index(w.steps, "begun mx.a.test")
	if i < 1 || w.steps[len(w.steps)-1] != "mine" {
		t.Errorf("steps %q", w.steps)
	}
	if !slices.Equal(w.dialed, []string{"192.0.2.1:25"}) {
		t.Errorf("dialed %q", w.dialed)
	}
}

// TestNextHost: what a host does before it knows of the message leads to the
// next one.
func TestNextHost(t *testing.T) {
	for _, fault := range []map[string]string{
		{"greeting": "554 5.3.2 no service"}, {"greeting": "421 busy"}, {"greeting": drop}, {"greeting": "garbage"}, {"EHLO": "421 no"},
		{"MAIL": "421 4.3.2 going down"}, {"RCPT": drop}, {"DATA": drop}, {"body": drop}, {"greeting": endless}, nil,
	} {
		w := newWorld(t)
		w.zone.mx["a.test"] = []dns.MX{{Host: "mx.a.test", Preference: 10}, {Host: "mx2.a.test", Preference: 20}}
		w.zone.addrs["mx2.a.test"] = []string{"192.0.2.2"}
		if fault != nil {
			w.host("192.0.2.1").act = fault
		}
		second := w.host("192.0.2.2")
		if r := w.one("mx:a.test"); r.State != queue.StateRelayed || r.Host != "mx2.a.test" || len(second.got()) != 1 {
			t.Errorf("%v: %+v", fault, r)
		}
	}
}

// TestOutcomes: one recipient, one host.
func TestOutcomes(t *testing.T) {
	const (
		later = queue.StateDeferred
		back  = queue.StateReturned
	)
	for _, c := range []struct {
		at, text string
		state    queue.State
		status   string
		flags    string // w: whole, s: slow, d: doubtful
	}{
		{"greeting", "554 5.7.1 go away", later, "5.7.1", "w"},
		{"greeting", "421 4.3.2 not now", later, "4.3.2", "w"},
		{"greeting", drop, later, "4.4.2", "w"},
		{"greeting", endless, later, "4.4.2", "w"},
		{"EHLO", "421 4.3.2 not now", later, "4.3.2", "w"},
		{"MAIL", "450 4.1.8 who is that", later, "4.1.8", ""},
		{"MAIL", "550 5.1.8 who is that", back, "5.1.8", ""},
		{"MAIL", "421 4.3.2 not now", later, "4.3.2", "w"},
		{"MAIL", "451 4.7.651 pace", later, "4.7.651", "s"},
		{"RCPT", "550 no such user", back, "5.0.0", ""},
		{"RCPT", "450 4.2.0 greylisted", later, "4.2.0", ""},
		{"RCPT", "451 4.7.500 Server busy", later, "4.7.500", "s"},
		{"RCPT", "451 4.7.499 other", later, "4.7.499", ""},
		{"RCPT", "550 5.7.64 TenantAttribution", back, "5.7.64", ""}, // no connector of ours
		{"RCPT", drop, later, "4.4.2", "w"},
		{"DATA", "451 4.3.0 later", later, "4.3.0", ""},
		{"DATA", "554 5.6.0 never", back, "5.6.0", ""},
		{"body", drop, later, "4.4.2", "s"},
		{".", "554 5.7.1 spam", back, "5.7.1", ""},
		{".", "452 4.3.1 full", later, "4.3.1", ""},
		{".", "421 4.3.2 not now", later, "4.3.2", "w"},
		{".", drop, later, "4.4.2", "sd"},
		{".", "\x00\xff garbage", later, "4.4.2", "sd"},
		{".", endless, later, "4.4.2", "sd"},
	} {
		w := newWorld(t)
		w.host("192.0.2.1").act[c.at] = c.text
		r := w.one("mx:a.test")
		flags := ""
		for _, f := range []struct {
			on   bool
			name string
		}{{r.Whole, "w"}, {r.Slow, "s"}, {r.Doubtful, "d"}} {
			if f.on {
				flags += f.name
			}
		}
		if r.State != c.state || r.Status != c.status || flags != c.flags || r.Host != "mx.a.test" {
			t.Errorf("%s %q: %+v, want %s %s %q", c.at, c.text, r, c.state, c.status, c.flags)
		}
	}
}

// TestMixed: each recipient has its own answer.
func TestMixed(t *testing.T) {
	w := newWorld(t)
	p := w.host("192.0.2.1")
	p.act["RCPT TO:<gone@a.test>"] = "550 5.1.1 no such user"
	p.act["RCPT TO:<full@a.test>"] = "452 4.2.2 full"
	rs := w.send(w.work("mx:a.test", letter, "one@a.test", "gone@a.test", "full@a.test", "two@a.test", "ünï@a.test"))
	want := []queue.State{queue.StateRelayed, queue.StateReturned, queue.StateDeferred, queue.StateRelayed, queue.StateReturned}
	for i, r := range rs {
		if r.State != want[i] || r.Whole {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if rs[4].Status != "5.6.7" || rs[1].Status != "5.1.1" {
		t.Errorf("%+v", rs)
	}
}

// TestTooMany: recipients beyond the limit of a host go at once in another
// transaction, and senders have one of their own.
func TestTooMany(t *testing.T) {
	w := newWorld(t)
	p := w.host("192.0.2.1")
	p.act["RCPT TO:<two@a.test>"] = "452 4.5.3 too many"
	w.deps.Sender = func(m queue.Message, r queue.RecipientRow) string {
		if r.Why == queue.WhyForward {
			p.mu.Lock()
			delete(p.act, "RCPT TO:<two@a.test>")
			p.mu.Unlock()
			return "SRS0=x@out.test"
		}
		return m.Envelope.From
	}
	work := w.work("mx:a.test", letter, "one@a.test", "two@a.test", "three@a.test")
	rs := w.send(work)
	if rs[1].State != queue.StateDeferred || rs[1].Code != 452 || p.heard("MAIL") != 2 {
		t.Errorf("%+v, %q", rs, p.said)
	}
	work.Rows[2].Why = queue.WhyForward
	for i, r := range w.send(work) {
		if r.State != queue.StateRelayed {
			t.Errorf("%d: %+v", i, r)
		}
	}
	if p.heard("MAIL FROM:<SRS0=x@out.test>") != 1 {
		t.Errorf("said %q", p.said)
	}
}

// TestRight: nothing goes without the right to send.
func TestRight(t *testing.T) {
	no := errors.New("another server has it")
	for _, c := range []struct {
		name  string
		mine  int // the call of Mine that fails
		begun error
	}{{"at once", 1, nil}, {"connected", 2, nil}, {"before the dot", 3, nil}, {"not durable", 0, no}} {
		w := newWorld(t)
		p := w.host("192.0.2.1")
		work := w.work("mx:a.test", letter, "user@a.test")
		n := 0
		work.Mine = func() error {
			if n++; n == c.mine {
				return no
			}
			return nil
		}
		work.Begun = func(context.Context, string) error { return c.begun }
		if r := w.send(work)[0]; r.State != queue.StateReady || r.Doubtful || len(p.got()) != 0 {
			t.Errorf("%s: %+v, %d messages", c.name, r, len(p.got()))
		}
	}
}

// TestEnded: an attempt whose time is over leaves rows as they are, or in doubt.
func TestEnded(t *testing.T) {
	for _, c := range []struct {
		at    string
		state queue.State
	}{{"lookup", queue.StateReady}, {"connect", queue.StateReady}, {"greeting", queue.StateReady}, {"RCPT", queue.StateReady}, {".", queue.StateDeferred}} {
		w := newWorld(t)
		p := w.host("192.0.2.1")
		p.act[c.at] = hang
		ctx, cancel := context.WithCancel(context.Background())
		work := w.work("mx:a.test", letter, "user@a.test")
		if p.hung = cancel; c.at == "connect" {
			w.deps.Policies = &ender{w.deps.Policies, cancel}
		}
		if c.at == "lookup" {
			cancel()
			w.zone.errs["a.test"] = context.Canceled
		}
		r := w.agent().Deliver(ctx, work)[0]
		cancel()
		if r.State != c.state || r.Doubtful != (c.at == ".") {
			t.Errorf("%s: %+v", c.at, r)
		}
	}
}

// ender ends the attempt when policies are asked for.
type ender struct {
	Policies
	end func()
}

func (e *ender) Host(ctx context.Context, q tlspolicy.Question) (tlspolicy.Plan, error) {
	e.end()
	return e.Policies.Host(ctx, q)
}
