package sign

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"time"
)

// maxSets is how many ARC sets a message may have (RFC 8617 section 4.2.1).
const maxSets = 50

// The names of the three fields of a set.
const (
	nameResults = "arc-authentication-results"
	nameMessage = "arc-message-signature"
	nameSeal    = "arc-seal"
)

// ChainStatus is the state of a chain (RFC 8617 section 4.4).
type ChainStatus string

// The states of a chain.
const (
	ChainNone ChainStatus = "none" // the message has no ARC set
	ChainPass ChainStatus = "pass"
	ChainFail ChainStatus = "fail"
)

// Chain is what was found about a message's ARC sets.
type Chain struct {
	Status    ChainStatus
	Err       error // why it failed
	Temporary bool  // it failed because a key could not be asked for
	Ended     bool  // the newest seal says that the chain was broken: nobody adds to it
	Instance  int   // the highest i= that was found; 0: none
	// OldestPass is the oldest set whose message signature still holds, so that
	// nobody changed the message since; 0 if all hold (RFC 8617 section 5.2).
	OldestPass int
	Sets       []Set // oldest first; empty if the structure of the chain is broken
}

// Set is one hop of a chain. Only a chain that passes makes it trustworthy,
// and then as far as its sealer is.
type Set struct {
	Instance int
	Domain   string // d= of the seal: who answers for the results
	Selector string
	Message  string // d= of the message signature
	CV       string // what the sealer found of the chain before it
	Results  string // the Authentication-Results without i=, unfolded
	Signed   time.Time
}

// VerifyChain checks the ARC sets of a message (RFC 8617 section 5.2).
func VerifyChain(ctx context.Context, msg []byte, txt LookupTXT, o VerifyOptions) Chain {
	m, err := read(msg)
	if err != nil {
		return Chain{Status: ChainFail, Err: err}
	}
	return m.chain(ctx, txt, o)
}

// arcSet are the three fields of an instance.
type arcSet struct {
	results       field
	text          string // of results, without i=
	message, seal *signature
}

func (m *message) chain(ctx context.Context, txt LookupTXT, o VerifyOptions) Chain {
	sets, highest, err := m.sets()
	c := Chain{Status: ChainNone, Instance: highest}
	if n := len(sets); n > 0 && sets[n-1].seal != nil && sets[n-1].seal.cv == string(ChainFail) {
		c.Ended = true
	}
	if err != nil {
		return c.broken(err)
	}
	if len(sets) == 0 {
		return c
	}
	for i, s := range sets {
		c.Sets = append(c.Sets, Set{i + 1, s.seal.domain, s.seal.selector, s.message.domain, s.seal.cv, s.text, s.seal.signed})
	}
	if c.Ended {
		return c.broken(errors.New("the newest seal says cv=fail"))
	}
	if err := seals(sets); err != nil {
		return c.broken(err)
	}
	var all []*signature
	for _, s := range sets {
		all = append(all, s.message, s.seal)
	}
	return m.judge(c, sets, fetch(ctx, txt, all), o)
}

func (c Chain) broken(err error) Chain {
	c.Status, c.Err, c.Temporary = ChainFail, err, resultOf(err) == TempError
	return c
}

// seals checks the order of cv= (RFC 8617 section 5.2 step 3).
func seals(sets []arcSet) error {
	for i, s := range sets {
		if want := cvOf(i + 1); s.seal.cv != want {
			return fmt.Errorf("seal %d says cv=%s", i+1, s.seal.cv)
		}
	}
	return nil
}

// cvOf is what the seal of an instance has to say in an unbroken chain.
func cvOf(instance int) string {
	if instance == 1 {
		return string(ChainNone)
	}
	return string(ChainPass)
}

// judge does the cryptographic steps: the newest message signature has to
// hold, older ones tell how far back the message is unchanged, every seal has
// to hold.
func (m *message) judge(c Chain, sets []arcSet, keys map[string]key, o VerifyOptions) Chain {
	for i := len(sets) - 1; i >= 0; i-- {
		s := sets[i].message
		err := m.acceptable(s, o.Now)
		if err == nil {
			err = m.check(s, keys[s.keyName()])
		}
		if err != nil && i == len(sets)-1 {
			return c.broken(fmt.Errorf("message signature %d: %w", i+1, err))
		}
		if err != nil {
			c.OldestPass = i + 2
			break
		}
	}
	chain := newChain()
	for i, set := range sets {
		s, k := set.seal, keys[set.seal.keyName()]
		err := k.err
		if err == nil {
			err = sealable(s, k, o.Now)
		}
		if err != nil {
			return c.broken(fmt.Errorf("seal %d: %w", i+1, err))
		}
		digest, err := set.extend(chain)
		if err != nil || !k.verify(digest, s.sig) {
			return c.broken(fail("seal %d: was changed or the key is another", i+1))
		}
	}
	c.Status = ChainPass
	return c
}

// sealable judges a seal by what it says of itself and by its key.
func sealable(s *signature, k key, now time.Time) error {
	if s.sha1 {
		return policy("SHA-1 is not accepted")
	}
	if s.signed.After(now.Add(skew)) {
		return fail("signed in the future, %s", s.signed.UTC().Format(time.RFC3339))
	}
	return k.usable(s)
}

// extend adds a set to the hash of the sets before it and returns what its
// seal signs: all of that with its own b= empty (RFC 8617 section 5.1.1). So a
// chain of 50 is hashed once, not 50 times.
func (a arcSet) extend(chain hash.Cloner) ([sha256.Size]byte, error) {
	buf := append(relaxed.appendField(nil, a.results), crlf...)
	buf = append(relaxed.appendField(buf, a.message.field), crlf...)
	chain.Write(buf)
	own, err := chain.Clone()
	if err != nil {
		return [sha256.Size]byte{}, err
	}
	own.Write(relaxed.appendField(buf[:0], unsigned(a.seal.field)))
	chain.Write(append(relaxed.appendField(buf[:0], a.seal.field), crlf...))
	return [sha256.Size]byte(own.Sum(nil)), nil
}

// newChain is the hash of no set. The standard library promises that its
// hashes can be cloned.
func newChain() hash.Cloner { return sha256.New().(hash.Cloner) }
