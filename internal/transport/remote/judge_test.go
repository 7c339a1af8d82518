package remote

import (
	"errors"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/smtpc"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
	"github.com/postern-mail/postern/internal/transport/tlspolicy"
)

func TestJudge(t *testing.T) {
	mx, exchange := about{host: "mx.a.test"}, about{connector: true, kind: settings.KindExchangeOnline, host: "x"}
	for _, c := range []struct {
		code   int
		status string
		a      about
		want   queue.State
		flags  string // w: whole, s: slow, m: misconfigured
		wait   time.Duration
	}{
		{code: 550, status: "5.1.1", a: mx, want: queue.StateReturned},
		{code: 450, status: "4.2.0", a: mx, want: queue.StateDeferred},
		{code: 421, status: "4.3.2", a: mx, want: queue.StateDeferred, flags: "w"},
		{code: 451, status: "4.7.500", a: mx, want: queue.StateDeferred, flags: "s", wait: rest},
		{code: 451, status: "4.7.699", a: exchange, want: queue.StateDeferred, flags: "s", wait: rest},
		{code: 451, status: "4.7.700", a: exchange, want: queue.StateDeferred},
		{code: 451, status: "4.7.1", a: exchange, want: queue.StateDeferred},
		{code: 421, status: "4.7.500", a: exchange, want: queue.StateDeferred, flags: "w"},
		{code: 550, status: "5.7.64", a: exchange, want: queue.StateDeferred, flags: "wm"},
		{code: 550, status: "5.7.64", a: mx, want: queue.StateReturned},
		{code: 550, status: "5.4.1", a: exchange, want: queue.StateDeferred, wait: rest},
		{code: 550, status: "5.4.1", a: about{connector: true, kind: settings.KindExchangeOnline, last: "5.4.1"}, want: queue.StateReturned},
		{code: 550, status: "5.4.1", a: mx, want: queue.StateReturned},
		{code: 450, status: "4.2.1", a: mx, want: queue.StateDeferred},
		{code: 450, status: "4.2.1", a: about{host: "aspmx.l.GOOGLE.com"}, want: queue.StateDeferred, flags: "s"},
		{code: 450, status: "4.2.1", a: about{connector: true, kind: settings.KindGoogle}, want: queue.StateDeferred, flags: "s"},
		{code: 450, status: "4.2.1", a: about{host: "google.com.evil.test"}, want: queue.StateDeferred},
		{code: 554, a: mx, want: queue.StateReturned},
	} {
		v := judge(smtpc.Reply{Code: c.code, Status: c.status, Text: "so it is"}, c.a)
		if v.State != c.want || flagsOf(v) != c.flags || v.Wait != c.wait || v.Text != "so it is" || v.Status == "" {
			t.Errorf("%d %s %+v: %+v", c.code, c.status, c.a, v)
		}
	}
}

func flagsOf(v verdict) (s string) {
	if v.Whole {
		s += "w"
	}
	if v.Slow {
		s += "s"
	}
	if v.misconfigured {
		s += "m"
	}
	return s
}

func TestJudgeHost(t *testing.T) {
	broken := kind.Errorf(kind.Busy, "broken")
	for _, c := range []struct {
		f         smtpc.Failure
		connector bool
		status    string
		flags     string
	}{
		{f: smtpc.Failure{Stage: smtpc.StageConnect, Err: broken}, status: "4.4.1", flags: "w"},
		{f: smtpc.Failure{Stage: smtpc.StageConnect, Err: kind.Errorf(kind.Invalid, "no name")}, status: "4.4.1", flags: "wm"},
		{f: smtpc.Failure{Stage: smtpc.StageGreeting, Err: broken}, status: "4.4.2", flags: "w"},
		{f: smtpc.Failure{Stage: smtpc.StageGreeting, Reply: smtpc.Reply{Code: 554}}, status: "5.0.0", flags: "w"},
		{f: smtpc.Failure{Stage: smtpc.StageGreeting, Reply: smtpc.Reply{Code: 451, Status: "4.7.550"}}, status: "4.7.550", flags: "s"},
		{f: smtpc.Failure{Stage: smtpc.StageTLS, Err: errors.Join(tlspolicy.ErrUntrusted, broken)}, status: "4.7.5", flags: "w"},
		{f: smtpc.Failure{Stage: smtpc.StageAuth, Reply: smtpc.Reply{Code: 535, Status: "5.7.8"}}, connector: true, status: "5.7.8", flags: "wm"},
		{f: smtpc.Failure{Stage: smtpc.StageAuth, Reply: smtpc.Reply{Code: 454, Status: "4.7.0"}}, connector: true, status: "4.7.0", flags: "w"},
		{f: smtpc.Failure{Stage: smtpc.StageAuth, Err: broken}, connector: true, status: "4.7.0", flags: "w"},
		{f: smtpc.Failure{Stage: smtpc.StageBody, Err: broken}, status: "4.4.2", flags: "s"},
		{f: smtpc.Failure{Stage: smtpc.StageMail, Err: broken}, status: "4.4.2", flags: "w"},
	} {
		v := judgeHost(&c.f, about{connector: c.connector, host: "mx.a.test"})
		if v.State != queue.StateDeferred || v.Status != c.status || flagsOf(v) != c.flags {
			t.Errorf("%+v: %+v", c.f, v)
		}
	}
}

// TestBlame: the message waits as long as one host may do better.
func TestBlame(t *testing.T) {
	later, never := deferred(0, "4.4.1", "later"), returned(550, "5.4.4", "never")
	for _, c := range []struct {
		in   []verdict
		want string
	}{{[]verdict{never}, "never"}, {[]verdict{never, later}, "later"}, {[]verdict{later, never}, "later"}, {[]verdict{never, never}, "never"}} {
		var b *verdict
		for _, v := range c.in {
			b = blame(b, v)
		}
		if b.Text != c.want {
			t.Errorf("%v: %s", c.in, b.Text)
		}
	}
}
