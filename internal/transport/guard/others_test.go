package guard

import (
	"io"
	"log"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/emersion/go-milter"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub/milter"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// filter is a milter that does one thing at the end of each message.
type filter struct {
	wire.NoOpMilter
	do    func(*wire.Modifier) wire.Response
	asked *int
}

func (f filter) Body(m *wire.Modifier) (wire.Response, error) {
	*f.asked++
	return f.do(m), nil
}

// held are the connections of a listener, to wait for their end.
type held struct {
	net.Listener
	open *sync.WaitGroup
}

type heldConn struct {
	net.Conn
	done func()
}

func (l held) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return heldConn{c, sync.OnceFunc(l.open.Done)}, nil
}

func (c heldConn) Close() error { defer c.done(); return c.Conn.Close() }

// asks connects a filter that is a server of its own until end is called.
func (w *world) asks(t *testing.T, fail string, asked *int, do func(*wire.Modifier) wire.Response) (end func()) {
	t.Helper()
	log.SetOutput(io.Discard) // the library's server writes there that connections end
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var open sync.WaitGroup
	s := &wire.Server{NewMilter: func() wire.Milter { return filter{do: do, asked: asked} }}
	ended := make(chan struct{})
	go func() { defer close(ended); s.Serve(held{l, &open}) }()
	end = sync.OnceFunc(func() { l.Close(); <-ended; open.Wait() })
	t.Cleanup(end)
	c, err := milter.New(milter.Config{Address: l.Addr().String(), Timeout: time.Minute, Hostname: "mx.example.test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	w.others = append(w.others, other{newScanner(c.Name(), c), fail})
	return end
}

// TestOthers: what a milter says is done, whoever sends; what it adds stands in
// front as whole lines.
func TestOthers(t *testing.T) {
	account := &mail.Peer{Remote: peerAt("198.51.100.7").Remote, Door: doorSubmission, Account: "example/x", Organization: "example"}
	for _, c := range []struct {
		name, spamAction string
		do               func(m *wire.Modifier) wire.Response
		want             mail.Action
		status, text     string
		second           int // whether the next filter is asked
	}{
		{"accept", "", func(*wire.Modifier) wire.Response { return wire.RespAccept }, mail.ActionPass, "", "", 1},
		{"reject", "", func(*wire.Modifier) wire.Response { return wire.RespReject }, mail.ActionRefuse, "5.7.1", "Message is refused", 0},
		{"reply", "", func(*wire.Modifier) wire.Response { return wire.NewResponseStr('y', "554 5.7.0 Not here") }, mail.ActionRefuse, "5.7.1", "Not here", 0},
		{"defer", "", func(*wire.Modifier) wire.Response { return wire.RespTempFail }, mail.ActionDefer, "4.7.1", "Try again later", 0},
		{"discard", "", func(*wire.Modifier) wire.Response { return wire.RespDiscard }, mail.ActionDiscard, "", "", 0},
		{"quarantine", "", func(m *wire.Modifier) wire.Response { m.Quarantine("odd"); return wire.RespAccept }, mail.ActionQuarantine, "", "", 1},
		{"add", "", func(m *wire.Modifier) wire.Response {
			m.AddHeader("X-A", "b\r\n\tc")
			m.AddHeader("X-Spam-Status", "No")
			m.AddHeader("From", "x@y.test")
			m.AddHeader("X-Spam-Flag", "NO")
			m.ChangeHeader(1, "Subject", "other")
			m.ChangeHeader(1, "From", "")
			return wire.RespContinue
		}, mail.ActionPass, "", "", 1},
		{"much", "", func(m *wire.Modifier) wire.Response {
			for range 30 {
				m.AddHeader("X-A", strings.Repeat("x ", 950))
			}
			return wire.RespContinue
		}, mail.ActionPass, "", "", 1},
		{"spam", "", func(m *wire.Modifier) wire.Response { m.AddHeader("X-Spam-Flag", "YES"); return wire.RespAccept }, mail.ActionQuarantine, "", "", 1},
		{"spam, marked", "mark", func(m *wire.Modifier) wire.Response { m.AddHeader("X-Spam-Flag", "YES"); return wire.RespAccept }, mail.ActionPass, "", "", 1},
		{"spam, refused", "reject", func(m *wire.Modifier) wire.Response { m.AddHeader("X-Spam-Flag", "YES"); return wire.RespAccept }, mail.ActionRefuse, "5.7.1", "Message looks like spam", 0},
	} {
		w := newWorld(t, "friend.test. 60 IN MX 10 mx.friend.test.")
		w.put(t, settings.PolicyKey("example"), settings.Policy{Organization: "example", SpamAction: c.spamAction})
		first, second := 0, 0
		ends := []func(){
			w.asks(t, "closed", &first, c.do),
			w.asks(t, "closed", &second, func(m *wire.Modifier) wire.Response { m.AddHeader("X-Second", "2"); return wire.RespAccept }),
		}
		p := peerAt("198.51.100.7")
		if c.name == "reject" || c.name == "add" {
			p = account
		}
		v, s := w.give(t, p, "x@friend.test", letter("x@friend.test"), "ann@example.test")
		for _, end := range ends {
			end()
		}
		if v.Action != c.want || v.Status != c.status || v.Text != c.text || (s.Quarantine != "") != (c.want == mail.ActionQuarantine) || first != 1 || second != c.second {
			t.Errorf("%s: %+v, quarantine %q, asked %d %d", c.name, v, s.Quarantine, first, second)
		}
		got := string(v.Prepend)
		if c.second == 1 && !strings.HasSuffix(got, "X-Second: 2\r\n") || c.name != "much" && len(got) > 1000 || len(got) > maxPrepend+4<<10 {
			t.Errorf("%s: %q", c.name, got)
		}
		switch c.name {
		case "add":
			if got != "X-A: b c\r\nX-Spam-Status: No\r\nX-Second: 2\r\n" {
				t.Errorf("%q", got)
			}
		case "spam, marked":
			if strings.Count(got, "X-Spam-Flag: YES\r\n") != 1 || s.Priority != mail.PriorityLow {
				t.Errorf("%q, %v", got, s.Priority)
			}
		}
	}
}

// TestOtherFails: a milter that is gone, or replaces the body.
func TestOtherFails(t *testing.T) {
	for fail, want := range map[string]mail.Action{"open": mail.ActionPass, "closed": mail.ActionDefer} {
		w := newWorld(t, "friend.test. 60 IN MX 10 mx.friend.test.")
		asked := 0
		w.asks(t, fail, &asked, func(m *wire.Modifier) wire.Response { m.ReplaceBody([]byte("other")); return wire.RespAccept })
		v, _ := w.give(t, peerAt("198.51.100.7"), "x@friend.test", letter("x@friend.test"), "ann@example.test")
		if v.Action != want || asked != 1 {
			t.Errorf("%s: %+v", fail, v)
		}
		gone := newWorld(t, "friend.test. 60 IN MX 10 mx.friend.test.")
		gone.asks(t, fail, &asked, nil)()
		for range 2 * downAfter {
			if v, _ := gone.give(t, peerAt("198.51.100.7"), "x@friend.test", letter("x@friend.test"), "ann@example.test"); v.Action != want || want == mail.ActionDefer && v.Status != "4.3.0" {
				t.Errorf("%s: %+v", fail, v)
			}
		}
		if all := gone.events.Recent(10); len(all) != 1 || !strings.Contains(all[0].Sentence, "Scanner milter 127.0.0.1:") {
			t.Errorf("%+v", all)
		}
	}
}
