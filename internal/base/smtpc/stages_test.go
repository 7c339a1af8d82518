package smtpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// TestStages lets a peer do everything wrong at every stage and looks at the
// one thing that matters: whether the message may have been taken.
func TestStages(t *testing.T) {
	before := []Stage{StageGreeting, StageHello, StageMail, StageRcpt, StageData}
	ways := []string{hang, drop, endlessLine, endlessReply, dripping, garbage, "421 4.3.2 closing", "451 4.3.0 later", "554 5.0.0 no", "199 what", "399 what", "250-a\r\n251 b"}
	for _, pipelining := range []bool{false, true} {
		for _, st := range append(before, StageDot) {
			for _, way := range ways {
				name := fmt.Sprintf("pipelining=%v/%s/%.12q", pipelining, st, way)
				t.Run(name, func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { stage(t, pipelining, st, way) })
				})
			}
		}
	}
}

func stage(t *testing.T, pipelining bool, st Stage, way string) {
	p := &peer{act: map[Stage]string{st: way}}
	if pipelining {
		p.ext = []string{"PIPELINING", "ENHANCEDSTATUSCODES"}
	}
	if st == StageHello && strings.HasPrefix(way, "554") {
		p.act["helo"] = way
	}
	began := time.Now()
	asked := 0
	var s Sent
	c, err := Dial(t.Context(), p.options())
	if err == nil {
		s, err = c.Send(t.Context(), envelope("bob@b.test", "cid@b.test"), []byte(letter), func() error { asked++; return nil })
		defer c.Close()
	}
	if took := time.Since(began); took > 31*time.Minute {
		t.Errorf("it took %v", took)
	}
	refusal := strings.HasPrefix(way, "4") || strings.HasPrefix(way, "5")
	settled := st == StageRcpt && refusal && way[:3] != "421"
	var f *Failure
	switch {
	case settled && err != nil:
		t.Errorf("error %v, want answers per recipient", err)
	case !settled && !errors.As(err, &f):
		t.Fatalf("error %v, want a Failure", err)
	case !settled && f.Stage != st:
		t.Errorf("failed at %s, want %s: %v", f.Stage, st, err)
	case !settled && f.AboutHost() != (st == StageGreeting || st == StageHello):
		t.Errorf("about the host: %v", f.AboutHost())
	case !settled && refusal != (f.Reply.Code != 0):
		t.Errorf("answer %q", f.Reply)
	case !settled && kind.Is(err, kind.Invalid) != strings.HasPrefix(way, "5"):
		t.Errorf("kind %v", kind.Of(err))
	}
	want := NotSent
	if st == StageDot {
		if want = InDoubt; refusal {
			want = Refused
		}
	}
	if s.Outcome != want {
		t.Errorf("outcome %v, want %v", s.Outcome, want)
	}
	if wantAsked := st == StageDot; wantAsked != (asked == 1) {
		t.Errorf("beforeDot was called %d times", asked)
	}
	for _, r := range s.Recipients {
		if settled && (r.Reply.Code/100 != int(way[0]-'0') || r.Accepted) {
			t.Errorf("recipient %+v", r)
		}
	}
	if reusable := refusal && way[:3] != "421" && st != StageGreeting && st != StageHello; c != nil && c.Usable() != reusable {
		t.Errorf("usable %v, want %v", c.Usable(), reusable)
	}
}

// TestLateness: each step waits as long as RFC 5321 section 4.5.3.2 says.
func TestLateness(t *testing.T) {
	for st, want := range map[Stage]time.Duration{
		StageGreeting: 5 * time.Minute, StageHello: 5 * time.Minute, StageMail: 5 * time.Minute,
		StageRcpt: 5 * time.Minute, StageData: 2 * time.Minute, StageDot: 10 * time.Minute,
	} {
		for _, way := range []string{hang, dripping} {
			synctest.Test(t, func(t *testing.T) {
				p := &peer{act: map[Stage]string{st: way}}
				began := time.Now()
				c, err := Dial(t.Context(), p.options())
				if err == nil {
					_, err = c.Send(t.Context(), envelope("bob@b.test"), []byte(letter), yes)
				}
				if took := time.Since(began); err == nil || took != want {
					t.Errorf("%s %s: %v after %v, want %v", st, way, err, took, want)
				}
			})
		}
	}
}

