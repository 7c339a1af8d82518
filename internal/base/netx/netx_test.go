package netx

import (
	"context"
	"net"
	"net/netip"
	"testing"
	"time"
)

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestDialerSpeaksFromItsSource(t *testing.T) {
	l := listen(t)
	d := Dialer{Source: netip.MustParseAddr("127.0.0.9"), Timeout: time.Second}
	c, err := d.DialContext(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if got := SourceOf(c.LocalAddr().String()); got != d.Source {
		t.Errorf("source %s, want %s", got, d.Source)
	}
}

func TestSourceOf(t *testing.T) {
	for in, want := range map[string]string{
		"127.0.0.2:25": "127.0.0.2", "[::1]:25": "::1", "0.0.0.0:25": "invalid IP",
		"host:25": "invalid IP", "nonsense": "invalid IP",
	} {
		if got := SourceOf(in).String(); got != want {
			t.Errorf("SourceOf(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestRefused(t *testing.T) {
	l := listen(t)
	addr := l.Addr().String()
	l.Close()
	_, err := Dialer{}.DialContext(t.Context(), "tcp", addr)
	if !Refused(err) {
		t.Errorf("dial a closed port: %v, want refused", err)
	}
}

func TestLimitHoldsBack(t *testing.T) {
	l := Limit(listen(t), 1)
	defer l.Close()
	for range 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	first, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan net.Conn)
	go func() {
		c, _ := l.Accept()
		second <- c
	}()
	select {
	case <-second:
		t.Fatal("a second connection was accepted at a limit of one")
	case <-time.After(20 * time.Millisecond):
	}
	first.Close()
	first.Close() // a second close gives no second slot
	if c := <-second; c != nil {
		c.Close()
	}
}

func TestServeReturnsWhenAllIsGone(t *testing.T) {
	l := listen(t)
	ctx, cancel := context.WithCancel(t.Context())
	in, out := make(chan struct{}), make(chan struct{})
	served := make(chan error)
	go func() {
		served <- Serve(ctx, l, func(_ context.Context, c net.Conn) {
			close(in)
			c.Read(make([]byte, 1)) // ends when Serve closes the connection
			close(out)
		})
	}()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	<-in
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	select {
	case <-out:
	default:
		t.Error("Serve returned before its handler")
	}
}
