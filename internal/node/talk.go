package node

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// talk is a client's end of a dialogue in lines, as probes need it.
type talk struct {
	c net.Conn
	r *bufio.Reader
	n int // of the next IMAP tag
}

// Limits of what a door may answer to a probe.
const (
	maxLine    = 8 << 10
	maxAnswers = 200 // lines
)

// connect opens a dialogue that ends with ctx. With a configuration for TLS that
// begins at once.
func connect(ctx context.Context, addr string, c *tls.Config) (*talk, error) {
	nc, err := plain()(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	if end, ok := ctx.Deadline(); ok {
		if err := nc.SetDeadline(end); err != nil {
			nc.Close()
			return nil, err
		}
	}
	t := &talk{c: nc, r: bufio.NewReaderSize(nc, maxLine)}
	if c != nil {
		if err := t.secure(ctx, c); err != nil {
			nc.Close()
			return nil, err
		}
	}
	return t, nil
}

// secure begins TLS.
func (t *talk) secure(ctx context.Context, c *tls.Config) error {
	tc := tls.Client(t.c, c)
	if err := tc.HandshakeContext(ctx); err != nil {
		return fmt.Errorf("TLS: %w", err)
	}
	t.c, t.r = tc, bufio.NewReaderSize(tc, maxLine)
	return nil
}

func (t *talk) close() { t.c.Close() }

func (t *talk) line() (string, error) {
	b, err := t.r.ReadSlice('\n')
	if err != nil {
		return "", fmt.Errorf("no answer: %w", err)
	}
	return strings.TrimRight(string(b), "\r\n"), nil
}

// reply reads an answer of SMTP, its last line (RFC 5321 section 4.2.1).
func (t *talk) reply() (code int, text string, err error) {
	for range maxAnswers {
		l, err := t.line()
		if err != nil {
			return 0, "", err
		}
		if len(l) < 3 {
			return 0, "", fmt.Errorf("answer is %q", l)
		}
		if code, err = strconv.Atoi(l[:3]); err != nil {
			return 0, "", fmt.Errorf("answer is %q", l)
		}
		if len(l) == 3 || l[3] != '-' {
			return code, l, nil
		}
	}
	return 0, "", fmt.Errorf("answer has no end")
}

// smtp says a line, if any, and wants an answer that begins with the digit.
func (t *talk) smtp(line string, want int) error {
	if line != "" {
		if _, err := io.WriteString(t.c, line+"\r\n"); err != nil {
			return err
		}
	}
	verb, _, _ := strings.Cut(line, " ")
	code, text, err := t.reply()
	switch {
	case err != nil:
		return fmt.Errorf("%s: %w", verb, err)
	case code/100 == want:
		return nil
	case code == 454 || strings.Contains(text, " 4.7.1 "):
		// Logins are not judged now, or a greylist: the door itself works.
		return kind.Errorf(kind.Busy, "%s: answer is %q", verb, text)
	}
	return fmt.Errorf("%s: answer is %q", verb, text)
}

// hello greets, with TLS where that is wanted and has not begun.
func (t *talk) hello(ctx context.Context, name string, c *tls.Config) error {
	if err := t.smtp("", 2); err != nil {
		return fmt.Errorf("greeting%w", err)
	}
	if err := t.smtp("EHLO "+name, 2); err != nil || c == nil {
		return err
	}
	if err := t.smtp("STARTTLS", 2); err != nil {
		return err
	}
	if err := t.secure(ctx, c); err != nil {
		return err
	}
	return t.smtp("EHLO "+name, 2)
}

// plainAuth logs in (RFC 4616).
func (t *talk) plainAuth(login, password string) error {
	if _, err := io.WriteString(t.c, "AUTH PLAIN "+base64.StdEncoding.EncodeToString([]byte("\x00"+login+"\x00"+password))+"\r\n"); err != nil {
		return err
	}
	if err := t.smtp("", 2); err != nil {
		return fmt.Errorf("AUTH%w", err)
	}
	return nil
}

// imap says a command and wants OK; it returns the untagged answers.
func (t *talk) imap(command string) (untagged []string, err error) {
	t.n++
	tag := "p" + strconv.Itoa(t.n)
	if _, err := io.WriteString(t.c, tag+" "+command+"\r\n"); err != nil {
		return nil, err
	}
	verb, _, _ := strings.Cut(command, " ")
	for range maxAnswers {
		l, err := t.line()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", verb, err)
		}
		status, tagged := strings.CutPrefix(l, tag+" ")
		switch {
		case !tagged:
			untagged = append(untagged, l)
		case strings.HasPrefix(status, "OK"):
			return untagged, nil
		case strings.HasPrefix(status, "NO [UNAVAILABLE]"):
			return nil, kind.Errorf(kind.Busy, "%s: answer is %q", verb, status)
		default:
			return nil, fmt.Errorf("%s: answer is %q", verb, status)
		}
	}
	return nil, fmt.Errorf("%s: answer has no end", verb)
}
