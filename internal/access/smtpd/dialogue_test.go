package smtpd

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// The dialogues in testdata are run line by line:
//
//	door NAME      connect (the greeting is then the first S line)
//	C: text        send text with CRLF
//	R: "..."       send these bytes (a Go string; {N} repeats the one before: "A"{5000})
//	S: text        the next line must be text; * stands for anything
//	tls            make a TLS handshake
//	closed         the server must close now
//	kept NAME N    the mailbox (or address elsewhere) must hold N messages
//	has NAME text  the last message in the mailbox contains text (Go string)
//	lacks NAME text
//
// Anything the server says that no S line expects fails at the next S, closed
// or end of the file.
func TestDialogues(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no dialogues", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			t.Parallel()
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			d := &dialogue{t: t, w: open(t, func(c *Config) { c.MaxMessageBytes = 64 << 10; c.MaxReceived = 5; c.MaxIdleCommands = 30 })}
			for i, line := range strings.Split(string(text), "\n") {
				d.at = fmt.Sprintf("%s:%d: %s", f, i+1, line)
				d.step(line)
			}
			d.hangUp()
		})
	}
}

type dialogue struct {
	t  *testing.T
	w  *world
	at string
	nc net.Conn
	r  *bufio.Reader
}

func (d *dialogue) fail(format string, args ...any) {
	d.t.Helper()
	d.t.Fatalf("%s\n\t%s", d.at, fmt.Sprintf(format, args...))
}

func (d *dialogue) step(line string) {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "", "#":
	case "door":
		d.hangUp()
		nc, err := net.Dial("tcp", d.w.addr(rest))
		if err != nil {
			d.fail("%v", err)
		}
		d.use(nc)
		if rest == "submissions" {
			d.tls()
		}
	case "C:":
		d.send([]byte(rest + "\r\n"))
	case "R:":
		d.send(d.unquote(rest))
	case "S:":
		got, err := d.r.ReadString('\n')
		if err != nil || !strings.HasSuffix(got, "\r\n") {
			d.fail("got %q, %v", got, err)
		}
		if got = strings.TrimSuffix(got, "\r\n"); !matches(rest, got) {
			d.fail("got %s", got)
		}
	case "tls":
		d.tls()
	case "closed":
		if b, err := io.ReadAll(d.r); len(b) > 0 || err != nil && !strings.Contains(err.Error(), "reset") {
			d.fail("got %q, %v", b, err)
		}
		d.nc.Close()
		d.nc = nil
	case "kept":
		name, n, _ := strings.Cut(rest, " ")
		if got := len(d.w.queue.mailbox(name)); strconv.Itoa(got) != n {
			d.fail("has %d", got)
		}
	case "has", "lacks":
		name, text, _ := strings.Cut(rest, " ")
		all := d.w.queue.mailbox(name)
		if len(all) == 0 {
			d.fail("mailbox is empty")
		}
		if last := all[len(all)-1]; strings.Contains(last, string(d.unquote(text))) != (word == "has") {
			d.fail("message is\n%s", last)
		}
	default:
		d.fail("no such step")
	}
}

func (d *dialogue) use(nc net.Conn) {
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	d.nc, d.r = nc, bufio.NewReader(nc)
}

func (d *dialogue) tls() {
	c := tls.Client(d.nc, &tls.Config{InsecureSkipVerify: true})
	if err := c.Handshake(); err != nil {
		d.fail("%v", err)
	}
	d.use(c)
}

func (d *dialogue) send(b []byte) {
	if _, err := d.nc.Write(b); err != nil {
		d.fail("%v", err)
	}
}

// hangUp closes the connection; what the server still had to say fails.
func (d *dialogue) hangUp() {
	if d.nc == nil {
		return
	}
	if n := d.r.Buffered(); n > 0 {
		b, _ := d.r.Peek(n)
		d.fail("not expected: %q", b)
	}
	d.nc.Close()
}

// unquote reads "text" and "text"{times}, several joined by blanks.
func (d *dialogue) unquote(s string) []byte {
	var out []byte
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		q, err := strconv.QuotedPrefix(s)
		if err != nil {
			d.fail("%v", err)
		}
		text, _ := strconv.Unquote(q)
		s = s[len(q):]
		n := 1
		if strings.HasPrefix(s, "{") {
			num, rest, _ := strings.Cut(s[1:], "}")
			n, _ = strconv.Atoi(num)
			s = rest
		}
		out = append(out, strings.Repeat(text, n)...)
	}
	return out
}

// matches compares with * as a wildcard.
func matches(pattern, s string) bool {
	parts := strings.Split(pattern, "*")
	if len(parts) == 1 {
		return pattern == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	for _, p := range parts[1 : len(parts)-1] {
		i := strings.Index(s, p)
		if i < 0 {
			return false
		}
		s = s[i+len(p):]
	}
	return strings.HasSuffix(s, parts[len(parts)-1])
}
