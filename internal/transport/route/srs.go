package route

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base32"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

// SRSDays is how long a rewritten sender is good for.
const SRSDays = 21

// srsDigits are those of hashes and days; addresses may come back in other
// letters.
const srsDigits = "abcdefghijklmnopqrstuvwxyz234567"

// srsHash is 40 bits of an HMAC.
func srsHash(secret []byte, s string) string {
	h := hmac.New(sha256.New, secret)
	h.Write([]byte("postern srs\x00" + strings.ToLower(s)))
	return base32.NewEncoding(srsDigits).EncodeToString(h.Sum(nil)[:5])
}

// srsDay is the day of a time in two digits, which come again after 1,024 days.
func srsDay(now time.Time) string {
	d := now.Unix() / 86400 % 1024
	return string([]byte{srsDigits[d>>5], srsDigits[d&31]})
}

// fresh tells whether a day is one of the last SRSDays, or tomorrow: clocks
// differ.
func fresh(day string, now time.Time) bool {
	if len(day) != 2 {
		return false
	}
	day = strings.ToLower(day)
	hi, lo := strings.IndexByte(srsDigits, day[0]), strings.IndexByte(srsDigits, day[1])
	if hi < 0 || lo < 0 {
		return false
	}
	age := (now.Unix()/86400 - int64(hi<<5|lo)) % 1024
	if age < 0 {
		age += 1024
	}
	return age <= SRSDays || age == 1023
}

// Rewrite is a sender of domain that leads back to from. One that would be too
// long for an address stays as it is.
func Rewrite(from mail.Address, domain string, secret []byte, now time.Time) mail.Address {
	var local string
	switch tag, rest := srsTag(from.Local); tag {
	case "SRS0":
		// Rewritten by another host: it takes back what it made (SRS1).
		rest = from.Domain + "==" + rest
		local = "SRS1=" + srsHash(secret, rest) + "=" + rest
	case "SRS1":
		// The first host is named already.
		_, rest, ok := strings.Cut(rest, "=")
		if !ok {
			return from
		}
		local = "SRS1=" + srsHash(secret, rest) + "=" + rest
	default:
		rest := srsDay(now) + "=" + from.Domain + "=" + from.Local
		local = "SRS0=" + srsHash(secret, rest) + "=" + rest
	}
	out := mail.Address{Local: local, Domain: domain}
	if len(local) > mail.MaxLocal || len(out.String()) > mail.MaxAddress {
		return from
	}
	return out
}

// srsTag splits a local part of the scheme behind its tag and the sign after
// it.
func srsTag(local string) (tag, rest string) {
	if len(local) < 6 || !strings.EqualFold(local[:3], "SRS") || strings.IndexByte("=-+", local[4]) < 0 {
		return "", ""
	}
	switch local[3] {
	case '0':
		return "SRS0", local[5:]
	case '1':
		return "SRS1", local[5:]
	}
	return "", ""
}

// Reverse is the sender that a rewritten address leads back to. NotFound: it is
// no such address, Denied: it was not made here or is too old.
func Reverse(a mail.Address, secret []byte, now time.Time) (mail.Address, error) {
	tag, rest := srsTag(a.Local)
	if tag == "" {
		return mail.Address{}, kind.Errorf(kind.NotFound, "reverse %s: not a rewritten sender", a)
	}
	hash, rest, _ := strings.Cut(rest, "=")
	if len(secret) == 0 || !hmac.Equal([]byte(strings.ToLower(hash)), []byte(srsHash(secret, rest))) {
		return mail.Address{}, kind.Errorf(kind.Denied, "reverse %s: not made here", a)
	}
	if tag == "SRS1" {
		host, inner, ok := strings.Cut(rest, "==")
		if !ok {
			return mail.Address{}, kind.Errorf(kind.Denied, "reverse %s: not made here", a)
		}
		return parseBack(a, "SRS0="+inner, host)
	}
	day, rest, _ := strings.Cut(rest, "=")
	if !fresh(day, now) {
		return mail.Address{}, kind.Errorf(kind.Denied, "reverse %s: older than %d days", a, SRSDays)
	}
	domain, back, ok := strings.Cut(rest, "=")
	if !ok {
		return mail.Address{}, kind.Errorf(kind.Denied, "reverse %s: not made here", a)
	}
	return parseBack(a, back, domain)
}

// parseBack holds what was rewritten to what an address may be.
func parseBack(a mail.Address, local, domain string) (mail.Address, error) {
	back, err := mail.ParseAddress(mail.Address{Local: local, Domain: domain}.String())
	if err != nil {
		return mail.Address{}, kind.Errorf(kind.Denied, "reverse %s: %w", a, err)
	}
	return back, nil
}
