package sign

import (
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

// oversigned are the fields signed once more than they occur.
var oversigned = []string{"from", "to", "cc", "subject", "date", "message-id", "reply-to", "content-type", "mime-version"}

// covered are the fields signed as often as they occur (RFC 6376 section
// 5.4.1; the List- fields as RFC 8058 section 4 asks for).
var covered = []string{
	"sender", "in-reply-to", "references", "content-transfer-encoding", "content-id", "content-description",
	"content-disposition", "resent-from", "resent-sender", "resent-to", "resent-cc", "resent-date", "resent-message-id",
	"list-id", "list-help", "list-unsubscribe", "list-unsubscribe-post", "list-subscribe", "list-post", "list-owner",
	"list-archive", "auto-submitted",
}

// Key signs for a domain. The signer is RSA of 2048 bits or more, or Ed25519.
type Key struct {
	Domain, Selector string
	Signer           crypto.Signer
}

// algorithm checks a key and returns the name of its algorithm.
func (k Key) algorithm() (string, error) {
	if d, err := keyDomain(k.Domain); err != nil || d != strings.ToLower(k.Domain) {
		return "", fmt.Errorf("domain %.80q of the key is not written as DNS has it", k.Domain)
	}
	if d, err := keyDomain(k.Selector); err != nil || d != strings.ToLower(k.Selector) {
		return "", fmt.Errorf("selector %.80q of the key is not written as DNS has it", k.Selector)
	}
	if k.Signer == nil {
		return "", fmt.Errorf("no key for %s", k.Domain)
	}
	switch pub := k.Signer.Public().(type) {
	case *rsa.PublicKey:
		if bits := pub.N.BitLen(); bits < signBits || bits > maxBits {
			return "", fmt.Errorf("key of %d bits for %s", bits, k.Domain)
		}
		return "rsa-sha256", nil
	case ed25519.PublicKey:
		return "ed25519-sha256", nil
	default:
		return "", fmt.Errorf("key of type %T for %s", pub, k.Domain)
	}
}

// sign signs a digest.
func (k Key) sign(digest [sha256.Size]byte) ([]byte, error) {
	how := crypto.SignerOpts(crypto.SHA256)
	if _, ed := k.Signer.Public().(ed25519.PublicKey); ed {
		how = crypto.Hash(0) // the digest is the message (RFC 8463 section 3)
	}
	return k.Signer.Sign(rand.Reader, digest[:], how)
}

// SignOptions say how to sign.
type SignOptions struct {
	Now time.Time // t=
}

// Sign returns one DKIM-Signature field for each key, to be put in front of
// the message: relaxed/relaxed, the body hashed once for all. It signs the
// fields that readers show or act on, and From, To, Cc, Subject, Date,
// Message-ID, Reply-To, Content-Type and MIME-Version once more than they
// occur.
//
// Errors are of kind.Invalid if the message has no From, has a header over
// the limits or with a line that is no field, has so many of the latter fields
// that h= would have more than 100 names, or if a key is unfit; others come
// from a signer.
func Sign(msg []byte, keys []Key, o SignOptions) ([]byte, error) {
	if len(keys) > maxSignatures {
		return nil, kind.Errorf(kind.Invalid, "sign message: more than %d keys", maxSignatures)
	}
	m, err := read(msg)
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	names, err := m.toSign()
	if err != nil {
		return nil, fmt.Errorf("sign message: %w", err)
	}
	var fields []byte
	for _, k := range keys {
		alg, err := k.algorithm()
		if err != nil {
			return nil, kind.Errorf(kind.Invalid, "sign message: %w", err)
		}
		var t folder
		t.start("DKIM-Signature:")
		t.add("v=1;", "a="+alg+";", "c=relaxed/relaxed;", "d="+k.Domain+";", "s="+k.Selector+";")
		t.add("t=" + strconv.FormatInt(o.Now.Unix(), 10) + ";")
		f, err := m.finish(&t, k, names)
		if err != nil {
			return nil, fmt.Errorf("sign message for %s: %w", k.Domain, err)
		}
		fields = append(fields, f...)
	}
	return fields, nil
}

// toSign lists the names for h=.
func (m *message) toSign() ([]string, error) {
	if len(m.named["from"]) == 0 {
		return nil, kind.Errorf(kind.Invalid, "no From field")
	}
	var names []string
	repeat := func(name string, n int) {
		for range min(n, maxNames+1) {
			names = append(names, name)
		}
	}
	for _, n := range oversigned {
		repeat(n, len(m.named[n])+1)
	}
	if len(names) > maxNames {
		return nil, kind.Errorf(kind.Invalid, "more than %d fields to sign", maxNames)
	}
	for _, n := range covered {
		repeat(n, min(len(m.named[n]), maxNames-len(names)))
	}
	return names, nil
}

// finish adds h=, bh= and b= to a field whose other tags are written.
func (m *message) finish(t *folder, k Key, names []string) ([]byte, error) {
	for i, n := range names {
		if i == 0 {
			n = "h=" + n
		}
		if i < len(names)-1 {
			n += ":"
		} else {
			n += ";"
		}
		if i == 0 {
			t.add(n)
		} else {
			t.join(n)
		}
	}
	t.add("bh=" + base64.StdEncoding.EncodeToString(m.bodyHash(relaxed)) + ";")
	t.add("b=")
	s := signature{field: t.field(), header: relaxed, names: names}
	return k.complete(t, s.digest(m))
}

// complete signs and writes the value of b=, which is the last tag.
func (k Key) complete(t *folder, digest [sha256.Size]byte) ([]byte, error) {
	sig, err := k.sign(digest)
	if err != nil {
		return nil, err
	}
	for b := base64.StdEncoding.EncodeToString(sig); b != ""; {
		n := min(len(b), 72)
		t.join(b[:n])
		b = b[n:]
	}
	return append(t.b, crlf...), nil
}

// folder writes a field in lines of at most 78 characters where it can.
type folder struct {
	b     []byte
	col   int // characters of the line so far
	colon int
}

func (t *folder) start(name string) {
	t.b = append(t.b, name...)
	t.col, t.colon = len(name), len(name)-1
}

// add writes words with a blank in front of each.
func (t *folder) add(words ...string) {
	for _, w := range words {
		if t.col+1+len(w) > 78 {
			t.fold()
		} else {
			t.b = append(t.b, ' ')
			t.col++
		}
		t.b = append(t.b, w...)
		t.col += len(w)
	}
}

// join writes a part with nothing in front of it but, if need be, a new line.
func (t *folder) join(part string) {
	if t.col+len(part) > 78 {
		t.fold()
	}
	t.b = append(t.b, part...)
	t.col += len(part)
}

func (t *folder) fold() {
	t.b = append(t.b, "\r\n\t"...)
	t.col = 8
}

// field is what was written so far.
func (t *folder) field() field {
	return field{strings.ToLower(string(t.b[:t.colon])), t.b, t.colon}
}
