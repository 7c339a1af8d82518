package sign

import (
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/net/idna"

	"github.com/postern-mail/postern/internal/base/kind"
)

// What a key may be.
const (
	minBits    = 1024 // verifiers must refuse less (RFC 8301 section 3.2)
	signBits   = 2048 // signers should use this much (the same section)
	maxBits    = 8192 // more only costs the verifier time
	maxRecord  = 16 << 10
	maxRecords = 10
	lookups    = 10 // keys asked for at the same time
)

// The algorithms of keys and, with "-sha256", of signatures.
const (
	algRSA     = "rsa"
	algEd25519 = "ed25519"
)

// LookupTXT asks DNS for the TXT records of a name, the strings of each record
// joined. No record is an empty answer, an error of kind.NotFound or a
// *net.DNSError that says so; any other error is temporary. It must end with
// its context.
type LookupTXT func(ctx context.Context, name string) ([]string, error)

// KeyRecord is what a selector's TXT record says (RFC 6376 section 3.6.1).
type KeyRecord struct {
	Algorithm string           // rsa or ed25519
	Public    crypto.PublicKey // *rsa.PublicKey or ed25519.PublicKey; nil: the key was revoked
	Bits      int              // size of the key
	Testing   bool             // t=y: the domain is trying DKIM out
	Strict    bool             // t=s: i= must name d= itself, no subdomain
	hashes    []string         // h=; empty: any
	services  []string         // s=; empty: any
}

// ParseKeyRecord reads a key record. A revoked key (empty p=) is no error.
func ParseKeyRecord(txt string) (KeyRecord, error) {
	r := KeyRecord{Algorithm: algRSA}
	if len(txt) > maxRecord {
		return r, fmt.Errorf("key record: more than %d bytes", maxRecord)
	}
	list, err := parseTags(txt)
	if err != nil {
		return r, fmt.Errorf("key record: %w", err)
	}
	if v, ok := list.get("v"); ok && (v != "DKIM1" || list[0].name != "v") {
		return r, errors.New("key record: v= is not DKIM1 or not the first tag")
	}
	for _, t := range list {
		var parts []string
		switch t.name {
		case "h", "s", "t":
			if parts, err = colons(t.value, maxTags); err != nil {
				return r, fmt.Errorf("key record: %s=: %w", t.name, err)
			}
		}
		switch t.name {
		case "k":
			r.Algorithm = t.value
		case "h":
			r.hashes = parts
		case "s":
			r.services = parts
		case "t":
			r.Testing = slices.Contains(parts, "y")
			r.Strict = slices.Contains(parts, "s")
		}
	}
	p, ok := list.get("p")
	if !ok {
		return r, errors.New("key record: no p=")
	}
	return r, r.parsePublic(squeeze(p))
}

// parsePublic reads p=: a SubjectPublicKeyInfo or, as many publish, a bare
// RSAPublicKey; for Ed25519 the 32 bytes themselves (RFC 8463 section 4.2).
func (r *KeyRecord) parsePublic(p string) error {
	if r.Algorithm != algRSA && r.Algorithm != algEd25519 {
		return fmt.Errorf("key record: unknown key type %.20q", r.Algorithm)
	}
	if p == "" {
		return nil
	}
	der, err := base64.StdEncoding.DecodeString(p)
	if err != nil {
		return errors.New("key record: p= is not base64")
	}
	if r.Algorithm == algEd25519 {
		if len(der) != ed25519.PublicKeySize {
			return errors.New("key record: p= is not an Ed25519 key")
		}
		r.Public, r.Bits = ed25519.PublicKey(der), 256
		return nil
	}
	var key *rsa.PublicKey
	if pub, err := x509.ParsePKIXPublicKey(der); err == nil {
		key, _ = pub.(*rsa.PublicKey)
	} else {
		key, _ = x509.ParsePKCS1PublicKey(der)
	}
	if key == nil {
		return errors.New("key record: p= is not an RSA key")
	}
	r.Public, r.Bits = key, key.N.BitLen()
	return nil
}

// FormatKeyRecord writes the TXT record of a public key, an *rsa.PublicKey or
// an ed25519.PublicKey, as one string; zone files split it every 255 bytes.
func FormatKeyRecord(pub crypto.PublicKey) (string, error) {
	alg, der, err := algRSA, []byte(nil), error(nil)
	switch k := pub.(type) {
	case *rsa.PublicKey:
		der, err = x509.MarshalPKIXPublicKey(k)
	case ed25519.PublicKey:
		alg, der = algEd25519, k
	default:
		err = fmt.Errorf("key of type %T", pub)
	}
	if err != nil {
		return "", kind.Errorf(kind.Invalid, "write key record: %w", err)
	}
	return "v=DKIM1; k=" + alg + "; p=" + base64.StdEncoding.EncodeToString(der), nil
}

