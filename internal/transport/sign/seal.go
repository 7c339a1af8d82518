package sign

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/base/kind"
)

// maxResults is how long the results in a seal may be.
const maxResults = 16 << 10

// Seal returns the three fields of the next ARC set, to be put in front of the
// message (RFC 8617 section 5.1). The message is as it will leave, with our own
// DKIM-Signature in it; results is what an Authentication-Results of ours
// would say, beginning with our authserv-id; prior is what VerifyChain found
// when the message arrived; now is t=. The key is RSA: other verifiers break a
// chain at an Ed25519 seal.
//
// Nothing is returned and nothing may be added if the chain has ended or has
// 50 sets. A chain that failed is sealed with cv=fail, which ends it. Errors
// are of kind.Busy if prior failed for a temporary reason (to seal that would
// end a chain that may be good) and of kind.Invalid if prior is of another
// message, the results are not one line of text, or as Sign has them.
func Seal(msg []byte, results string, k Key, prior Chain, now time.Time) ([]byte, error) {
	if prior.Ended || prior.Instance >= maxSets {
		return nil, nil
	}
	if prior.Temporary {
		return nil, kind.Errorf(kind.Busy, "seal message: chain is not known: %w", prior.Err)
	}
	alg, err := k.algorithm()
	if err == nil && alg != "rsa-sha256" {
		err = fmt.Errorf("key for %s", alg)
	}
	if err != nil {
		return nil, kind.Errorf(kind.Invalid, "seal message: %w", err)
	}
	m, err := read(msg)
	if err != nil {
		return nil, fmt.Errorf("seal message: %w", err)
	}
	sets, highest, err := m.sets()
	if highest != prior.Instance || err != nil && prior.Status != ChainFail {
		return nil, kind.Errorf(kind.Invalid, "seal message: it is not the one whose chain was verified")
	}
	s := sealer{m, k, strconv.Itoa(highest + 1), alg, strconv.FormatInt(now.Unix(), 10)}
	set, err := s.set(results)
	if err != nil {
		return nil, fmt.Errorf("seal message: %w", err)
	}
	cv := cvOf(highest + 1)
	if prior.Status == ChainFail {
		cv, sets = string(ChainFail), nil // covers its own set only (section 5.1.2)
	}
	seal, err := s.seal(append(sets[:len(sets):len(sets)], set), cv)
	if err != nil {
		return nil, fmt.Errorf("seal message: %w", err)
	}
	return append(append(seal, set.message.field.raw...), set.results.raw...), nil
}

// sealer writes one set.
type sealer struct {
	m                   *message
	k                   Key
	instance, alg, time string
}

// set writes the results and the message signature.
func (s sealer) set(results string) (arcSet, error) {
	var aar folder
	aar.start("ARC-Authentication-Results:")
	aar.add("i=" + s.instance + ";")
	if err := aar.text(results); err != nil {
		return arcSet{}, err
	}
	aar.b = append(aar.b, crlf...)
	names, err := s.m.toSign()
	if err != nil {
		return arcSet{}, err
	}
	for range min(len(s.m.named["dkim-signature"]), maxSignatures, maxNames-len(names)) {
		names = append(names, "dkim-signature")
	}
	var ams folder
	ams.start("ARC-Message-Signature:")
	ams.add("i="+s.instance+";", "a="+s.alg+";", "c=relaxed/relaxed;", "d="+s.k.Domain+";", "s="+s.k.Selector+";", "t="+s.time+";")
	if ams.b, err = s.m.finish(&ams, s.k, names); err != nil {
		return arcSet{}, err
	}
	return arcSet{results: aar.field(), message: &signature{field: ams.field()}}, nil
}

// seal writes the seal over the last of the sets and, as far as they are given,
// those before it.
func (s sealer) seal(sets []arcSet, cv string) ([]byte, error) {
	var t folder
	t.start("ARC-Seal:")
	t.add("i="+s.instance+";", "a="+s.alg+";", "t="+s.time+";", "cv="+cv+";", "d="+s.k.Domain+";", "s="+s.k.Selector+";", "b=")
	last := len(sets) - 1
	sets[last].seal = &signature{field: t.field()}
	chain := newChain()
	for _, set := range sets[:last] {
		if _, err := set.extend(chain); err != nil {
			return nil, err
		}
	}
	digest, err := sets[last].extend(chain)
	if err != nil {
		return nil, err
	}
	return s.k.complete(&t, digest)
}

// text writes words separated by blanks.
func (t *folder) text(s string) error {
	if trim(s) == "" || len(s) > maxResults || !utf8.ValidString(s) {
		return kind.Errorf(kind.Invalid, "results are not 1 to %d bytes of UTF-8", maxResults)
	}
	for i := range len(s) {
		if c := s[i]; c < ' ' && c != '\t' || c == 0x7f {
			return kind.Errorf(kind.Invalid, "control character in results")
		}
	}
	for _, w := range strings.FieldsFunc(s, func(r rune) bool { return r == ' ' || r == '\t' }) {
		if len(w) > 900 { // a line may have 998 (RFC 5322 section 2.1.1)
			return kind.Errorf(kind.Invalid, "word of %d bytes in results", len(w))
		}
		t.add(w)
	}
	return nil
}
