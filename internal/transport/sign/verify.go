package sign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"
)

// maxSignatures is how many signatures of a message are looked at.
const maxSignatures = 10

// Result is what became of a signature, in the words of RFC 8601 section 2.7.1.
type Result string

// The results.
const (
	Pass      Result = "pass"
	Fail      Result = "fail"      // the message was changed, or the signature's time is over
	Policy    Result = "policy"    // it may be genuine, but is not of a kind to rely on
	Neutral   Result = "neutral"   // it cannot be read
	TempError Result = "temperror" // its key could not be asked for
	PermError Result = "permerror" // its key does not exist, was revoked, or is unfit
)

// failure is why a signature did not pass.
type failure struct {
	result Result
	text   string
}

func (f *failure) Error() string { return f.text }

func fail(format string, args ...any) error   { return &failure{Fail, fmt.Sprintf(format, args...)} }
func policy(format string, args ...any) error { return &failure{Policy, fmt.Sprintf(format, args...)} }
func temporary(format string, args ...any) error {
	return &failure{TempError, fmt.Sprintf(format, args...)}
}
func permanent(format string, args ...any) error {
	return &failure{PermError, fmt.Sprintf(format, args...)}
}

// resultOf tells the result an error stands for.
func resultOf(err error) Result {
	var f *failure
	switch {
	case err == nil:
		return Pass
	case errors.As(err, &f):
		return f.result
	}
	return Neutral
}

// VerifyOptions say how to verify.
type VerifyOptions struct {
	Now time.Time // t= and x= are judged by it
}

// Verification is what was found about one DKIM signature.
type Verification struct {
	Result    Result
	Err       error  // why it did not pass; nil with Pass
	Domain    string // d= in lower case and A-labels, as far as it could be read
	Selector  string // s=
	Identity  string // i=, "@" and d= if not given
	Algorithm string // rsa-sha256, rsa-sha1 or ed25519-sha256
	Bits      int    // size of the key, once it was found
	Testing   bool   // the key record says t=y
	Signature string // the first characters of b=, header.b of RFC 6008
	Signed    time.Time
	Expires   time.Time
}

// Verify checks the DKIM signatures of a message, the topmost 10, and returns
// what it found in the order they stand in. A message without a signature has
// no verification; one whose header cannot be read has one that says why.
func Verify(ctx context.Context, msg []byte, txt LookupTXT, o VerifyOptions) []Verification {
	m, err := read(msg)
	if err != nil {
		return []Verification{{Result: PermError, Err: err}}
	}
	return m.verify(ctx, txt, o)
}

// VerifyAll is Verify and VerifyChain in one, with the message read once.
func VerifyAll(ctx context.Context, msg []byte, txt LookupTXT, o VerifyOptions) ([]Verification, Chain) {
	m, err := read(msg)
	if err != nil {
		return []Verification{{Result: PermError, Err: err}}, Chain{Status: ChainFail, Err: err}
	}
	return m.verify(ctx, txt, o), m.chain(ctx, txt, o)
}

func (m *message) verify(ctx context.Context, txt LookupTXT, o VerifyOptions) []Verification {
	at := m.named["dkim-signature"]
	if len(at) == 0 {
		return nil
	}
	at = at[:min(len(at), maxSignatures)]
	sigs := make([]*signature, len(at))
	errs := make([]error, len(at))
	var asked []*signature
	for i, n := range at {
		sigs[i], errs[i] = parseSignature(m.fields[n], dkimField)
		if errs[i] == nil {
			errs[i] = m.acceptable(sigs[i], o.Now)
		}
		if errs[i] == nil {
			asked = append(asked, sigs[i])
		}
	}
	keys := fetch(ctx, txt, asked)
	found := make([]Verification, len(at))
	for i, s := range sigs {
		k := keys[s.keyName()]
		if errs[i] == nil {
			errs[i] = m.check(s, k)
		}
		found[i] = Verification{
			Result: resultOf(errs[i]), Err: errs[i], Domain: s.domain, Selector: s.selector, Identity: s.identity,
			Algorithm: s.algorithmName(), Bits: k.Bits, Testing: k.Testing, Signature: s.start, Signed: s.signed, Expires: s.expires,
		}
	}
	return found
}

// acceptable judges a signature by what it says of itself, before anybody is
// asked for a key.
func (m *message) acceptable(s *signature, now time.Time) error {
	switch {
	case s.sha1:
		return policy("SHA-1 is not accepted")
	case s.partial:
		return policy("covers a part of the body only (l=)")
	case !s.expires.IsZero() && now.After(s.expires.Add(skew)):
		return fail("expired %s", s.expires.UTC().Format(time.RFC3339))
	case s.signed.After(now.Add(skew)):
		return fail("signed in the future, %s", s.signed.UTC().Format(time.RFC3339))
	}
	covered := 0
	for _, n := range s.names {
		if n == "from" {
			covered++
		}
	}
	if from := len(m.named["from"]); from > covered {
		return policy("covers %d of %d From fields", covered, from)
	}
	return nil
}

// check verifies a signature with its key: the body first, because that is
// what most often changed.
func (m *message) check(s *signature, k key) error {
	if k.err != nil {
		return k.err
	}
	if err := k.usable(s); err != nil {
		return err
	}
	if !bytes.Equal(m.bodyHash(s.bodyAs), s.bodyHash) {
		return fail("body was changed")
	}
	if !k.verify(s.digest(m), s.sig) {
		return fail("header was changed or the key is another")
	}
	return nil
}

func (s *signature) algorithmName() string {
	switch {
	case s.sha1:
		return "rsa-sha1"
	case s.algorithm != "":
		return s.algorithm + "-sha256"
	}
	return ""
}