// TestOverall: answers that each come in time do not hold a session for ever.
func TestOverall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{act: map[Stage]string{StageBody: stuck}, gone: make(chan struct{})}
		defer close(p.gone)
		c := dial(t, p)
		began := time.Now()
		body := []byte(strings.Repeat(strings.Repeat("y", 70)+"\r\n", 64<<10))
		s, err := c.Send(t.Context(), envelope("bob@b.test"), body, yes)
		if err == nil || s.Outcome != NotSent {
			t.Errorf("%v, %v", s.Outcome, err)
		}
		if took := time.Since(began); took > 4*time.Minute {
			t.Errorf("a peer that does not read held it %v", took)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		slow := &peer{act: map[Stage]string{StageRcpt: hang}}
		o := slow.options()
		o.Timeouts.Overall = 3 * time.Minute
		c, err := Dial(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		_, err = c.Send(t.Context(), envelope("bob@b.test"), []byte(letter), yes)
		if !errors.Is(err, errOverall) || time.Since(began) != 3*time.Minute {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

// TestCancel breaks a session off at every stage.
func TestCancel(t *testing.T) {
	for _, st := range []Stage{StageGreeting, StageHello, StageMail, StageRcpt, StageData, StageDot} {
		synctest.Test(t, func(t *testing.T) {
			p := &peer{act: map[Stage]string{st: hang}}
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(time.Second, cancel)
			began := time.Now()
			var s Sent
			c, err := Dial(ctx, p.options())
			if err == nil {
				s, err = c.Send(ctx, envelope("bob@b.test"), []byte(letter), yes)
			}
			if !errors.Is(err, context.Canceled) || time.Since(began) != time.Second {
				t.Errorf("%s: %v after %v", st, err, time.Since(began))
			}
			if (s.Outcome == InDoubt) != (st == StageDot) {
				t.Errorf("%s: outcome %v", st, s.Outcome)
			}
			if c != nil && c.Usable() {
				t.Errorf("%s: still usable", st)
			}
		})
	}
}

// TestHook: its error stops the message before the dot, for certain.
func TestHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{}
		c := dial(t, p)
		stop := errors.New("not ours any more")
		s, err := c.Send(t.Context(), envelope("bob@b.test"), []byte(letter), func() error { return stop })
		synctest.Wait()
		if !errors.Is(err, stop) || s.Outcome != NotSent || c.Usable() {
			t.Errorf("%v, %v, usable %v", s.Outcome, err, c.Usable())
		}
		if string(p.raw) != letter || p.messages != 0 {
			t.Errorf("the peer read %q and %d messages", p.raw, p.messages)
		}
		if s, err = c.Send(t.Context(), envelope("bob@b.test"), []byte(letter), yes); err == nil {
			t.Errorf("a second message went through a dead session: %v", s.Outcome)
		}
	})
}

// TestCancelInHook: a call that ended while the hook ran sends no dot.
func TestCancelInHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{}
		c := dial(t, p)
		ctx, cancel := context.WithCancel(t.Context())
		s, err := c.Send(ctx, envelope("bob@b.test"), []byte(letter), func() error { cancel(); return nil })
		synctest.Wait()
		if !errors.Is(err, context.Canceled) || s.Outcome != NotSent || p.messages != 0 {
			t.Errorf("%v, %v, peer has %d", s.Outcome, err, p.messages)
		}
	})
}

// TestDropDuringHook: the peer goes away before the dot. A write into the
// closed connection gave nothing to the network, so nothing is in doubt.
func TestDropDuringHook(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{}
		c := dial(t, p)
		s, err := c.Send(t.Context(), envelope("bob@b.test"), []byte(letter), func() error { return p.c.Close() })
		if err == nil || s.Outcome != NotSent {
			t.Errorf("%v, %v", s.Outcome, err)
		}
	})
}

// TestGoneOverTCP: a socket takes bytes for a peer that hung up long ago. That
// is seen before the dot, so there is no doubt; so is a refusal that came early.
func TestGoneOverTCP(t *testing.T) {
	server, client := selfSigned(t)
	for name, leave := range map[string]func(p *peer){
		"closed":     func(p *peer) { p.c.Close() },
		"refused":    func(p *peer) { io.WriteString(p.c, "552 5.3.4 too large\r\n"); p.c.Close() },
		"said 421":   func(p *peer) { io.WriteString(p.c, "421 4.3.2 going down\r\n") },
		"said hello": func(p *peer) { io.WriteString(p.c, "250 hello\r\n") },
	} {
		for _, mode := range []TLS{TLSNever, TLSMust} {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			p := &peer{ext: []string{"STARTTLS"}, tls: server}
			served := make(chan struct{})
			go func() {
				defer close(served)
				if s, err := l.Accept(); err == nil {
					p.serve(s)
				}
			}()
			c, err := Dial(t.Context(), Options{Address: l.Addr().String(), Hello: "client.test", TLS: mode, Config: client})
			if err != nil {
				t.Fatal(err)
			}
			s, err := c.Send(t.Context(), envelope("bob@b.test"), []byte(letter), func() error { leave(p); return nil })
			var f *Failure
			if !errors.As(err, &f) || f.Stage != StageDot || s.Outcome != NotSent || c.Usable() {
				t.Errorf("%s, TLS %v: %v, %v", name, mode, s.Outcome, err)
			}
			want := map[string]int{"refused": 552, "said 421": 421}[name]
			if f != nil && f.Reply.Code != want {
				t.Errorf("%s, TLS %v: answer %q", name, mode, f.Reply)
			}
			l.Close()
			<-served
		}
	}
}

// TestEarlyRefusal: a peer that has enough in the middle of a message and says
// why.
func TestEarlyRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &peer{act: map[Stage]string{StageBody: "552 5.3.4 too large"}}
		c := dial(t, p)
		body := []byte(strings.Repeat("y", 200<<10) + "\r\n")
		s, err := c.Send(t.Context(), envelope("bob@b.test"), body, yes)
		var f *Failure
		if !errors.As(err, &f) || s.Outcome == Taken || f.Stage != StageDot && f.Stage != StageBody {
			t.Errorf("%v, %v", s.Outcome, err)
		}
	})
}
