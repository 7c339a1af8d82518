package mark

import (
	"bytes"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

const spam = "Received: from x\r\nX-Postern-Quarantine: forged\r\nFrom: s@spam.example\r\n\r\nbuy\r\n"

func TestWrap(t *testing.T) {
	it := Item{Reason: "spam; score 9\r\nBcc: x", Identity: make([]byte, 32), Received: time.Unix(1, 0).UTC(), Organization: "red",
		Envelope: mail.Envelope{Recipients: []mail.EnvelopeRecipient{{Address: "a@red.example"}}}}
	for _, body := range []string{spam, "", " begins with a blank\r\n", ";\r\n", "X-Postern-Quarantine: x;\r\n"} {
		b, err := Wrap(it, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		got, n, err := Unwrap(b)
		if err != nil || string(b[n:]) != body || got.Reason != it.Reason || got.Organization != "red" || len(got.Envelope.Recipients) != 1 || !got.Received.Equal(it.Received) {
			t.Errorf("%q: %+v, %q, %v", body, got, b[n:], err)
		}
		for cut := range n { // also of a field that is cut anywhere
			if _, _, err := Unwrap(b[:cut]); !kind.Is(err, kind.Corrupt) {
				t.Fatalf("cut at %d: %v", cut, err)
			}
		}
	}
	if _, _, err := Unwrap([]byte(spam)); !kind.Is(err, kind.Corrupt) {
		t.Errorf("a field of a stranger is taken: %v", err)
	}
}

func FuzzUnwrap(f *testing.F) {
	w, _ := Wrap(Item{Reason: "spam", Identity: make([]byte, 32), Envelope: mail.Envelope{Recipients: []mail.EnvelopeRecipient{{Address: "a@red.example"}}}}, []byte(spam))
	f.Add(w)
	f.Add(append(bytes.Clone(w[:len(w)-len(spam)]), " a continuation\r\n"...))
	f.Add([]byte(Name + ": "))
	f.Add([]byte(Name + ": e30=\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		it, rest, err := Unwrap(b)
		if err != nil {
			return
		}
		if rest > len(b) {
			t.Fatal("beyond the end")
		}
		again, err := Wrap(it, b[rest:])
		if err != nil {
			return // an envelope that became larger in our words
		}
		if got, n, err := Unwrap(again); err != nil || got.ID != it.ID || !bytes.Equal(again[n:], b[rest:]) {
			t.Fatalf("%v", err)
		}
	})
}
