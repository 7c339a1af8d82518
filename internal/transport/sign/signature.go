package sign

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Limits of one signature.
const (
	maxNames = 100 // in h=
	maxSig   = maxBits / 8
	skew     = 5 * time.Minute // how far clocks may differ
)

// purpose is which of the three kinds of signature a field holds.
type purpose uint8

const (
	dkimField    purpose = iota // DKIM-Signature (RFC 6376 section 3.5)
	messageField                // ARC-Message-Signature (RFC 8617 section 4.1.2)
	sealField                   // ARC-Seal (RFC 8617 section 4.1.3)
)

// required are the tags each purpose cannot do without.
var required = [...][]string{
	dkimField:    {"v", "a", "b", "bh", "d", "h", "s"},
	messageField: {"i", "a", "b", "bh", "d", "h", "s"},
	sealField:    {"i", "a", "b", "cv", "d", "s"},
}

// signature is one parsed signature field.
type signature struct {
	field          field
	algorithm      string // of the key: rsa or ed25519
	sha1           bool
	domain         string // d= as DNS wants it
	selector       string // s= as DNS wants it
	identity       string // i= of DKIM, "@" and d= if not given
	identityDomain string
	header, bodyAs form
	names          []string // h=, lower case
	bodyHash, sig  []byte
	partial        bool // l= is there
	signed         time.Time
	expires        time.Time
	instance       int    // i= of ARC
	cv             string // of a seal
	start          string // the first characters of b= (RFC 6008)
}

func (s *signature) keyName() string { return s.selector + "._domainkey." + s.domain }

// parseSignature reads a signature field. What it could read is returned with
// an error too, as far as domain and selector.
func parseSignature(f field, p purpose) (*signature, error) {
	s := &signature{field: f}
	list, err := parseTags(string(f.value()))
	if err != nil {
		return s, err
	}
	if err := s.parseKey(list); err != nil {
		return s, err
	}
	for _, name := range required[p] {
		if _, ok := list.get(name); !ok {
			return s, fmt.Errorf("no %s=", name)
		}
	}
	if err := s.parseAlgorithm(list); err != nil {
		return s, err
	}
	if err := s.parseTimes(list); err != nil {
		return s, err
	}
	if p != dkimField {
		if err := s.parseInstance(list); err != nil {
			return s, err
		}
	}
	if p == sealField {
		return s, s.parseSeal(list)
	}
	if p == dkimField {
		if err := s.parseIdentity(list); err != nil {
			return s, err
		}
	}
	return s, s.parseCover(list)
}

// parseKey reads d= and s=.
func (s *signature) parseKey(list tags) (err error) {
	d, _ := list.get("d")
	sel, _ := list.get("s")
	if s.domain, err = keyDomain(d); err != nil {
		return fmt.Errorf("d=: %w", err)
	}
	if s.selector, err = keyDomain(sel); err != nil {
		return fmt.Errorf("s=: %w", err)
	}
	if len(s.keyName()) > 253 {
		return errors.New("name of the key has more than 253 bytes")
	}
	return nil
}

// parseAlgorithm reads a= and b=.
func (s *signature) parseAlgorithm(list tags) error {
	a, _ := list.get("a")
	switch strings.ToLower(a) {
	case "rsa-sha256":
		s.algorithm = algRSA
	case "rsa-sha1":
		s.algorithm, s.sha1 = algRSA, true
	case "ed25519-sha256":
		s.algorithm = algEd25519
	default:
		return fmt.Errorf("unknown algorithm %.30q", a)
	}
	b, _ := list.get("b")
	b = squeeze(b)
	s.start = b[:min(len(b), 8)]
	if len(b) > base64.StdEncoding.EncodedLen(maxSig) {
		return errors.New("b= is too long")
	}
	var err error
	if s.sig, err = base64.StdEncoding.DecodeString(b); err != nil || len(s.sig) == 0 {
		return errors.New("b= is not base64")
	}
	return nil
}

// parseTimes reads t= and x=.
func (s *signature) parseTimes(list tags) error {
	for _, t := range []struct {
		name string
		to   *time.Time
	}{{"t", &s.signed}, {"x", &s.expires}} {
		v, ok := list.get(t.name)
		if !ok {
			continue
		}
		n, err := number(v)
		if err != nil {
			return fmt.Errorf("%s=: %w", t.name, err)
		}
		*t.to = time.Unix(n, 0)
	}
	if !s.signed.IsZero() && !s.expires.IsZero() && !s.expires.After(s.signed) {
		return errors.New("x= is not after t=")
	}
	return nil
}

// parseInstance reads i= of ARC.
func (s *signature) parseInstance(list tags) error {
	v, _ := list.get("i")
	n, err := number(v)
	if err != nil || n < 1 || n > maxSets {
		return fmt.Errorf("i= is not 1 to %d", maxSets)
	}
	s.instance = int(n)
	s.identityDomain = s.domain // ARC has no other identity
	return nil
}

