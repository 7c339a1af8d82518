package clamd

import (
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/scrub"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// server runs a script for each connection until the test ends.
func server(t *testing.T, network, address string, script func(net.Conn)) string {
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				script(conn)
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// stream reads an INSTREAM command to its end.
func stream(conn net.Conn) ([]byte, error) {
	cmd := make([]byte, len("zINSTREAM\x00"))
	if _, err := io.ReadFull(conn, cmd); err != nil || string(cmd) != "zINSTREAM\x00" {
		return nil, io.ErrUnexpectedEOF
	}
	var body []byte
	for {
		var n uint32
		if err := binary.Read(conn, binary.BigEndian, &n); err != nil || n == 0 {
			return body, err
		}
		part := make([]byte, n)
		if _, err := io.ReadFull(conn, part); err != nil {
			return body, err
		}
		body = append(body, part...)
	}
}

// answers is a server that takes all and says one thing.
func answers(t *testing.T, said string) string {
	return server(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		if _, err := stream(conn); err == nil {
			io.WriteString(conn, said)
		}
	})
}

func scan(t *testing.T, ctx context.Context, address string, timeout time.Duration, body []byte) (scrub.Finding, error) {
	t.Helper()
	c, err := New(Config{Address: address, Timeout: timeout})
	if err != nil {
		t.Fatal(err)
	}
	return c.Scan(ctx, scrub.Mail{Body: body})
}

func TestAnswers(t *testing.T) {
	for said, want := range map[string]scrub.Finding{
		"stream: OK\x00":                                           {Scanner: "clamd"},
		"stream: Eicar-Test-Signature FOUND\x00":                   {Scanner: "clamd", Virus: "Eicar-Test-Signature", Action: mail.ActionRefuse, Text: "Message holds malware"},
		"stream: Win.Test(0123:68) FOUND\x00 more":                 {Scanner: "clamd", Virus: "Win.Test(0123:68)", Action: mail.ActionRefuse, Text: "Message holds malware"},
		"stream: A\r\nB FOUND\x00":                                 {Scanner: "clamd", Virus: "A B", Action: mail.ActionRefuse, Text: "Message holds malware"},
		"stream: Heuristics.Limits.Exceeded.MaxScanSize FOUND\x00": {Scanner: "clamd", Partial: true, Symbols: []string{"Heuristics.Limits.Exceeded.MaxScanSize"}},
		"stream: Heuristics.Limits.Exceeded FOUND\x00":             {Scanner: "clamd", Partial: true, Symbols: []string{"Heuristics.Limits.Exceeded"}},
	} {
		got, err := scan(t, t.Context(), answers(t, said), time.Minute, []byte("Subject: x\r\n\r\n"))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v", said, got, err)
		}
	}
}

