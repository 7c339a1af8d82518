package milter

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/netip"
	"net/textproto"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	wire "github.com/emersion/go-milter"
	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

func TestMain(m *testing.M) {
	log.SetOutput(io.Discard) // the library's server writes there that connections end
	goleak.VerifyTestMain(m)
}

// filter is a milter that notes what it is told and says at each step what it
// is to say.
type filter struct {
	says map[string]wire.Response   // by step; continue
	end  func(*wire.Modifier) error // changes, at the end

	mu   sync.Mutex
	told []string
}

func (f *filter) at(step string, m *wire.Modifier, words ...any) (wire.Response, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	line := strings.TrimSpace(step + " " + fmt.Sprint(words...))
	var names []string
	for k, v := range m.Macros {
		names = append(names, k+"="+v)
	}
	slices.Sort(names)
	if step != "field" && step != "body" && len(names) > 0 {
		line += " " + fmt.Sprint(names)
	}
	f.told = append(f.told, line)
	if r := f.says[step]; r != nil {
		return r, nil
	}
	return wire.RespContinue, nil
}

func (f *filter) Connect(host, family string, port uint16, addr net.IP, m *wire.Modifier) (wire.Response, error) {
	return f.at("connect", m, host, " ", family, " ", addr)
}
func (f *filter) Helo(name string, m *wire.Modifier) (wire.Response, error) {
	return f.at("helo", m, name)
}
func (f *filter) MailFrom(from string, m *wire.Modifier) (wire.Response, error) {
	return f.at("from", m, from)
}
func (f *filter) RcptTo(to string, m *wire.Modifier) (wire.Response, error) {
	return f.at("to", m, to)
}
func (f *filter) Header(name, value string, m *wire.Modifier) (wire.Response, error) {
	return f.at("field", m, fmt.Sprintf("%s|%s", name, value))
}
func (f *filter) Headers(_ textproto.MIMEHeader, m *wire.Modifier) (wire.Response, error) {
	return f.at("header", m)
}
func (f *filter) BodyChunk(b []byte, m *wire.Modifier) (wire.Response, error) {
	return f.at("body", m, len(b))
}
func (f *filter) Body(m *wire.Modifier) (wire.Response, error) {
	if f.end != nil {
		if err := f.end(m); err != nil {
			return nil, err
		}
	}
	return f.at("end", m)
}
func (f *filter) Abort(*wire.Modifier) error { return nil }

// counted tells when the last connection is closed, so that no test leaves a
// goroutine of the library's server.
type counted struct {
	net.Listener
	open sync.WaitGroup
}

type countedConn struct {
	net.Conn
	once sync.Once
	done func()
}

func (l *counted) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.open.Add(1)
	return &countedConn{Conn: c, done: l.open.Done}, nil
}

func (c *countedConn) Close() error {
	c.once.Do(c.done)
	return c.Conn.Close()
}

// serve runs the library's own server until the test ends.
func serve(t *testing.T, network, address string, f *filter, protocol wire.OptProtocol) string {
	t.Helper()
	nl, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	l := &counted{Listener: nl}
	s := &wire.Server{NewMilter: func() wire.Milter { return f }, Actions: actions, Protocol: protocol}
	ended := make(chan struct{})
	go func() { defer close(ended); s.Serve(l) }()
	t.Cleanup(func() { nl.Close(); <-ended; l.open.Wait() })
	return nl.Addr().String()
}

