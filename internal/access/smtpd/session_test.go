package smtpd

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/event"
)

// script is a connection on which everything was sent beforehand; it arrives
// in steps.
type script struct {
	in   []byte
	step int
	out  bytes.Buffer
}

func (s *script) Read(p []byte) (int, error) {
	n := copy(p[:min(len(p), s.step)], s.in)
	s.in = s.in[n:]
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

func (s *script) Write(p []byte) (int, error)      { return s.out.Write(p) }
func (s *script) Close() error                     { return nil }
func (s *script) LocalAddr() net.Addr              { return &net.TCPAddr{} }
func (s *script) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 7)} }
func (s *script) SetDeadline(time.Time) error      { return nil }
func (s *script) SetReadDeadline(time.Time) error  { return nil }
func (s *script) SetWriteDeadline(time.Time) error { return nil }

// FuzzSession sends any bytes to a door: no panic, memory given
// back, well-formed answers, and nothing stored that has flaws.
func FuzzSession(f *testing.F) {
	for _, s := range []string{
		"EHLO c\r\nMAIL FROM:<a@c.test> SIZE=5\r\nRCPT TO:<ann@example.test>\r\nDATA\r\n..x\r\n.\r\nQUIT\r\n",
		"EHLO c\r\nMAIL FROM:<>\r\nRCPT TO:<ann@example.test>\r\nBDAT 3\r\nabcBDAT 2 LAST\r\n\r\nRSET\r\n",
		"STARTTLS\r\nEHLO c\r\n", "AUTH PLAIN AAAA\r\n", "BDAT 99999999999\r\nx", "\x16\x03\x01",
	} {
		f.Add([]byte(s), uint8(8))
		f.Add([]byte(s), uint8(63))
	}
	cfg := Default()
	cfg.Hostname = "mx.example.test"
	cfg.MaxMessageBytes, cfg.ErrorDelay = 64<<10, conf.Duration(1)
	cert := testTLS(f)
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		events := event.NewLog(slog.New(slog.DiscardHandler))
		queue := &memQueue{}
		s, err := New(cfg, Deps{Directory: memDirectory{}, Queue: queue, Guard: &memGuard{}, TLS: cert, Events: events})
		if err != nil {
			t.Fatal(err)
		}
		nc := &script{in: in, step: int(step) + 1}
		s.serve(context.Background(), nc, s.doors[int(step)%len(s.doors)])
		checkAnswers(t, nc.out.String())
		if n := s.memory.used.Load(); n != 0 {
			t.Fatal(n, "bytes are still counted")
		}
		for _, e := range events.Recent(10) {
			if e.Code == eventPanic.Code {
				t.Fatal(e.Sentence)
			}
		}
		for _, m := range queue.mailbox("ann") {
			if _, flaws, _, _ := model(m, false); flaws != 0 {
				t.Fatalf("stored with flaws: %q", m)
			}
		}
	})
}

// checkAnswers wants lines of code, separator and text.
func checkAnswers(t *testing.T, s string) {
	t.Helper()
	for line := range strings.SplitAfterSeq(s, "\n") {
		if line == "" {
			continue
		}
		if strings.HasPrefix(line, "\x15\x03") { // a TLS alert: the handshake has failed
			return
		}
		if len(line) < 6 || line[0] < '2' || line[0] > '5' || line[3] != ' ' && line[3] != '-' || !strings.HasSuffix(line, "\r\n") ||
			strings.ContainsFunc(line[:len(line)-2], control) {
			t.Fatalf("answer %q", line)
		}
	}
}
