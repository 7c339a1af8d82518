package smtpc

import (
	"bytes"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func wantSaid(t *testing.T, p *peer, want ...string) {
	t.Helper()
	synctest.Wait()
	if !slices.Equal(p.said, want) {
		t.Errorf("said\n%s\nwant\n%s", strings.Join(p.said, "\n"), strings.Join(want, "\n"))
	}
}

func TestPlain(t *testing.T) {
	for _, ext := range [][]string{nil, {"PIPELINING"}} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ext: ext}
			c := dial(t, p)
			for range 2 {
				s, err := c.Send(t.Context(), envelope("bob@b.test", "cid@b.test"), []byte(letter), yes)
				if err != nil || s.Outcome != Taken || s.Reply.Text != "queued as 1" || s.Reply.Status != "2.0.0" {
					t.Fatalf("%+v, %v", s, err)
				}
			}
			c.Quit(t.Context())
			one := []string{"MAIL FROM:<ann@a.test>", "RCPT TO:<bob@b.test>", "RCPT TO:<cid@b.test>", "DATA"}
			wantSaid(t, p, slices.Concat([]string{"EHLO client.test"}, one, one, []string{"QUIT"})...)
			if c.Used() != 2 || len(p.bodies) != 2 || string(p.bodies[1]) != letter {
				t.Errorf("used %d, peer has %q", c.Used(), p.bodies)
			}
		})
	}
}

func TestHELO(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{act: map[Stage]string{StageHello: "502 what"}}
		c := dial(t, p)
		s, err := c.Send(t.Context(), envelope("bob@b.test"), []byte(letter), yes)
		if err != nil || s.Outcome != Taken {
			t.Errorf("%v, %v", s.Outcome, err)
		}
		c.Close()
		wantSaid(t, p, "EHLO client.test", "HELO client.test", "MAIL FROM:<ann@a.test>", "RCPT TO:<bob@b.test>", "DATA")
	})
}

// TestMixed: each recipient has its own answer, the accepted ones get the mail.
func TestMixed(t *testing.T) {
	for _, ext := range [][]string{nil, {"PIPELINING"}} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ext: ext, acts: map[Stage][]string{StageRcpt: {
				"550 5.1.1 no such user", "250 ok", "451 4.2.1 greylisted", "452 4.5.3 too many", "552 too many", "552 5.2.2 full"}}}
			c := dial(t, p)
			e := envelope("a@b.test", "b@b.test", "c@b.test", "d@b.test", "e@b.test", "f@b.test", "not an address")
			s, err := c.Send(t.Context(), e, []byte(letter), yes)
			if err != nil || s.Outcome != Taken {
				t.Fatalf("%v, %v", s.Outcome, err)
			}
			var got []string
			for _, r := range s.Recipients {
				mark := ""
				if r.Accepted {
					mark += "+"
				}
				if r.TooMany {
					mark += "*"
				}
				if r.Reply.Local {
					mark += "!"
				}
				got = append(got, mark+r.Reply.String())
			}
			want := []string{"550 5.1.1 no such user", "+250 ok", "451 4.2.1 greylisted", "*452 4.5.3 too many", "*552 too many", "552 5.2.2 full", "!553 5.1.3 The recipient is not an address"}
			if !slices.Equal(got, want) {
				t.Errorf("got %q\nwant %q", got, want)
			}
			c.Close()
		})
	}
}

// TestNobody: with pipelining a peer may want the message though it accepted
// nobody; it gets a lone dot and the session goes on.
func TestNobody(t *testing.T) {
	for _, mailRefused := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ext: []string{"PIPELINING"}, acts: map[Stage][]string{StageRcpt: {"550 no", "550 no"}, StageDot: {"554 5.5.1 no valid recipients"}}}
			if mailRefused {
				p.acts[StageMail] = []string{"550 5.7.1 not you"}
			}
			c := dial(t, p)
			s, err := c.Send(t.Context(), envelope("a@b.test", "b@b.test"), []byte(letter), func() error { t.Error("asked"); return nil })
			if (err != nil) != mailRefused || s.Outcome != NotSent || len(p.bodies) != 1 || len(p.bodies[0]) != 0 {
				t.Errorf("%v, %v, peer has %q", s.Outcome, err, p.bodies)
			}
			if mailRefused && s.Recipients[0].Reply.Code != 0 {
				t.Errorf("a recipient has an answer that was for MAIL: %v", s.Recipients[0])
			}
			if s, err = c.Send(t.Context(), envelope("c@b.test"), []byte(letter), yes); err != nil || s.Outcome != Taken {
				t.Errorf("next message: %v, %v", s.Outcome, err)
			}
			c.Close()
		})
	}
}