func client(t *testing.T, address string, timeout time.Duration) *Client {
	t.Helper()
	c, err := New(Config{Address: address, Timeout: timeout, Hostname: "mx.example.test", Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

var letter = scrub.Mail{
	Trace: mail.TraceID{1},
	Peer:  mail.Peer{Remote: netip.MustParseAddr("::ffff:192.0.2.7"), Helo: "c.test", Reverse: "client.test", Door: "receive", Account: "example/x"},
	Envelope: mail.Envelope{From: "a@c.test", EightBit: true, UTF8: true,
		Recipients: []mail.EnvelopeRecipient{{Address: "ann@example.test"}, {Address: "bea@example.test"}}},
	Body: []byte("Subject: one\r\n  two\r\nX-Spam-Flag:NO\r\nX-Null: a\x00b\r\nEmpty:\r\n\r\n" + strings.Repeat("x", 70_000)),
}

func TestTold(t *testing.T) {
	f := &filter{}
	got, err := client(t, serve(t, "unix", filepath.Join(t.TempDir(), "s"), f, 0), time.Minute).Scan(t.Context(), letter)
	if err != nil || got.Action != mail.ActionPass || !strings.HasPrefix(got.Scanner, "milter /") {
		t.Fatalf("%+v, %v", got, err)
	}
	id := letter.Trace.String()
	want := []string{
		"connect client.test tcp4 192.0.2.7 [j=mx.example.test v=Postern {client_addr}=192.0.2.7 {client_name}=client.test {client_ptr}=client.test {daemon_name}=receive]",
		"helo c.test [j=mx.example.test v=Postern {client_addr}=192.0.2.7 {client_name}=client.test {client_ptr}=client.test {daemon_name}=receive]",
		"from a@c.test [i=" + id + " {auth_authen}=example/x {auth_type}=AUTH {mail_addr}=a@c.test]",
		"to ann@example.test [i=" + id + " {rcpt_addr}=ann@example.test]",
		"to bea@example.test [i=" + id + " {rcpt_addr}=bea@example.test]",
		"field Subject|one\n  two", "field X-Spam-Flag|NO", "field X-Null|a b", "field Empty|",
		"header [i=" + id + "]", "body 65535", "body 4465", "end [i=" + id + "]",
	}
	if !slices.Equal(f.told, want) {
		t.Errorf("told:\n%s\nwant:\n%s", strings.Join(f.told, "\n"), strings.Join(want, "\n"))
	}
}

// A filter need not hear what it does not care for.
func TestLeftOut(t *testing.T) {
	f := &filter{}
	m := letter
	m.Peer = mail.Peer{}
	if _, err := client(t, serve(t, "tcp", "127.0.0.1:0", f, steps), time.Minute).Scan(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if len(f.told) != 1 || !strings.HasPrefix(f.told[0], "end") {
		t.Errorf("%q", f.told)
	}
	f = &filter{}
	m.Peer.Remote = netip.MustParseAddr("2001:db8::1")
	if _, err := client(t, serve(t, "tcp", "127.0.0.1:0", f, 0), time.Minute).Scan(t.Context(), m); err != nil || !strings.HasPrefix(f.told[0], "connect [2001:db8::1] tcp6 2001:db8::1") {
		t.Errorf("%q, %v", f.told, err)
	}
}

func TestAnswers(t *testing.T) {
	refuse := wire.NewResponseStr('y', "550 5.7.1 Not\r\nhere")
	for _, c := range []struct {
		step string
		says wire.Response
		want scrub.Finding
		told int // steps
	}{
		{"connect", wire.RespAccept, scrub.Finding{}, 1},
		{"connect", wire.RespReject, scrub.Finding{Action: mail.ActionRefuse}, 1},
		{"helo", wire.RespTempFail, scrub.Finding{Action: mail.ActionDefer}, 2},
		{"from", wire.RespDiscard, scrub.Finding{Action: mail.ActionDiscard}, 3},
		{"to", refuse, scrub.Finding{Action: mail.ActionRefuse, Text: "Not"}, 4},
		{"field", wire.NewResponseStr('y', "451 later"), scrub.Finding{Action: mail.ActionDefer, Text: "later"}, 6},
		{"header", wire.RespReject, scrub.Finding{Action: mail.ActionRefuse}, 10},
		{"body", wire.RespAccept, scrub.Finding{}, 11},
		{"end", wire.RespAccept, scrub.Finding{}, 13},
		{"end", wire.RespReject, scrub.Finding{Action: mail.ActionRefuse}, 13},
		{"end", wire.RespTempFail, scrub.Finding{Action: mail.ActionDefer}, 13},
		{"end", wire.RespDiscard, scrub.Finding{Action: mail.ActionDiscard}, 13},
		{"end", wire.NewResponseStr('y', "554 1.2 %%"), scrub.Finding{Action: mail.ActionRefuse, Text: "1.2 %%"}, 13},
	} {
		f := &filter{says: map[string]wire.Response{c.step: c.says}}
		cl := client(t, serve(t, "tcp", "127.0.0.1:0", f, 0), time.Minute)
		c.want.Scanner = cl.Name()
		got, err := cl.Scan(t.Context(), letter)
		if err != nil || !reflect.DeepEqual(got, c.want) || len(f.told) != c.told {
			t.Errorf("%s %c: %+v, %v, %d steps", c.step, c.says.Response().Code, got, err, len(f.told))
		}
	}
	for _, bad := range []wire.Response{wire.NewResponseStr('y', "250 ok"), wire.NewResponseStr('y', "x"), wire.NewResponseStr('y', "abc def"), wire.NewResponseStr('Z', ""), wire.NewResponseStr('s', "")} {
		f := &filter{says: map[string]wire.Response{"end": bad}}
		if got, err := client(t, serve(t, "tcp", "127.0.0.1:0", f, 0), time.Minute).Scan(t.Context(), letter); !kind.Is(err, kind.Internal) {
			t.Errorf("%+v: %+v, %v", bad, got, err)
		}
	}
}

func TestChanges(t *testing.T) {
	edit := func(name, value string, order int) []scrub.HeaderEdit {
		return []scrub.HeaderEdit{{Name: name, Value: value, Order: order}}
	}
	for name, c := range map[string]struct {
		do   func(m *wire.Modifier) error
		says wire.Response
		want scrub.Finding
	}{
		"add": {func(m *wire.Modifier) error { return m.AddHeader("X-A", "b\r\n\tc") }, nil, scrub.Finding{Add: edit("X-A", "b c", -1)}},
		"add and accept": {func(m *wire.Modifier) error { return m.AddHeader("X-A", "") }, wire.RespAccept,
			scrub.Finding{Add: edit("X-A", "", -1)}},
		"spam":            {func(m *wire.Modifier) error { return m.AddHeader("x-spam-flag", "Yes") }, nil, scrub.Finding{Spam: true, Add: edit("x-spam-flag", "Yes", -1)}},
		"insert":          {func(m *wire.Modifier) error { return m.InsertHeader(2, "X-A", "b") }, nil, scrub.Finding{Add: edit("X-A", "b", 2)}},
		"change":          {func(m *wire.Modifier) error { return m.ChangeHeader(1, "subject", "b") }, nil, scrub.Finding{Remove: edit("subject", "b", 1)}},
		"change to spam":  {func(m *wire.Modifier) error { return m.ChangeHeader(0, "X-Spam-Flag", "YES") }, nil, scrub.Finding{Spam: true, Remove: edit("X-Spam-Flag", "YES", 1)}},
		"change what not": {func(m *wire.Modifier) error { return m.ChangeHeader(2, "Subject", "b") }, nil, scrub.Finding{Add: edit("Subject", "b", -1)}},
		"remove":          {func(m *wire.Modifier) error { return m.ChangeHeader(1, "Subject", "") }, nil, scrub.Finding{Remove: edit("Subject", "", 1)}},
		"remove what not": {func(m *wire.Modifier) error { return m.ChangeHeader(1<<31-1, "X-B", "") }, nil, scrub.Finding{}},
		"no name":         {func(m *wire.Modifier) error { return m.AddHeader("X A", "b") }, nil, scrub.Finding{}},
		"recipients":      {func(m *wire.Modifier) error { m.AddRecipient("x@y.test"); return m.DeleteRecipient("ann@example.test") }, nil, scrub.Finding{}},
		"sender":          {func(m *wire.Modifier) error { return m.ChangeFrom("x@y.test") }, nil, scrub.Finding{}},
		"quarantine":      {func(m *wire.Modifier) error { return m.Quarantine("looks\r\nodd") }, nil, scrub.Finding{Action: mail.ActionQuarantine, Text: "looks odd"}},
		"refused after all": {func(m *wire.Modifier) error { m.AddHeader("X-A", "b"); return m.Quarantine("odd") }, wire.RespReject,
			scrub.Finding{Action: mail.ActionRefuse}},
	} {
		f := &filter{end: c.do}
		if c.says != nil {
			f.says = map[string]wire.Response{"end": c.says}
		}
		cl := client(t, serve(t, "tcp", "127.0.0.1:0", f, 0), time.Minute)
		c.want.Scanner = cl.Name()
		if got, err := cl.Scan(t.Context(), letter); err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
	f := &filter{end: func(m *wire.Modifier) error { return m.ReplaceBody([]byte("other")) }}
	if got, err := client(t, serve(t, "tcp", "127.0.0.1:0", f, 0), time.Minute).Scan(t.Context(), letter); !kind.Is(err, kind.Internal) || !reflect.DeepEqual(got, scrub.Finding{}) {
		t.Errorf("body: %+v, %v", got, err)
	}
}

// The envelope is not the filter's to change, and the operator hears of it once.
func TestEnvelopeIsLogged(t *testing.T) {
	var said bytes.Buffer
	f := &filter{end: func(m *wire.Modifier) error { return m.AddRecipient("x@y.test") }}
	c := client(t, serve(t, "tcp", "127.0.0.1:0", f, 0), time.Minute)
	c.cfg.Log = slog.New(slog.NewTextHandler(&said, nil))
	for range 3 {
		if _, err := c.Scan(t.Context(), letter); err != nil {
			t.Fatal(err)
		}
	}
	if n := strings.Count(said.String(), "recipients"); n != 1 {
		t.Errorf("%d times: %s", n, said.String())
	}
}

// script is a filter that answers bytes whatever it is told, and then hangs or
// hangs up.
type script struct {
	net.Conn // of methods that are not called
	answers  *bytes.Reader
	hang     bool
	closed   chan struct{}
	once     sync.Once
}

func (s *script) Read(b []byte) (int, error) {
	n, err := s.answers.Read(b)
	if err == io.EOF && s.hang {
		<-s.closed
		return 0, net.ErrClosed
	}
	return n, err
}
func (s *script) Write(b []byte) (int, error)      { return len(b), nil }
func (s *script) Close() error                     { s.once.Do(func() { close(s.closed) }); return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

func scripted(t testing.TB, answers []byte, hang bool, timeout time.Duration) *Client {
	c, err := New(Config{Address: "/filter", Timeout: timeout, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	c.dial = func(context.Context, string, string) (net.Conn, error) {
		return &script{answers: bytes.NewReader(answers), hang: hang, closed: make(chan struct{})}, nil
	}
	return c
}

// packet is one of the protocol.
func packet(code byte, data string) string {
	n := len(data) + 1
	return string([]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n), code}) + data
}

// version 2, all actions, no steps but the end.
var hello = packet('O', "\x00\x00\x00\x02\x00\x00\x00\x3f\x00\x00\x00\x7f")

func TestFaults(t *testing.T) {
	for name, c := range map[string]struct {
		answers string
		want    kind.Kind
	}{
		"nothing":          {"", kind.Busy},
		"HTTP":             {"HTTP/1.1 400 Bad Request\r\n\r\n", kind.Internal},
		"empty packet":     {"\x00\x00\x00\x00", kind.Internal},
		"short hello":      {packet('O', "\x00\x00\x00\x02"), kind.Internal},
		"old version":      {packet('O', "\x00\x00\x00\x01\x00\x00\x00\x3f\x00\x00\x00\x7f"), kind.Internal},
		"hangs up":         {hello, kind.Busy},
		"cut":              {hello + "\x00\x00\x00\x09ab", kind.Busy},
		"header cut":       {hello + packet('h', "X-A"), kind.Internal},
		"index cut":        {hello + packet('m', "ab"), kind.Internal},
		"progress forever": {hello + strings.Repeat(packet('p', strings.Repeat("x", 1000)), 1100), kind.Internal},
		"changes forever":  {hello + strings.Repeat(packet('h', "X-A\x00b\x00"), 150_000) + packet('a', ""), kind.Internal},
	} {
		if f, err := scripted(t, []byte(c.answers), false, time.Minute).Scan(t.Context(), letter); !kind.Is(err, c.want) || !reflect.DeepEqual(f, scrub.Finding{}) {
			t.Errorf("%s: %+v, %v", name, f, err)
		}
	}
	f, err := scripted(t, []byte(hello+strings.Repeat(packet('h', "X-A\x00b\x00"), 10_000)+packet('a', "")), false, time.Minute).Scan(t.Context(), letter)
	if err != nil || len(f.Add) != maxEdits {
		t.Errorf("%d changes, %v", len(f.Add), err)
	}
	if _, err := client(t, filepath.Join(t.TempDir(), "none"), time.Minute).Scan(t.Context(), letter); !kind.Is(err, kind.Busy) {
		t.Errorf("no socket: %v", err)
	}
}

// A filter that hangs, at whatever step, costs the timeout or until the client goes.
func TestHangs(t *testing.T) {
	for name, answers := range map[string]string{"at once": "", "in a packet": hello[:6], "at the end": hello, "in progress": hello + packet('p', "")} {
		if _, err := scripted(t, []byte(answers), true, 10*time.Millisecond).Scan(t.Context(), letter); !kind.Is(err, kind.Busy) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		c := scripted(t, []byte(answers), true, time.Hour)
		dial := c.dial
		c.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			defer cancel()
			return dial(ctx, network, address)
		}
		if _, err := c.Scan(ctx, letter); !kind.Is(err, kind.Busy) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func TestNew(t *testing.T) {
	for _, cfg := range []Config{{Timeout: 1, Log: slog.Default()}, {Address: "x:1", Log: slog.Default()}, {Address: "x:1", Timeout: 1}} {
		if _, err := New(cfg); !kind.Is(err, kind.Invalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

func FuzzAnswers(f *testing.F) {
	all := "\x00\x00\x00\x02\x00\x00\x00\x3f\x00\x00\x00\x00"
	f.Add([]byte(hello + packet('h', "X-A\x00b\x00") + packet('m', "\x00\x00\x00\x01Subject\x00\x00") + packet('q', "why\x00") + packet('a', "")))
	f.Add([]byte(packet('O', all) + strings.Repeat(packet('c', ""), 20) + packet('y', "550 5.7.1 no\x00")))
	f.Add([]byte(packet('O', all) + packet('p', "") + packet('r', "")))
	f.Fuzz(func(t *testing.T, answers []byte) {
		got, err := scripted(t, answers, false, time.Minute).Scan(t.Context(), letter)
		if err != nil && !reflect.DeepEqual(got, scrub.Finding{}) {
			t.Fatalf("%+v with %v", got, err)
		}
		if strings.ContainsAny(got.Text, "\r\n\x00") || len(got.Text) > 200 {
			t.Fatalf("text %q", got.Text)
		}
		for _, h := range append(got.Add, got.Remove...) {
			if !good(h.Name) || strings.ContainsAny(h.Value, "\r\n\x00") {
				t.Fatalf("%+v", h)
			}
		}
	})
}
