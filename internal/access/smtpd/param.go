package smtpd

import (
	"errors"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// mailParams are the parameters of MAIL that we know.
type mailParams struct {
	size  int64  // RFC 1870, -1 when not told
	body  string // RFC 6152: "7BIT", "8BITMIME" or empty
	utf8  bool   // RFC 6531
	ret   string // RFC 3461: "FULL", "HDRS" or empty
	envid string // RFC 3461, decoded
	tls   bool   // RFC 8689
}

// rcptParams are the parameters of RCPT that we know (RFC 3461).
type rcptParams struct {
	notify string // "NEVER", or some of SUCCESS, FAILURE, DELAY joined by commas; empty when not told
	orcpt  string // "type;address", decoded
}

var (
	errUnknownParam = errors.New("parameter is not known")
	errDoubleParam  = errors.New("parameter is given twice")
	errBadParams    = errors.New("parameters are not readable")
)

// maxParams is more than any standard has together.
const maxParams = 16

// parseParams splits "KEY=VALUE KEY" and calls f for each (RFC 5321 section
// 4.1.2, esmtp-param). Keys come in upper case.
func parseParams(s string, f func(key, value string, has bool) error) error {
	if s != "" && s[0] != ' ' {
		return errBadParams
	}
	seen := make(map[string]bool, 4)
	for part := range strings.FieldsSeq(s) {
		key, value, has := strings.Cut(part, "=")
		key = strings.ToUpper(key)
		if key == "" || strings.IndexFunc(key, notKeyword) >= 0 || has && (value == "" || strings.Contains(value, "=") && key != "AUTH") {
			return errBadParams
		}
		if seen[key] {
			return errDoubleParam
		}
		if len(seen) >= maxParams {
			return errBadParams
		}
		seen[key] = true
		if err := f(key, value, has); err != nil {
			return err
		}
	}
	return nil
}

func notKeyword(r rune) bool {
	return !(r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-')
}

func parseMailParams(s string) (p mailParams, err error) {
	p.size = -1
	err = parseParams(s, func(key, value string, has bool) error {
		switch key {
		case "SIZE":
			n, err := strconv.ParseUint(value, 10, 63)
			if err != nil {
				return errors.New("SIZE is not a number")
			}
			p.size = int64(n)
		case "BODY":
			p.body = strings.ToUpper(value)
			if p.body != "7BIT" && p.body != "8BITMIME" {
				return errors.New("BODY must be 7BIT or 8BITMIME")
			}
		case "SMTPUTF8":
			if has {
				return errors.New("SMTPUTF8 takes no value")
			}
			p.utf8 = true
		case "REQUIRETLS":
			if has {
				return errors.New("REQUIRETLS takes no value")
			}
			p.tls = true
		case "AUTH": // RFC 4954 section 5; we trust nobody's word, so it is only checked
			if _, err := decodeXtext(value); err != nil {
				return errors.New("AUTH is not readable")
			}
		case "RET":
			p.ret = strings.ToUpper(value)
			if p.ret != "FULL" && p.ret != "HDRS" {
				return errors.New("RET must be FULL or HDRS")
			}
		case "ENVID":
			if p.envid, err = decodeXtext(value); err != nil || len(value) > 100 {
				return errors.New("ENVID is not readable")
			}
		default:
			return errUnknownParam
		}
		return nil
	})
	return p, err
}

func parseRcptParams(s string) (p rcptParams, err error) {
	err = parseParams(s, func(key, value string, has bool) error {
		switch key {
		case "NOTIFY":
			if p.notify, err = parseNotify(value); err != nil {
				return err
			}
		case "ORCPT":
			if p.orcpt, err = parseORCPT(value); err != nil {
				return err
			}
		default:
			return errUnknownParam
		}
		return nil
	})
	return p, err
}

// parseNotify reads NEVER alone or a set of the others (RFC 3461 section 4.1).
func parseNotify(s string) (string, error) {
	s = strings.ToUpper(s)
	seen := map[string]bool{}
	for v := range strings.SplitSeq(s, ",") {
		switch {
		case v != "NEVER" && v != "SUCCESS" && v != "FAILURE" && v != "DELAY", seen[v]:
			return "", errors.New("NOTIFY is not readable")
		}
		seen[v] = true
	}
	if seen["NEVER"] && len(seen) > 1 {
		return "", errors.New("NOTIFY=NEVER stands alone")
	}
	return s, nil
}

// parseORCPT reads "addr-type;xtext" (RFC 3461 section 4.2) and the utf-8
// address type of RFC 6533 section 3. Postfix writes an address in UTF-8 as
// rfc822 with xtext: it is taken for what it is, a refusal would return the
// message.
func parseORCPT(s string) (string, error) {
	bad := errors.New("ORCPT is not readable")
	kind, addr, has := strings.Cut(s, ";")
	if !has || kind == "" || addr == "" || len(s) > 500 || strings.IndexFunc(strings.ToUpper(kind), notKeyword) >= 0 {
		return "", bad
	}
	kind = strings.ToLower(kind)
	var err error
	if kind == "utf-8" {
		addr, err = decodeUnitext(addr)
	} else if addr, err = decodeOctets(addr); !printableASCII(addr) {
		if kind != "rfc822" || !printableUTF8(addr) {
			return "", bad
		}
		kind = "utf-8"
	}
	if err != nil {
		return "", bad
	}
	return kind + ";" + addr, nil
}

// decodeXtext decodes RFC 3461 section 4 xtext. What comes out must be
// printable ASCII: it would go into headers of notifications.
func decodeXtext(s string) (string, error) {
	out, err := decodeOctets(s)
	if err == nil && !printableASCII(out) {
		err = errBadParams
	}
	return out, err
}

// printableASCII tells whether a text is.
func printableASCII(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// printableUTF8 tells whether a text is UTF-8 without control characters.
func printableUTF8(s string) bool {
	return utf8.ValidString(s) && strings.IndexFunc(s, unicode.IsControl) < 0
}

// decodeOctets decodes xtext, whatever comes out.
func decodeOctets(s string) (string, error) {
	if s == "" {
		return "", errBadParams
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '+' {
			if i+2 >= len(s) || !isUpperHex(s[i+1]) || !isUpperHex(s[i+2]) {
				return "", errBadParams
			}
			n, _ := strconv.ParseUint(s[i+1:i+3], 16, 8) // two hex digits always parse
			c, i = byte(n), i+2
		} else if c == '=' || c <= ' ' || c > '~' {
			return "", errBadParams
		}
		b.WriteByte(c)
	}
	return b.String(), nil
}

func isUpperHex(c byte) bool { return c >= '0' && c <= '9' || c >= 'A' && c <= 'F' }

// decodeUnitext decodes the \x{HEX} forms of RFC 6533 section 3.
func decodeUnitext(s string) (string, error) {
	var b strings.Builder
	for s != "" {
		if hex, ok := strings.CutPrefix(s, `\x{`); ok {
			digits, rest, ok := strings.Cut(hex, "}")
			n, err := strconv.ParseUint(digits, 16, 21)
			if !ok || err != nil || len(digits) < 2 || n < ' ' || n == 0x7f || n > utf8.MaxRune || !utf8.ValidRune(rune(n)) {
				return "", errBadParams
			}
			b.WriteRune(rune(n))
			s = rest
			continue
		}
		r, size := utf8.DecodeRuneInString(s)
		if r == utf8.RuneError && size < 2 || r <= ' ' || r == 0x7f || r == '\\' || r == '=' || r == '+' {
			return "", errBadParams
		}
		b.WriteRune(r)
		s = s[size:]
	}
	return b.String(), nil
}
