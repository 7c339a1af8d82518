package load

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/miekg/dns"
)

// freePort is one that nobody uses now, with the next one.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func startWorld(t *testing.T) *World {
	t.Helper()
	w, err := StartWorld(freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// give sends one message to the world as a mail server does.
func (w *World) give(t *testing.T, id ID, to string) error {
	t.Helper()
	nc, err := net.Dial("tcp", w.Host())
	if err != nil {
		return err
	}
	c := smtp.NewClient(nc)
	defer c.Close()
	_, err = transfer(c, "a@example.test", []string{to}, Compose(id, "a@example.test", []string{to}, 1000, rand.New(rand.NewPCG(1, 1))))
	return err
}

func TestSinkManners(t *testing.T) {
	w := startWorld(t)
	for _, c := range []struct {
		manners          Manners
		answered, silent int
		code             int // of the answer, 0 for none
	}{
		{Manners{}, 1, 0, 250},
		{Manners{Refuse: 1}, 0, 0, 550},
		{Manners{Defer: 1}, 0, 0, 450},
		{Manners{DeferAt: 1}, 0, 0, 451},
		{Manners{Cut: 1}, 0, 0, 0},
		{Manners{Lose: 1}, 0, 1, 0},
		{Manners{Hang: 1, HangFor: time.Millisecond}, 0, 0, 0},
		{Manners{Lose: 2}, 1, 0, 250},
	} {
		w.Sink.Behave("x.invalid", c.manners)
		id := ID(fmt.Sprintf("%+v", c.manners))
		err := w.give(t, id, "r@x.invalid")
		got := 250
		var answer *smtp.SMTPError
		if errors.As(err, &answer) {
			got = answer.Code
		} else if err != nil {
			got = 0
		}
		if taken := w.Sink.All()[Delivery{id, "r@x.invalid"}]; got != c.code || taken.Answered != c.answered || taken.Silent != c.silent {
			t.Errorf("%+v: answer %d (%v), taken %+v", c.manners, got, err, taken)
		}
	}
}

func TestNames(t *testing.T) {
	w := startWorld(t)
	ask := func(network, name string, kind uint16) *dns.Msg {
		q := new(dns.Msg)
		q.SetQuestion(name, kind)
		a, _, err := (&dns.Client{Net: network}).ExchangeContext(t.Context(), q, w.Names.Addr)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, network := range []string{"udp", "tcp"} {
		if a := ask(network, Polite+".", dns.TypeMX); len(a.Answer) != 1 || a.Answer[0].(*dns.MX).Mx != "mx."+Polite+"." {
			t.Error(a)
		}
		if a := ask(network, "mx."+AwayFor+".", dns.TypeA); len(a.Answer) != 1 || a.Answer[0].(*dns.A).A.String() != awayIP {
			t.Error(a)
		}
		if a := ask(network, "mx."+Polite+".", dns.TypeAAAA); len(a.Answer) != 0 || a.Rcode != dns.RcodeSuccess {
			t.Error(a)
		}
		if a := ask(network, "other.invalid.", dns.TypeMX); a.Rcode != dns.RcodeNameError {
			t.Error(a)
		}
	}
}

// failed is a report as Postern sends it, about message a-1.
func failed(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "internal", "transport", "dsn", "testdata", "failed.eml"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.ReplaceAll(strings.ReplaceAll(string(b), "\r\n", "\n"), "\n", "\r\n")
	at := strings.LastIndex(text, "Message-ID: ")
	return text[:at] + firstLine + "a-1\r\n" + text[at:]
}

func TestReturned(t *testing.T) {
	text := failed(t)
	id, to, ok := Returned([]byte(text))
	if !ok || id != "a-1" || len(to) == 0 || !strings.Contains(text, "Final-Recipient: rfc822;"+to[0]) {
		t.Error(id, to, ok)
	}
	if _, _, ok := Returned([]byte(strings.ReplaceAll(text, "Action: failed", "Action: delayed"))); ok {
		t.Error("a delay is no return")
	}
	if _, _, ok := Returned([]byte(strings.ReplaceAll(text, "report-type", "x"))); ok {
		t.Error("this is no report")
	}
	p := reports{}
	if !p.add([]byte(text)) || p[Delivery{"a-1", strings.ToLower(to[0])}] != 1 {
		t.Error(p)
	}
}

func TestOutsideJudges(t *testing.T) {
	sum := sha256.Sum256([]byte("x"))
	for _, c := range []struct {
		name     string
		outcome  Outcome
		taken    Taken
		back     int
		may, was bool // repeat possible; its server was away
		list     func(Report) []string
	}{
		{"delivered", Confirmed, Taken{Answered: 1, Sum: sum}, 0, false, false, nil},
		{"returned", Confirmed, Taken{}, 1, false, false, nil},
		{"lost", Confirmed, Taken{}, 0, false, false, func(r Report) []string { return r.Lost }},
		{"twice", Confirmed, Taken{Answered: 2, Sum: sum}, 0, false, false, func(r Report) []string { return r.Doubled }},
		{"twice and known", Confirmed, Taken{Answered: 1, Silent: 1, Sum: sum}, 0, true, false, nil},
		{"returned twice", Confirmed, Taken{}, 2, true, false, func(r Report) []string { return r.Doubled }},
		{"both", Confirmed, Taken{Answered: 1, Sum: sum}, 1, false, false, func(r Report) []string { return r.Doubled }},
		{"changed", Confirmed, Taken{Answered: 1}, 0, false, false, func(r Report) []string { return r.Damaged }},
		{"unknown", Unknown, Taken{}, 0, false, false, nil},
		{"unknown and there", Unknown, Taken{Answered: 1, Sum: sum}, 0, false, false, nil},
		{"unknown, twice and known", Unknown, Taken{Answered: 1, Silent: 1, Sum: sum}, 0, true, false, nil},
		{"unknown and twice", Unknown, Taken{Answered: 2, Sum: sum}, 0, false, false, func(r Report) []string { return r.Doubled }},
		{"refused", Refused, Taken{}, 0, false, false, nil},
		{"refused and there", Refused, Taken{Answered: 1, Sum: sum}, 0, false, false, func(r Report) []string { return r.Doubled }},
		{"refused by one that woke up", Refused, Taken{Answered: 1, Sum: sum}, 0, false, true, nil},
	} {
		var r Report
		s := Sent{ID: "a-1", Sum: sum, Outcome: c.outcome}
		if c.outcome == Confirmed {
			s.Trace = "t"
		}
		o := &Outside{Repeatable: func(Sent, string) (bool, error) { return c.may, nil }, Away: func(string, time.Time) bool { return c.was }}
		if err := o.judge(&r, s, Delivery{"a-1", "r@x.invalid"}, c.taken, c.back); err != nil {
			t.Fatal(err)
		}
		if c.list == nil != r.Good() || c.list != nil && len(c.list(r)) != 1 {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

// TestSubmitterNeedsTLS: nobody tells a password to a server without TLS.
func TestSubmitterNeedsTLS(t *testing.T) {
	w := newWorld(t)
	w.target.Servers[0].Submission = w.target.Servers[0].SMTP
	h := NewHistory()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	(&Submitter{Name: "s", User: w.target.Users[0], Target: w.target, History: h, Sizes: Size4K, Domains: Domains()}).Run(ctx)
	if n := len(h.Sent()); n != 0 || len(h.Troubles()) == 0 {
		t.Errorf("%d messages went to a server without TLS", n)
	}
}

func FuzzReturned(f *testing.F) {
	f.Add([]byte(failed(f)))
	f.Fuzz(func(t *testing.T, b []byte) { Returned(b) })
}