func TestFaults(t *testing.T) {
	for said, want := range map[string]kind.Kind{
		"INSTREAM size limit exceeded. ERROR\x00": kind.Full,
		"stream: Can't allocate memory ERROR\x00": kind.Internal,
		"UNKNOWN COMMAND\x00":                     kind.Internal,
		"stream:  FOUND\x00":                      kind.Internal,
		"stream: OK \x00":                         kind.Internal,
		"/etc/passwd: OK\x00":                     kind.Internal,
		"\x00":                                    kind.Internal,
		"stream: OK":                              kind.Busy, // cut
		"stream: OK\n":                            kind.Busy,
		"":                                        kind.Busy,
		strings.Repeat("x", 2*maxAnswer):          kind.Busy,
	} {
		got, err := scan(t, t.Context(), answers(t, said), time.Minute, nil)
		if !kind.Is(err, want) || !reflect.DeepEqual(got, scrub.Finding{}) {
			t.Errorf("%.60q: %+v, %v", said, got, err)
		}
	}
	if _, err := scan(t, t.Context(), filepath.Join(t.TempDir(), "none"), time.Minute, nil); !kind.Is(err, kind.Busy) {
		t.Errorf("no daemon: %v", err)
	}
	for _, cfg := range []Config{{}, {Address: "x"}, {Timeout: 1}} {
		if _, err := New(cfg); !kind.Is(err, kind.Invalid) {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}

// TestHangs: a daemon that stops at any stage costs the timeout.
func TestHangs(t *testing.T) {
	wait := func(conn net.Conn) { io.Copy(io.Discard, io.LimitReader(conn, 1)); <-t.Context().Done() }
	big := make([]byte, 32<<20)
	for name, script := range map[string]func(net.Conn){
		"at once":          func(conn net.Conn) { wait(conn) },
		"after the stream": func(conn net.Conn) { stream(conn); wait(conn) },
		"in the answer":    func(conn net.Conn) { stream(conn); io.WriteString(conn, "stream: O"); wait(conn) },
	} {
		address := server(t, "tcp", "127.0.0.1:0", script)
		if _, err := scan(t, t.Context(), address, 50*time.Millisecond, big); !kind.Is(err, kind.Busy) {
			t.Errorf("%s: %v", name, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := scan(t, ctx, address, time.Minute, big); !kind.Is(err, kind.Busy) {
			t.Errorf("%s, caller gone: %v", name, err)
		}
	}
}

// TestEarlyAnswer: the daemon refuses in the middle of the stream and hangs up.
func TestEarlyAnswer(t *testing.T) {
	address := server(t, "unix", filepath.Join(t.TempDir(), "s"), func(conn net.Conn) {
		io.CopyN(io.Discard, conn, 1000)
		io.WriteString(conn, "INSTREAM size limit exceeded. ERROR\x00")
	})
	_, err := scan(t, t.Context(), address, time.Minute, make([]byte, 8<<20))
	if !kind.Is(err, kind.Full) {
		t.Errorf("%v", err)
	}
}

// TestBody: what arrives is what was given, at all sizes around a chunk.
func TestBody(t *testing.T) {
	got := make(chan []byte, 1)
	address := server(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		body, _ := stream(conn)
		got <- body
		io.WriteString(conn, "stream: OK\x00")
	})
	for _, n := range []int{0, 1, chunk - 1, chunk, chunk + 1, 3*chunk + 5} {
		body := bytes.Repeat([]byte("0123456789abcdef\x00"), n/17+1)[:n]
		if _, err := scan(t, t.Context(), address, time.Minute, body); err != nil || !bytes.Equal(<-got, body) {
			t.Errorf("%d octets: %v", n, err)
		}
	}
}

// TestConnections: never more than the limit at once, and who waits too long
// is told.
func TestConnections(t *testing.T) {
	in, out := make(chan struct{}), make(chan struct{})
	address := server(t, "tcp", "127.0.0.1:0", func(conn net.Conn) {
		stream(conn)
		in <- struct{}{}
		<-out
		io.WriteString(conn, "stream: OK\x00")
	})
	c, err := New(Config{Address: address, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range connections {
		wg.Go(func() {
			if _, err := c.Scan(t.Context(), scrub.Mail{}); err != nil {
				t.Error(err)
			}
		})
	}
	for range connections {
		<-in
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := c.Scan(ctx, scrub.Mail{}); !kind.Is(err, kind.Busy) || !strings.Contains(err.Error(), "in use") {
		t.Errorf("one too many: %v", err)
	}
	close(out)
	wg.Wait()
}

func FuzzRead(f *testing.F) {
	for _, s := range []string{"stream: OK", "stream: X FOUND", "stream: X ERROR", "stream: \x8f FOUND", "INSTREAM size limit exceeded. ERROR", "stream: Heuristics.Limits.Exceeded FOUND"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		got, err := read(answer)
		clean := err == nil && got.Virus == "" && !got.Partial
		if clean != (answer == "stream: OK") {
			t.Fatalf("%q: %+v, %v", answer, got, err)
		}
		if strings.ContainsAny(got.Virus, "\r\n\x00") || len(got.Virus) > 200 {
			t.Fatalf("%q: virus %q", answer, got.Virus)
		}
	})
}
