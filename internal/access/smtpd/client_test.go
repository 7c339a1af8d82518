package smtpd

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// client says lines and hears answers.
type client struct {
	t  testing.TB
	nc net.Conn
	r  *bufio.Reader
}

// dial connects to a door and reads the greeting.
func dial(t testing.TB, addr string) *client {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	c := newClient(t, nc)
	c.hear("220")
	return c
}

func newClient(t testing.TB, nc net.Conn) *client {
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	return &client{t: t, nc: nc, r: bufio.NewReader(nc)}
}

func (c *client) write(s string) {
	c.t.Helper()
	if _, err := c.nc.Write([]byte(s)); err != nil {
		c.t.Fatal(err)
	}
}

// hear reads an answer that must begin so, and returns its last line.
func (c *client) hear(want string) string {
	c.t.Helper()
	for {
		line, err := c.r.ReadString('\n')
		if err != nil {
			c.t.Fatalf("want %s: %q %v", want, line, err)
		}
		if len(line) > 3 && line[3] == '-' {
			continue
		}
		if !strings.HasPrefix(line, want) {
			c.t.Fatalf("want %s: %s", want, line)
		}
		return strings.TrimSpace(line)
	}
}

func (c *client) say(line, want string) string {
	c.t.Helper()
	c.write(line + "\r\n")
	return c.hear(want)
}

// mail sends a message to recipients up to the answer to its data.
func (c *client) mail(msg, want string, to ...string) string {
	c.t.Helper()
	c.say("MAIL FROM:<joe@client.test>", "250")
	for _, a := range to {
		c.say(fmt.Sprintf("RCPT TO:<%s>", a), "250")
	}
	c.say("DATA", "354")
	c.write(msg + "\r\n.\r\n")
	return c.hear(want)
}

func (c *client) closed() {
	c.t.Helper()
	if line, err := c.r.ReadString('\n'); err == nil {
		c.t.Fatalf("want the end: %s", line)
	}
}

func (c *client) tls() {
	c.t.Helper()
	tc := tls.Client(c.nc, &tls.Config{InsecureSkipVerify: true})
	if err := tc.Handshake(); err != nil {
		c.t.Fatal(err)
	}
	c.nc, c.r = tc, bufio.NewReader(tc)
}

// eventually polls until ok or fails.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(10 * time.Second); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("never: " + what)
		}
	}
}

func testClientTLS() *tls.Config { return &tls.Config{InsecureSkipVerify: true} }