// TestReset: a transaction that was left open is reset before the next one.
func TestReset(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{acts: map[Stage][]string{StageMail: {"451 later"}}}
		c := dial(t, p)
		_, err := c.Send(t.Context(), envelope("a@b.test"), []byte(letter), yes)
		if !kind.Is(err, kind.Busy) {
			t.Errorf("%v", err)
		}
		if _, err = c.Send(t.Context(), envelope("a@b.test"), []byte(letter), yes); err != nil {
			t.Error(err)
		}
		if err := c.Reset(t.Context()); err != nil {
			t.Error(err)
		}
		c.Close()
		wantSaid(t, p, "EHLO client.test", "MAIL FROM:<ann@a.test>", "RSET", "MAIL FROM:<ann@a.test>", "RCPT TO:<a@b.test>", "DATA", "RSET")
		if err := c.Reset(t.Context()); err == nil {
			t.Error("a closed session was reset")
		}
	})
}

// TestResetRefused: a peer that does not even reset says nothing about the
// message that would have come next.
func TestResetRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{acts: map[Stage][]string{StageMail: {"451 later"}}, act: map[Stage]string{StageReset: "554 no"}}
		c := dial(t, p)
		c.Send(t.Context(), envelope("a@b.test"), []byte(letter), yes)
		_, err := c.Send(t.Context(), envelope("b@b.test"), []byte(letter), yes)
		var f *Failure
		if !errors.As(err, &f) || f.Reply.Code != 0 || !f.AboutHost() || !kind.Is(err, kind.Busy) || c.Usable() {
			t.Errorf("%+v", err)
		}
	})
}

// TestMany: more recipients than fit one group of commands.
func TestMany(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{ext: []string{"PIPELINING"}}
		c := dial(t, p)
		var to []string
		for i := range 3*group + 5 {
			to = append(to, "u"+strings.Repeat("x", i%60)+"@b.test")
		}
		s, err := c.Send(t.Context(), envelope(to...), []byte(letter), yes)
		if err != nil || s.Outcome != Taken || len(p.said) != len(to)+3 {
			t.Errorf("%v, %v, %d commands", s.Outcome, err, len(p.said))
		}
		c.Close()
	})
}

// TestParameters: what is asked for by the envelope and offered by the peer,
// and nothing else, goes into the commands.
func TestParameters(t *testing.T) {
	all := []string{"PIPELINING", "SIZE 1000", "8BITMIME", "SMTPUTF8", "DSN"}
	full := mail.Envelope{From: "ann@a.test", Ret: "hdrs", EnvID: "a+b=c d", UTF8: true, EightBit: true,
		Recipients: []mail.EnvelopeRecipient{{Address: "bob@b.test", Notify: "SUCCESS,FAILURE", ORcpt: "rfc822;bob+x@b.test"}}}
	wide := full
	wide.From = "änn@a.test"
	wide.Recipients = []mail.EnvelopeRecipient{{Address: "bob@bücher.test", Notify: "NEVER,DELAY", ORcpt: "utf-8;böb@b.test"}}
	evil := envelope("bob@b.test")
	evil.EnvID, evil.Ret = "x\r\nRSET", "FULL\r\nQUIT"
	evil.Recipients[0].Notify, evil.Recipients[0].ORcpt = "NEVER\r\nQUIT", "rfc822;x\r\nQUIT"
	for _, tt := range []struct {
		name       string
		ext        []string
		e          mail.Envelope
		body       string
		mail, rcpt string
	}{
		{"nothing offered", nil, full, letter, "MAIL FROM:<ann@a.test>", "RCPT TO:<bob@b.test>"},
		{"all offered", all, full, letter, "MAIL FROM:<ann@a.test> SIZE=21 RET=HDRS ENVID=a+2Bb+3Dc+20d",
			"RCPT TO:<bob@b.test> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;bob+2Bx@b.test"},
		{"eight bits", all[:3], full, "Subject: x\r\n\r\nä\r\n", "MAIL FROM:<ann@a.test> SIZE=18 BODY=8BITMIME", "RCPT TO:<bob@b.test>"},
		{"eight bits in the header", all[:4], full, "Subject: ä\r\n\r\nx\r\n", "MAIL FROM:<ann@a.test> SIZE=18 BODY=8BITMIME SMTPUTF8", "RCPT TO:<bob@b.test>"},
		{"internationalized", all, wide, letter, "MAIL FROM:<änn@a.test> SIZE=21 BODY=8BITMIME SMTPUTF8 RET=HDRS ENVID=a+2Bb+3Dc+20d",
			"RCPT TO:<bob@xn--bcher-kva.test> ORCPT=utf-8;böb@b.test"},
		{"null sender", all, mail.Envelope{Recipients: envelope("bob@b.test").Recipients}, letter, "MAIL FROM:<> SIZE=21", "RCPT TO:<bob@b.test>"},
		{"injection", all, evil, letter, "MAIL FROM:<ann@a.test> SIZE=21 ENVID=x+0D+0ARSET", "RCPT TO:<bob@b.test> ORCPT=rfc822;x+0D+0AQUIT"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ext: tt.ext}
			c := dial(t, p)
			s, err := c.Send(t.Context(), tt.e, []byte(tt.body), yes)
			if err != nil || s.Outcome != Taken {
				t.Errorf("%s: %v, %v", tt.name, s.Outcome, err)
			}
			c.Close()
			wantSaid(t, p, "EHLO client.test", tt.mail, tt.rcpt, "DATA")
		})
	}
}

