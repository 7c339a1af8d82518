package ca

import (
	"bytes"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
)

func TestSecrets(t *testing.T) {
	key, secret := NewGroupKey(), []byte("correct horse")
	one, err := SealSecret(key, "dkim a.example s1", secret)
	if err != nil {
		t.Fatal(err)
	}
	two, _ := SealSecret(key, "dkim a.example s1", secret)
	if bytes.Equal(one, two) || bytes.Contains(one, secret) {
		t.Fatal("a seal shows what is in it")
	}
	got, err := OpenSecret(key, "dkim a.example s1", one)
	if err != nil || !bytes.Equal(got, secret) {
		t.Fatalf("%q, %v", got, err)
	}
	bent := bytes.Clone(one)
	bent[len(bent)-1] ^= 1
	for what, c := range map[string]struct {
		key     []byte
		purpose string
		sealed  []byte
		want    kind.Kind
	}{
		"another purpose": {key, "dkim b.example s1", one, kind.Denied},
		"another key":     {NewGroupKey(), "dkim a.example s1", one, kind.Denied},
		"changed":         {key, "dkim a.example s1", bent, kind.Denied},
		"cut":             {key, "dkim a.example s1", one[:20], kind.Corrupt},
		"no key":          {nil, "dkim a.example s1", one, kind.Corrupt},
	} {
		if got, err := OpenSecret(c.key, c.purpose, c.sealed); !kind.Is(err, c.want) || got != nil {
			t.Errorf("%s: %q, %v, want %s", what, got, err, c.want)
		}
	}
	if _, err := SealSecret(key, "p", make([]byte, maxSecret+1)); !kind.Is(err, kind.Invalid) {
		t.Errorf("too large: %v", err)
	}
	if empty, err := SealSecret(key, "p", nil); err != nil {
		t.Error(err)
	} else if got, err := OpenSecret(key, "p", empty); err != nil || len(got) != 0 {
		t.Errorf("%q, %v", got, err)
	}
}

// The CA's key and a secret are sealed with the same key: neither opens as the other.
func TestASecretIsNoCAKey(t *testing.T) {
	key := NewGroupKey()
	a, err := NewAuthority("g")
	if err != nil {
		t.Fatal(err)
	}
	sealed, err := a.Seal(key)
	if err != nil {
		t.Fatal(err)
	}
	for _, purpose := range []string{"", string(sealing)} {
		if _, err := OpenSecret(key, purpose, sealed); !kind.Is(err, kind.Denied) {
			t.Errorf("purpose %q: %v", purpose, err)
		}
	}
}

func TestDeriveSecret(t *testing.T) {
	a, b := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	if got := DeriveSecret(a, "x"); len(got) != 32 || !bytes.Equal(got, DeriveSecret(a, "x")) || bytes.Equal(got, DeriveSecret(a, "y")) || bytes.Equal(got, DeriveSecret(b, "x")) {
		t.Error("a derived secret follows from key and purpose, and from both")
	}
}
