package imapd

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// fuzzConn is a connection that has all input ready and counts the output.
type fuzzConn struct {
	net.Conn // nil: nothing else is used
	in       *bytes.Reader
	out      int
}

func (c *fuzzConn) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *fuzzConn) Write(p []byte) (int, error)      { c.out += len(p); return len(p), nil }
func (*fuzzConn) Close() error                       { return nil }
func (*fuzzConn) RemoteAddr() net.Addr               { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)} }
func (*fuzzConn) SetReadDeadline(time.Time) error    { return nil }
func (*fuzzConn) SetWriteDeadline(t time.Time) error { return nil }

// FuzzSession feeds a whole session, before and after login. It must not panic,
// must end, and must not say much more than it was asked for.
func FuzzSession(f *testing.F) {
	files, _ := filepath.Glob("testdata/*.txt")
	for _, name := range files {
		text, _ := os.ReadFile(name)
		var in []byte
		for line := range bytes.Lines(text) {
			if cmd, ok := bytes.CutPrefix(line, []byte("C1: ")); ok {
				in = append(append(in, bytes.TrimSpace(cmd)...), "\r\n"...)
			}
		}
		f.Add(true, in)
		f.Add(false, in)
	}
	f.Add(true, []byte("a APPEND INBOX (x) {5+}\r\nA: b\n\r\nb UID FETCH 1:* (BODY[1.MIME]<1.2> BINARY[1] ENVELOPE BODYSTRUCTURE)\r\n"))
	f.Fuzz(func(t *testing.T, loggedIn bool, in []byte) {
		store := newMemStore()
		ref := org.MailboxRef{ID: org.MailboxID{1}, Database: "DB01"}
		if err := store.Setup(t.Context(), ref, mail.MailboxSetup{}); err != nil {
			t.Fatal(err)
		}
		for _, text := range []string{hello, nested} {
			if _, err := store.Append(t.Context(), ref, mail.Append{Folder: "INBOX", Body: []byte(crlf(text))}); err != nil {
				t.Fatal(err)
			}
		}
		srv, err := New(Config{MaxMessageBytes: 1 << 20, AppendMemory: 1 << 20, AuthDelay: 1},
			Deps{Store: store, Directory: memDirectory{"ann": directory.Account{ID: ref.ID, Name: "ann", Mailbox: ref}}})
		if err != nil {
			t.Fatal(err)
		}
		srv.ctx, srv.cancel = context.WithCancel(t.Context())
		defer srv.cancel()
		o := srv.options()
		o.InsecureAuth, o.TLSConfig = true, nil
		o.OnPanic = func(v any, stack []byte) { t.Errorf("%v\n%s", v, stack) }
		o.NewSession = func(c *imapserver.Conn) (imapserver.Session, error) { return srv.newSession(c, netip.Addr{}), nil }
		if loggedIn {
			in = append([]byte("a LOGIN ann secret\r\nb SELECT INBOX\r\n"), in...)
		}
		c := &fuzzConn{in: bytes.NewReader(in)}
		imapserver.New(o).NewConn(c, false).Serve()
		// A command of a few bytes may ask for both messages, and each
		// appended message may be asked for again.
		if limit := 64<<10 + len(in)*len(in) + len(in)*2000; c.out > limit {
			t.Errorf("%d bytes in, %d out", len(in), c.out)
		}
		if !srv.appendMemory.TryAcquire(1 << 20) {
			t.Error("append memory was not given back")
		}
	})
}

func FuzzHeader(f *testing.F) {
	f.Add([]byte(crlf(nested)), "subject")
	f.Fuzz(func(t *testing.T, header []byte, name string) {
		only, not := filterHeader(header, []string{name}, nil), filterHeader(header, nil, []string{name})
		if len(only) > len(header)+2 || len(not) > len(header)+2 || !bytes.HasSuffix(only, []byte("\r\n")) {
			t.Errorf("%q and %q", only, not)
		}
	})
}

func FuzzPattern(f *testing.F) {
	f.Add("a*%b", "a/b")
	f.Fuzz(func(t *testing.T, pat, name string) {
		if p, err := newPattern("", pat); err == nil && p.match(name) && len(pat) == 0 && len(name) > 0 {
			t.Error("nothing matches something")
		}
		if checkName(name) == nil {
			if p, err := newPattern("", name); err != nil || !p.match(canonical(name)) {
				t.Errorf("%q does not match itself", name)
			}
		}
	})
}

func FuzzBase64Text(f *testing.F) {
	f.Add([]byte("AA EC\r\n=x"))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, err := io.ReadAll(&base64Text{r: bytes.NewReader(in)})
		if err != nil || len(out) > len(in) {
			t.Error(len(out), err)
		}
	})
}