// TestCannot: what the peer cannot take is known before a word is said, and
// the session stays as it was.
func TestCannot(t *testing.T) {
	utf8 := envelope("bob@b.test")
	utf8.UTF8 = true
	wide := envelope("bob@b.test")
	wide.From = "änn@a.test"
	secret := envelope("bob@b.test")
	secret.RequireTLS = true
	bad := envelope("bob@b.test")
	bad.From = "ann@a.test> SIZE=1 <"
	for _, tt := range []struct {
		want string
		ext  []string
		e    mail.Envelope
		body string
	}{
		{"552 5.3.4", []string{"SIZE 20"}, envelope("bob@b.test"), letter},
		{"554 5.6.3", nil, envelope("bob@b.test"), "Subject: x\r\n\r\nä\r\n"},
		{"554 5.6.3", nil, envelope("bob@b.test"), "Subject: ä\r\n\r\nx\r\n"},
		{"550 5.6.9", []string{"8BITMIME"}, utf8, "Subject: ä\r\n\r\nx\r\n"},
		{"553 5.6.7", []string{"8BITMIME"}, wide, letter},
		{"550 5.7.30", []string{"REQUIRETLS"}, secret, letter},
		{"553 5.1.7", nil, bad, letter},
		{"554 5.6.0", nil, envelope("bob@b.test"), "Subject: x\r\n\r\na\n.\nMAIL FROM:<x@x>\r\n"},
		{"554 5.6.0", nil, envelope("bob@b.test"), "a\r.\r\n"},
		{"554 5.6.0", nil, envelope("bob@b.test"), "a\x00\r\n"},
		{"554 5.6.0", nil, envelope("bob@b.test"), "a\r"},
		{"554 5.6.0", nil, envelope("bob@b.test"), "a\r\r\n"},
		{"554 5.6.0", nil, envelope("bob@b.test"), "\n"},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{ext: tt.ext}
			c := dial(t, p)
			s, err := c.Send(t.Context(), tt.e, []byte(tt.body), yes)
			var f *Failure
			if !errors.As(err, &f) || !strings.HasPrefix(f.Reply.String(), tt.want+" ") || !f.Reply.Local || s.Outcome != NotSent || !c.Usable() {
				t.Errorf("%s: %v, %v", tt.want, s.Outcome, err)
			}
			c.Close()
			wantSaid(t, p, "EHLO client.test")
		})
	}
	synctest.Test(t, func(t *testing.T) { // one recipient cannot, the other can
		p := &peer{}
		c := dial(t, p)
		s, err := c.Send(t.Context(), envelope("böb@b.test", "bob@b.test"), []byte(letter), yes)
		if err != nil || s.Outcome != Taken || s.Recipients[0].Reply.Status != "5.6.7" || !s.Recipients[1].Accepted {
			t.Errorf("%+v, %v", s, err)
		}
		c.Close()
	})
}

