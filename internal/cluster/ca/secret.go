package ca

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"

	"github.com/postern-mail/postern/internal/base/kind"
)

// secretPrefix binds a sealed secret to its use; the purpose follows. It differs
// from sealing, so that neither can be shown in place of the other.
const secretPrefix = "postern secret v1\x00"

// maxSecret bounds what is sealed: keys and passwords are small.
const maxSecret = 64 << 10

// SealSecret encrypts a secret with the group key, for one purpose. Two seals
// of the same secret differ.
func SealSecret(groupKey []byte, purpose string, plain []byte) ([]byte, error) {
	if len(plain) > maxSecret {
		return nil, kind.Errorf(kind.Invalid, "seal %s: %d bytes, want at most %d", purpose, len(plain), maxSecret)
	}
	box, err := aead(groupKey)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, box.NonceSize(), box.NonceSize()+len(plain)+box.Overhead())
	rand.Read(nonce) // never fails (crypto/rand)
	return box.Seal(nonce, nonce, plain, []byte(secretPrefix+purpose)), nil
}

// OpenSecret decrypts what SealSecret made for the same purpose. Corrupt where
// it is cut, Denied where the key or the purpose is another.
func OpenSecret(groupKey []byte, purpose string, sealed []byte) ([]byte, error) {
	box, err := aead(groupKey)
	if err != nil {
		return nil, err
	}
	if len(sealed) < box.NonceSize()+box.Overhead() {
		return nil, kind.Errorf(kind.Corrupt, "open %s: too short", purpose)
	}
	plain, err := box.Open(nil, sealed[:box.NonceSize()], sealed[box.NonceSize():], []byte(secretPrefix+purpose))
	if err != nil {
		return nil, kind.Errorf(kind.Denied, "open %s: it was not sealed with this group's key for this", purpose)
	}
	return plain, nil
}

// DeriveSecret makes 32 bytes for a purpose out of the group key (RFC 5869).
func DeriveSecret(groupKey []byte, purpose string) []byte {
	b, err := hkdf.Key(sha256.New, groupKey, nil, "postern derived secret: "+purpose, 32)
	if err != nil {
		panic(err) // 32 bytes can always be had of SHA-256
	}
	return b
}