// parseSeal reads what only seals have.
func (s *signature) parseSeal(list tags) error {
	s.cv, _ = list.get("cv")
	s.cv = strings.ToLower(s.cv)
	if s.cv != "none" && s.cv != "pass" && s.cv != "fail" {
		return fmt.Errorf("unknown cv=%.20q", s.cv)
	}
	if _, ok := list.get("h"); ok {
		return errors.New("a seal may not have h=")
	}
	return nil
}

// parseIdentity reads v=, q= and i= of DKIM.
func (s *signature) parseIdentity(list tags) error {
	if v, _ := list.get("v"); v != "1" {
		return fmt.Errorf("unknown version %.20q", v)
	}
	if q, ok := list.get("q"); ok {
		methods, err := colons(q, maxTags)
		if err != nil || !slices.Contains(methods, "dns/txt") {
			return errors.New("q= without dns/txt")
		}
	}
	s.identity = "@" + s.domain
	if i, ok := list.get("i"); ok {
		s.identity = unquote(squeeze(i))
	}
	for i := range len(s.identity) {
		if c := s.identity[i]; c < ' ' || c == 0x7f {
			return errors.New("control character in i=")
		}
	}
	at := strings.LastIndexByte(s.identity, '@')
	if at < 0 {
		return errors.New("i= without @")
	}
	var err error
	if s.identityDomain, err = keyDomain(s.identity[at+1:]); err != nil {
		return fmt.Errorf("i=: %w", err)
	}
	if s.identityDomain != s.domain && !strings.HasSuffix(s.identityDomain, "."+s.domain) {
		return errors.New("i= is not of d=")
	}
	return nil
}

// unquote decodes the quoted-printable of RFC 6376 section 2.11; what is no
// escape stays.
func unquote(s string) string {
	if !strings.Contains(s, "=") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && i+2 < len(s) {
			hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			if hi >= 0 && lo >= 0 {
				b = append(b, byte(hi<<4|lo))
				i += 2
				continue
			}
		}
		b = append(b, s[i])
	}
	return string(b)
}

const hexDigits = "0123456789ABCDEF"

// parseCover reads what the signature covers: c=, h=, bh= and l=.
func (s *signature) parseCover(list tags) error {
	if c, ok := list.get("c"); ok {
		head, body, both := strings.Cut(c, "/")
		var ok1, ok2 bool
		s.header, ok1 = parseForm(head)
		if s.bodyAs, ok2 = parseForm(body); !both {
			s.bodyAs, ok2 = simple, true
		}
		if !ok1 || !ok2 {
			return fmt.Errorf("unknown canonicalisation %.30q", c)
		}
	}
	h, _ := list.get("h")
	names, err := colons(h, maxNames)
	if err != nil {
		return fmt.Errorf("h=: %w", err)
	}
	for i, n := range names {
		if n == "" {
			return errors.New("h=: empty name")
		}
		names[i] = strings.ToLower(n)
	}
	if s.names = names; !slices.Contains(names, "from") {
		return errors.New("h= without From")
	}
	bh, _ := list.get("bh")
	if bh = squeeze(bh); len(bh) != base64.StdEncoding.EncodedLen(sha256.Size) && !s.sha1 {
		return errors.New("bh= is no SHA-256")
	}
	if s.bodyHash, err = base64.StdEncoding.DecodeString(bh); err != nil {
		return errors.New("bh= is not base64")
	}
	_, s.partial = list.get("l")
	return nil
}

// digest hashes the fields that h= names and the signature's own field with b=
// empty (RFC 6376 section 3.7).
func (s *signature) digest(m *message) [sha256.Size]byte {
	h := sha256.New()
	pick := m.picker()
	var buf []byte
	for _, name := range s.names {
		if f, ok := pick.pick(name); ok {
			buf = append(s.header.appendField(buf[:0], f), crlf...)
			h.Write(buf)
		}
	}
	h.Write(s.header.appendField(buf[:0], unsigned(s.field)))
	return [sha256.Size]byte(h.Sum(nil))
}

// unsigned is the signature field with the value of b= taken out, all of it
// up to the next semicolon.
func unsigned(f field) field {
	at := f.colon + 1
	for at < len(f.raw) {
		end := len(f.raw)
		if i := bytes.IndexByte(f.raw[at:], ';'); i >= 0 {
			end = at + i
		}
		eq := bytes.IndexByte(f.raw[at:end], '=')
		if eq >= 0 && trim(string(f.raw[at:at+eq])) == "b" {
			raw := slices.Concat(f.raw[:at+eq+1], f.raw[end:])
			return field{f.name, raw, f.colon}
		}
		at = end + 1
	}
	return f
}
