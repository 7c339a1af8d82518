package smtpc

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// Limits of one reply.
const (
	maxLine  = 2 << 10  // bytes of a line with its end
	maxLines = 100      // lines
	maxReply = 64 << 10 // bytes of all lines
	maxText  = 1000     // bytes of Reply.Text
)

// Reply is one answer of a peer, or (Local) what this package would have made
// it answer.
type Reply struct {
	Code   int    // RFC 5321 section 4.2, 0: there was none
	Status string // enhanced code (RFC 2034, RFC 3463) such as 5.1.1, may be empty
	Text   string // one line for people, cleaned, at most 1,000 bytes
	Local  bool   // the peer was not asked
}

// Positive holds for 2xx.
func (r Reply) Positive() bool { return r.Code/100 == 2 }

// Temporary holds for 4xx: the same may work later.
func (r Reply) Temporary() bool { return r.Code/100 == 4 }

// Permanent holds for 5xx.
func (r Reply) Permanent() bool { return r.Code/100 == 5 }

// String is the answer on one line.
func (r Reply) String() string {
	s := fmt.Sprintf("%03d", r.Code)
	if r.Status != "" {
		s += " " + r.Status
	}
	if r.Text != "" {
		s += " " + r.Text
	}
	return s
}

func local(code int, status, text string) Reply {
	return Reply{Code: code, Status: status, Text: text, Local: true}
}

// errProtocol is wrapped by everything a peer says that is not SMTP. Nothing
// more can be believed of such a session.
var errProtocol = errors.New("not SMTP")

// readReply takes one reply from br, whose buffer has to be maxLine large, and
// returns the text of its lines as well.
func readReply(br *bufio.Reader) (Reply, []string, error) {
	var r Reply
	var lines []string
	for total := 0; ; {
		raw, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			return Reply{}, nil, fmt.Errorf("%w: a line longer than %d bytes", errProtocol, maxLine)
		}
		if err != nil {
			if err == io.EOF && (len(raw) > 0 || len(lines) > 0) {
				err = io.ErrUnexpectedEOF
			}
			return Reply{}, nil, err
		}
		if total += len(raw); total > maxReply || len(lines) >= maxLines {
			return Reply{}, nil, fmt.Errorf("%w: an answer without end", errProtocol)
		}
		code, text, more, err := parseLine(raw)
		if err != nil {
			return Reply{}, nil, err
		}
		if len(lines) > 0 && code != r.Code {
			return Reply{}, nil, fmt.Errorf("%w: codes %d and %d in one answer", errProtocol, r.Code, code)
		}
		r.Code = code
		lines = append(lines, text)
		if !more {
			break
		}
	}
	r.Status, r.Text = describe(r.Code, lines)
	return r, lines, nil
}

// parseLine takes a line of a reply apart (RFC 5321 section 4.2). A bare LF is
// taken for its end: reading it so harms nobody.
func parseLine(raw []byte) (code int, text string, more bool, err error) {
	s := strings.TrimSuffix(strings.TrimSuffix(string(raw), "\n"), "\r")
	if len(s) < 3 || s[0] < '2' || s[0] > '5' || s[1] < '0' || s[1] > '9' || s[2] < '0' || s[2] > '9' {
		return 0, "", false, fmt.Errorf("%w: %q", errProtocol, clean(s, 60))
	}
	code = int(s[0]-'0')*100 + int(s[1]-'0')*10 + int(s[2]-'0')
	switch {
	case len(s) == 3:
	case s[3] == ' ':
		text = s[4:]
	case s[3] == '-':
		text, more = s[4:], true
	default:
		return 0, "", false, fmt.Errorf("%w: %q", errProtocol, clean(s, 60))
	}
	return code, text, more, nil
}

// describe takes the enhanced code off the lines and joins them. A code whose
// class is not that of the reply is text (RFC 2034 section 4).
func describe(code int, lines []string) (status, text string) {
	parts := make([]string, 0, len(lines))
	for i, l := range lines {
		st, rest, _ := strings.Cut(l, " ")
		if isStatus(st) && int(st[0]-'0') == code/100 && (i == 0 || st == status) {
			status, l = st, rest
		}
		if l = strings.TrimSpace(l); l != "" {
			parts = append(parts, l)
		}
	}
	return status, clean(strings.Join(parts, " "), maxText)
}

// isStatus holds for class "." subject "." detail (RFC 3463 section 2).
func isStatus(s string) bool {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || len(parts[0]) != 1 {
		return false
	}
	for _, p := range parts {
		if p == "" || len(p) > 3 || strings.Trim(p, "0123456789") != "" {
			return false
		}
	}
	return true
}

// clean makes what a peer said fit for logs and notifications: valid UTF-8
// without control characters, cut at limit bytes.
func clean(s string, limit int) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) > limit {
		s = s[:limit]
		for !utf8.ValidString(s) {
			s = s[:len(s)-1]
		}
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 {
			return '?'
		}
		return r
	}, s)
}
