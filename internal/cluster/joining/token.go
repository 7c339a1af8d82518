package joining

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"hash/crc32"
	"strings"

	"encoding/binary"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
)

// tokenPrefix names the format; its number is the version.
const tokenPrefix = "postern1."

const (
	secretSize = 20
	maxAddrs   = 16
	maxToken   = 4 << 10
)

// Token lets one server join.
type Token struct {
	Secret      []byte            `cbor:"1,keyasint"`
	Fingerprint [sha256.Size]byte `cbor:"2,keyasint"` // of the group's authority
	Addrs       []string          `cbor:"3,keyasint"` // of members to ask
}

// NewToken makes a token with a new secret.
func NewToken(fingerprint [sha256.Size]byte, addrs []string) Token {
	t := Token{Secret: make([]byte, secretSize), Fingerprint: fingerprint, Addrs: addrs}
	if len(t.Addrs) > maxAddrs {
		t.Addrs = t.Addrs[:maxAddrs]
	}
	rand.Read(t.Secret) // never fails (crypto/rand)
	return t
}

// Hash is under what a secret is kept; a secret of 160 random bits needs no
// slow hash.
func Hash(secret []byte) string {
	sum := sha256.Sum256(secret)
	return hex.EncodeToString(sum[:])
}

// String is the token as people carry it.
func (t Token) String() string {
	b := codec.MustMarshal(t)
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b))
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(b)
}

// ParseToken reads a token; errors are Invalid.
func ParseToken(s string) (t Token, err error) {
	s = strings.TrimSpace(s)
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(s) > maxToken {
		return t, kind.Errorf(kind.Invalid, "join token: want one that begins with %s", tokenPrefix)
	}
	b, err := base64.RawURLEncoding.DecodeString(rest)
	if err != nil || len(b) < 4 || crc32.ChecksumIEEE(b[:len(b)-4]) != binary.BigEndian.Uint32(b[len(b)-4:]) {
		return t, kind.Errorf(kind.Invalid, "join token: it is not complete or was mistyped")
	}
	if err := codec.Unmarshal(b[:len(b)-4], &t); err != nil {
		return t, kind.Errorf(kind.Invalid, "join token: %w", err)
	}
	if len(t.Secret) != secretSize || len(t.Addrs) == 0 || len(t.Addrs) > maxAddrs {
		return t, kind.Errorf(kind.Invalid, "join token: it holds no secret or no address")
	}
	return t, nil
}
