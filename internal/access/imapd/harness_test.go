package imapd

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// memDirectory knows each login with the password "secret".
type memDirectory map[string]directory.Account

func (d memDirectory) Authenticate(_ context.Context, login, password, service string, _ netip.Addr) (directory.Account, error) {
	if login == "busy" {
		return directory.Account{}, kind.Errorf(kind.Busy, "no quorum")
	}
	a, ok := d[login]
	if !ok || password != "secret" || service != directory.ServiceIMAP {
		return directory.Account{}, kind.Errorf(kind.Denied, "wrong")
	}
	return a, nil
}

// testTLS is a certificate for localhost.
func testTLS(t testing.TB) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "localhost"},
		NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// world is a running door with the mailboxes of ann and bob.
type world struct {
	t     testing.TB
	srv   *Server
	store *memStore
	ann   org.MailboxRef
	stop  func()
}

func newWorld(t testing.TB, tune func(*Config)) *world {
	t.Helper()
	return worldWith(t, tune, func(*Deps) {})
}

func worldWith(t testing.TB, tune func(*Config), with func(*Deps)) *world {
	t.Helper()
	cfg := Config{StartTLS: Door{Listen: []string{"127.0.0.1:0"}}, TLS: Door{Listen: []string{"127.0.0.1:0"}},
		AuthDelay: conf.Duration(time.Millisecond), WaitTimeout: conf.Duration(10 * time.Second)}
	if tune != nil {
		tune(&cfg)
	}
	w := &world{t: t, store: newMemStore()}
	dir := memDirectory{}
	for i, name := range []string{"ann", "bob"} {
		ref := org.MailboxRef{ID: org.MailboxID{byte(i + 1)}, Database: "DB01"}
		if err := w.store.Setup(t.Context(), ref, mail.MailboxSetup{}); err != nil {
			t.Fatal(err)
		}
		dir[name] = directory.Account{ID: ref.ID, Name: name, Mailbox: ref}
		if name == "ann" {
			w.ann = ref
		}
	}
	deps := Deps{Store: w.store, Directory: dir, TLS: testTLS(t), Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
	with(&deps)
	var err error
	w.srv, err = New(cfg, deps)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.srv.Run(ctx) }()
	select {
	case <-w.srv.Ready():
	case err := <-done:
		t.Fatal(err)
	}
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(w.stop)
	return w
}

func (w *world) append(folder string, texts ...string) {
	w.t.Helper()
	for _, text := range texts {
		_, err := w.store.Append(w.t.Context(), w.ann, mail.Append{Folder: folder, Body: []byte(crlf(text)), InternalDate: 1e18})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

// crlf makes lines end as on the wire.
func crlf(s string) string {
	return strings.ReplaceAll(strings.ReplaceAll(s, "\r\n", "\n"), "\n", "\r\n")
}

// client speaks lines.
type client struct {
	t    testing.TB
	conn net.Conn
	r    *bufio.Reader
	tags int
}

func (w *world) plain() *client {
	w.t.Helper()
	c, err := net.Dial("tcp", w.srv.Addrs("starttls")[0].String())
	return w.client(c, err)
}

func (w *world) client(c net.Conn, err error) *client {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t: w.t, conn: c, r: bufio.NewReader(c)}
}

func (w *world) tls() *client {
	w.t.Helper()
	c, err := tls.Dial("tcp", w.srv.Addrs("tls")[0].String(), &tls.Config{InsecureSkipVerify: true}) // a certificate of this test
	return w.client(c, err)
}

// login is a client that is logged in as ann.
func (w *world) login() *client {
	w.t.Helper()
	c := w.tls()
	c.line()
	c.ok("LOGIN ann secret")
	return c
}

// selected is a client with INBOX selected.
func (w *world) selected() *client {
	w.t.Helper()
	c := w.login()
	c.ok("SELECT INBOX")
	return c
}

func (c *client) send(format string, args ...any) {
	c.t.Helper()
	if _, err := fmt.Fprintf(c.conn, format, args...); err != nil {
		c.t.Fatal(err)
	}
}

var literalRE = regexp.MustCompile(`\{(\d+)\}\r\n$`)

// line reads a response with its literals, without the last CRLF.
func (c *client) line() string {
	c.t.Helper()
	s, err := c.tryLine()
	if err != nil {
		c.t.Fatalf("read: %v (after %q)", err, s)
	}
	return s
}

func (c *client) tryLine() (string, error) {
	var b strings.Builder
	for {
		s, err := c.r.ReadString('\n')
		b.WriteString(s)
		if err != nil {
			return b.String(), err
		}
		m := literalRE.FindStringSubmatch(s)
		if m == nil {
			return strings.TrimSuffix(b.String(), "\r\n"), nil
		}
		var n int64
		fmt.Sscan(m[1], &n)
		if _, err := io.CopyN(&b, c.r, n); err != nil {
			return b.String(), err
		}
	}
}

// do sends a command and returns its untagged responses and the tagged one
// without the tag.
func (c *client) do(format string, args ...any) (untagged []string, status string) {
	c.t.Helper()
	c.tags++
	tag := fmt.Sprintf("t%d", c.tags)
	c.send("%s %s\r\n", tag, fmt.Sprintf(format, args...))
	return c.until(tag)
}

func (c *client) until(tag string) (untagged []string, status string) {
	c.t.Helper()
	for {
		s := c.line()
		if rest, ok := strings.CutPrefix(s, tag+" "); ok {
			return untagged, rest
		}
		untagged = append(untagged, s)
	}
}

// ok is do for a command that has to succeed.
func (c *client) ok(format string, args ...any) []string {
	c.t.Helper()
	u, s := c.do(format, args...)
	if !strings.HasPrefix(s, "OK") {
		c.t.Fatalf("%s: %s", fmt.Sprintf(format, args...), s)
	}
	return u
}

// want checks the untagged responses and the beginning of the tagged one.
func (c *client) want(cmd, status string, untagged ...string) {
	c.t.Helper()
	u, s := c.do("%s", cmd)
	if !strings.HasPrefix(s, status) {
		c.t.Errorf("%s: answer %q, want %q", cmd, s, status)
	}
	if got, want := strings.Join(u, "\n"), strings.Join(untagged, "\n"); got != want {
		c.t.Errorf("%s:\ngot\n%s\nwant\n%s", cmd, got, want)
	}
}

// eof checks that the server ended the connection, and returns what it said before.
func (c *client) eof() string {
	c.t.Helper()
	var all []string
	for {
		s, err := c.tryLine()
		if err == nil {
			all = append(all, s)
			continue
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			c.t.Fatalf("connection is still open after %q", all)
		}
		return strings.Join(all, "\n")
	}
}