func TestTLS(t *testing.T) {
	server, client := selfSigned(t)
	synctest.Test(t, func(t *testing.T) {
		p := &peer{ext: []string{"STARTTLS", "AUTH LOGIN PLAIN", "REQUIRETLS", "PIPELINING"}, tls: server}
		o := p.options()
		o.TLS, o.Config, o.User, o.Password = TLSMust, client, "ann", "secret"
		c, err := Dial(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		e := envelope("bob@b.test")
		e.RequireTLS = true
		body := []byte(letter + strings.Repeat(".line of some length\r\n", 20_000))
		s, err := c.Send(t.Context(), e, body, yes)
		if err != nil || s.Outcome != Taken || c.TLS() == nil || !bytes.Equal(p.bodies[0], body) {
			t.Errorf("%v, %v", s.Outcome, err)
		}
		c.Quit(t.Context())
		token := base64.StdEncoding.EncodeToString([]byte("\x00ann\x00secret"))
		wantSaid(t, p, "EHLO client.test", "STARTTLS", "EHLO client.test", "AUTH PLAIN "+token, "MAIL FROM:<ann@a.test> REQUIRETLS", "RCPT TO:<bob@b.test>", "DATA", "QUIT")
	})
}

// TestTLSTrouble: each way in which STARTTLS can go wrong.
func TestTLSTrouble(t *testing.T) {
	server, client := selfSigned(t)
	other := client.Clone()
	other.ServerName = "other.test"
	offer := []string{"STARTTLS"}
	for _, tt := range []struct {
		name string
		p    peer
		mode TLS
		user string
		want Stage // empty: the session comes about
		kind kind.Kind
	}{
		{"not offered, may", peer{}, TLSMay, "", "", 0},
		{"not offered, must", peer{}, TLSMust, "", StageSTARTTLS, kind.Busy},
		{"refused, may", peer{ext: offer, act: map[Stage]string{StageSTARTTLS: "454 not now"}}, TLSMay, "", "", 0},
		{"refused, must", peer{ext: offer, act: map[Stage]string{StageSTARTTLS: "454 not now"}}, TLSMust, "", StageSTARTTLS, kind.Busy},
		{"refused for good, must", peer{ext: offer, act: map[Stage]string{StageSTARTTLS: "554 no"}}, TLSMust, "", StageSTARTTLS, kind.Busy},
		{"injection", peer{ext: offer, act: map[Stage]string{StageSTARTTLS: "220 go\r\n250-SIZE 5\r\n250 AUTH PLAIN"}}, TLSMay, "", StageSTARTTLS, kind.Busy},
		{"odd answer", peer{ext: offer, act: map[Stage]string{StageSTARTTLS: "250 yes"}}, TLSMay, "", StageSTARTTLS, kind.Busy},
		{"garbage", peer{ext: offer, tls: server, act: map[Stage]string{StageTLS: garbage}}, TLSMay, "", StageTLS, kind.Busy},
		{"hang", peer{ext: offer, tls: server, act: map[Stage]string{StageTLS: hang}}, TLSMay, "", StageTLS, kind.Busy},
		{"drop", peer{ext: offer, tls: server, act: map[Stage]string{StageTLS: drop}}, TLSMay, "", StageTLS, kind.Busy},
		{"wrong name", peer{ext: offer, tls: server}, TLSMust, "other", StageTLS, kind.Busy},
		{"no log-in offered", peer{ext: offer, tls: server}, TLSMust, "ann", StageAuth, kind.Busy},
		{"wrong password", peer{ext: []string{"STARTTLS", "AUTH PLAIN"}, tls: server, act: map[Stage]string{StageAuth: "535 5.7.8 no"}}, TLSMust, "ann", StageAuth, kind.Denied},
		{"log-in not now", peer{ext: []string{"STARTTLS", "AUTH PLAIN"}, tls: server, act: map[Stage]string{StageAuth: "454 4.7.0 later"}}, TLSMust, "ann", StageAuth, kind.Busy},
		{"log-in goes on", peer{ext: []string{"STARTTLS", "AUTH PLAIN"}, tls: server, act: map[Stage]string{StageAuth: "334 "}}, TLSMust, "ann", StageAuth, kind.Busy},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := tt.p
			o := p.options()
			o.TLS, o.Config = tt.mode, client
			switch tt.user {
			case "other":
				o.Config = other
			case "ann":
				o.User, o.Password = "ann", "wrong"
			}
			c, err := Dial(t.Context(), o)
			var f *Failure
			switch {
			case tt.want == "" && err != nil, tt.want != "" && (!errors.As(err, &f) || f.Stage != tt.want || kind.Of(err) != tt.kind):
				t.Errorf("%s: %v", tt.name, err)
			case tt.want == "" && c.TLS() != nil:
				t.Errorf("%s: TLS came about", tt.name)
			}
			if c != nil {
				c.Close()
			}
		})
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []Options{
		{},
		{Hello: "a b"},
		{Hello: "a\r\nQUIT"},
		{Hello: "client.test", TLS: TLSMay},
		{Hello: "client.test", User: "ann"},
	} {
		if _, err := Dial(t.Context(), o); !kind.Is(err, kind.Invalid) {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestUnasked: an answer too many means that all that follow would be taken
// for others.
func TestUnasked(t *testing.T) {
	for way, code := range map[string]int{"250 ok\r\n250 ok": 0, "250 ok\r\n421 4.4.2 bored": 421} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{act: map[Stage]string{StageMail: way}}
			c := dial(t, p)
			s, err := c.Send(t.Context(), envelope("bob@b.test"), []byte(letter), yes)
			var f *Failure
			if !errors.As(err, &f) || f.Reply.Code != code || s.Outcome != NotSent || c.Usable() {
				t.Errorf("%v, %v", s.Outcome, err)
			}
		})
	}
}