// usable reports why a key may not check this signature.
func (r KeyRecord) usable(s *signature) error {
	switch {
	case r.Public == nil:
		return permanent("key revoked")
	case r.Algorithm != s.algorithm:
		return permanent("key is for %s", r.Algorithm)
	case len(r.hashes) > 0 && !slices.Contains(r.hashes, "sha256"):
		return permanent("key does not allow sha256")
	case len(r.services) > 0 && !slices.Contains(r.services, "*") && !slices.Contains(r.services, "email"):
		return permanent("key is not for email")
	case r.Algorithm == algRSA && r.Bits < minBits:
		return policy("key of %d bits", r.Bits)
	case r.Algorithm == algRSA && r.Bits > maxBits:
		return policy("key of %d bits", r.Bits)
	case r.Strict && s.identityDomain != s.domain:
		return permanent("key does not allow subdomains in i=")
	}
	return nil
}

// verify checks a signature over data. Both algorithms sign its SHA-256 (RFC
// 6376 section 3.3, RFC 8463 section 3).
func (r KeyRecord) verify(digest [sha256.Size]byte, sig []byte) bool {
	switch k := r.Public.(type) {
	case *rsa.PublicKey:
		return rsa.VerifyPKCS1v15(k, crypto.SHA256, digest[:], sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(k, digest[:], sig)
	}
	return false
}

// key is the answer to one look-up.
type key struct {
	KeyRecord
	err error // a *failure
}

// fetch looks the keys of all signatures up, each name once and some at the
// same time, so that a slow server of one domain does not use up the time of
// the others.
func fetch(ctx context.Context, lookup LookupTXT, sigs []*signature) map[string]key {
	keys := make(map[string]key, len(sigs))
	var names []string
	for _, s := range sigs {
		if _, ok := keys[s.keyName()]; !ok {
			keys[s.keyName()] = key{}
			names = append(names, s.keyName())
		}
	}
	var (
		wg    sync.WaitGroup
		mu    sync.Mutex // guards keys
		slots = make(chan struct{}, lookups)
	)
	for _, name := range names {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			k := ask(ctx, lookup, name)
			mu.Lock()
			defer mu.Unlock()
			keys[name] = k
		})
	}
	wg.Wait()
	return keys
}

// ask looks one key up. Of several records the first that can be read counts;
// what to do then is not defined (RFC 6376 section 3.6.2.2).
func ask(ctx context.Context, lookup LookupTXT, name string) (k key) {
	if err := ctx.Err(); err != nil {
		return key{err: temporary("key %s: %v", name, err)}
	}
	txt, err := lookup(ctx, name)
	if err != nil && !missing(err) {
		return key{err: temporary("key %s: %v", name, err)}
	}
	k.err = permanent("no key at %s", name)
	for _, t := range txt[:min(len(txt), maxRecords)] {
		if k.KeyRecord, err = ParseKeyRecord(t); err == nil {
			return key{KeyRecord: k.KeyRecord}
		}
		k.err = permanent("key at %s: %v", name, err)
	}
	return k
}

func missing(err error) bool {
	var d *net.DNSError
	return kind.Is(err, kind.NotFound) || errors.As(err, &d) && d.IsNotFound
}

// keyDomain returns a domain or selector as DNS wants it: lower case, with
// A-labels (RFC 8616 section 4), at most 253 bytes.
func keyDomain(s string) (string, error) {
	for i := range len(s) {
		if s[i] >= 0x80 {
			a, err := idna.Lookup.ToASCII(s)
			if err != nil {
				return "", fmt.Errorf("bad name %.80q", s)
			}
			s = a
			break
		}
	}
	if len(s) > 253 {
		return "", errors.New("name of more than 253 bytes")
	}
	for label := range strings.SplitSeq(s, ".") {
		if !keyLabel(label) {
			return "", fmt.Errorf("bad name %.80q", s)
		}
	}
	return strings.ToLower(s), nil
}

// keyLabel is a label of letters, digits, hyphens and underscores.
func keyLabel(s string) bool {
	for i := range len(s) {
		c := s[i]
		if (c|0x20 < 'a' || c|0x20 > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return s != "" && len(s) <= 63
}
