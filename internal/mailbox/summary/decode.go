package summary

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime"
	"strings"
	"unicode/utf8"

	"github.com/emersion/go-message/charset"

	"github.com/postern-mail/postern/internal/mail"
)

// Text is the text of a part as UTF-8: transfer encoding and charset are
// undone as far as they make sense. body is the whole message; at most limit
// bytes of the part are looked at, 0 for all.
func Text(n *mail.Part, body []byte, limit int) string {
	if n.BodyStart < 0 || n.BodyEnd > int64(len(body)) || n.BodyStart >= n.BodyEnd {
		return ""
	}
	raw := body[n.BodyStart:n.BodyEnd]
	if limit > 0 && len(raw) > limit {
		raw = raw[:limit]
	}
	return toUTF8(n.Params["charset"], Decode(n.Encoding, raw))
}

// Decode undoes a transfer encoding (RFC 2045 section 6). What does not belong
// to the encoding is passed over, as mail programs do.
func Decode(encoding string, raw []byte) []byte {
	switch encoding {
	case "base64":
		return fromBase64(raw)
	case "quoted-printable":
		return fromQuoted(raw)
	}
	return raw
}

func fromBase64(raw []byte) []byte {
	in := make([]byte, 0, len(raw))
	for _, c := range raw {
		if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' {
			in = append(in, c)
		}
	}
	if len(in)%4 == 1 {
		in = in[:len(in)-1]
	}
	n, _ := base64.RawStdEncoding.Decode(in, in) // in place: output is behind input
	return in[:n]
}

func fromQuoted(raw []byte) []byte {
	out := make([]byte, 0, len(raw))
	for len(raw) > 0 {
		i := bytes.IndexByte(raw, '=')
		if i < 0 {
			return append(out, raw...)
		}
		out = append(out, raw[:i]...)
		raw = raw[i+1:]
		if len(raw) >= 2 {
			if hi, lo := unhex(raw[0]), unhex(raw[1]); hi >= 0 && lo >= 0 {
				out = append(out, byte(hi<<4|lo))
				raw = raw[2:]
				continue
			}
		}
		// A soft line break, or an "=" that stands for itself.
		soft := bytes.TrimLeft(raw[:min(len(raw), 80)], " \t\r")
		if len(soft) > 0 && soft[0] == '\n' {
			raw = raw[min(len(raw), 80)-len(soft)+1:]
		} else if len(raw) > 0 {
			out = append(out, '=')
		}
	}
	return out
}

func unhex(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	}
	return -1
}

// toUTF8 converts from a charset. Unknown ones count as UTF-8 where the bytes
// are that, and as windows-1252 otherwise.
func toUTF8(name string, b []byte) string {
	name = strings.ToLower(strings.TrimSpace(name))
	switch name {
	case "", "us-ascii", "ascii", "utf-8", "utf8":
		if utf8.Valid(b) {
			return string(b)
		}
		name = "windows-1252"
	}
	r, err := charset.Reader(name, bytes.NewReader(b))
	if err != nil {
		if utf8.Valid(b) {
			return string(b)
		}
		if r, err = charset.Reader("windows-1252", bytes.NewReader(b)); err != nil {
			return strings.ToValidUTF8(string(b), "\uFFFD")
		}
	}
	out, _ := io.ReadAll(r) // what was converted before an error counts
	return strings.ToValidUTF8(string(out), "\uFFFD")
}

// DecodeHeader undoes encoded words (RFC 2047) in a header value; what cannot
// be decoded stays.
func DecodeHeader(s string) string {
	if !strings.Contains(s, "=?") {
		return s
	}
	d := mime.WordDecoder{CharsetReader: charset.Reader}
	out, err := d.DecodeHeader(s)
	if err != nil {
		return s
	}
	return strings.ToValidUTF8(out, "\uFFFD")
}
