package directory

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/postern-mail/postern/internal/base/kind"
	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"
	"golang.org/x/text/unicode/norm"
)

// Limits on stored hashes, held before anything is allocated: a row may have
// been imported from anywhere.
const (
	maxHashMemory  = 256 << 10 // KiB
	maxHashPasses  = 16
	maxHashThreads = 8
	maxBcryptCost  = 14
	maxPassword    = 1024 // octets
)

// hasher runs password hashes, so many at once.
type hasher struct {
	memory, passes uint32
	slots          chan struct{}
	waiting        atomic.Int64
	maxWaiting     int64
	wait           time.Duration
	decoy          string // a hash no password matches, with today's cost

	// Counts for tests and for watching the bound.
	runs, running, peak atomic.Int64
}

func newHasher(o Options) *hasher {
	h := &hasher{
		memory: o.HashMemory, passes: o.HashPasses,
		slots: make(chan struct{}, o.Hashes), maxWaiting: int64(o.HashWaiters), wait: o.HashWait,
	}
	h.decoy = h.format(make([]byte, 16), make([]byte, 32))
	return h
}

// run waits for a slot and does f in it. Busy when too many wait already or
// the wait was too long.
func (h *hasher) run(ctx context.Context, f func()) error {
	if h.waiting.Add(1) > h.maxWaiting+int64(cap(h.slots)) {
		h.waiting.Add(-1)
		return kind.Errorf(kind.Busy, "check password: %d logins are waiting", h.maxWaiting)
	}
	defer h.waiting.Add(-1)
	timer := time.NewTimer(h.wait)
	defer timer.Stop()
	select {
	case h.slots <- struct{}{}:
	case <-ctx.Done():
		return fmt.Errorf("check password: %w", ctx.Err())
	case <-timer.C:
		return kind.Errorf(kind.Busy, "check password: waited %s", h.wait)
	}
	defer func() { <-h.slots }()
	h.runs.Add(1)
	now := h.running.Add(1)
	defer h.running.Add(-1)
	for p := h.peak.Load(); now > p && !h.peak.CompareAndSwap(p, now); p = h.peak.Load() {
	}
	f()
	return nil
}

// hash makes the stored form of a password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	var out string
	err := h.run(ctx, func() {
		salt := make([]byte, 16)
		rand.Read(salt) // never fails (crypto/rand)
		out = h.format(salt, argon2.IDKey(opaque(password), salt, h.passes, h.memory, 1, 32))
	})
	return out, err
}

// format writes the PHC string form.
func (h *hasher) format(salt, sum []byte) string {
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, h.memory, h.passes,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(sum))
}

// verify compares a password with a stored hash. An empty hash costs the same
// and matches nothing. Stale asks for the password to be hashed anew.
func (h *hasher) verify(ctx context.Context, stored, password string) (match, stale bool, err error) {
	check, stale := h.checker(stored)
	if check == nil {
		check, _ = h.checker(h.decoy)
		inner := check
		check = func(p []byte) bool { inner(p); return false }
	}
	if len(password) > maxPassword { // no stored password is that long
		inner := check
		check = func([]byte) bool { inner(nil); return false }
	}
	err = h.run(ctx, func() { match = check(opaque(password)) })
	return match, stale && match, err
}

// opaque brings the ways to type one password together (RFC 8265 section 4.2,
// without its refusals). bytes that are no UTF-8 stay as they are.
func opaque(password string) []byte {
	if utf8.ValidString(password) {
		password = norm.NFC.String(password)
	}
	return []byte(password)
}

// checker reads a stored hash; nil when it is unknown or out of bounds.
func (h *hasher) checker(stored string) (check func([]byte) bool, stale bool) {
	switch {
	case strings.HasPrefix(stored, "$argon2id$"):
		return h.argonChecker(stored)
	case strings.HasPrefix(stored, "{SSHA512}"):
		return sshaChecker(stored[len("{SSHA512}"):]), true
	case strings.HasPrefix(stored, "{BLF-CRYPT}"):
		return bcryptChecker(stored[len("{BLF-CRYPT}"):]), true
	}
	return nil, false
}

func (h *hasher) argonChecker(stored string) (func([]byte) bool, bool) {
	f := strings.Split(stored, "$")
	if len(f) != 6 {
		return nil, false
	}
	var version int
	var memory, passes uint32
	var threads uint8
	if n, err := fmt.Sscanf(f[2]+" "+f[3], "v=%d m=%d,t=%d,p=%d", &version, &memory, &passes, &threads); n != 4 || err != nil {
		return nil, false
	}
	if version != argon2.Version || memory > maxHashMemory || passes < 1 || passes > maxHashPasses || threads < 1 || threads > maxHashThreads {
		return nil, false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(f[4])
	sum, err2 := base64.RawStdEncoding.DecodeString(f[5])
	if err1 != nil || err2 != nil || len(salt) < 8 || len(sum) < 16 || len(sum) > 64 {
		return nil, false
	}
	return func(p []byte) bool {
		got := argon2.IDKey(p, salt, passes, memory, threads, uint32(len(sum)))
		return subtle.ConstantTimeCompare(got, sum) == 1
	}, memory != h.memory || passes != h.passes
}

// sshaChecker reads Dovecot's {SSHA512}: base64 of the sum and its salt.
func sshaChecker(s string) func([]byte) bool {
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil || len(b) <= sha512.Size || len(b) > sha512.Size+256 {
		return nil
	}
	sum, salt := b[:sha512.Size], b[sha512.Size:]
	return func(p []byte) bool {
		got := sha512.Sum512(append(append([]byte{}, p...), salt...))
		return subtle.ConstantTimeCompare(got[:], sum) == 1
	}
}

func bcryptChecker(s string) func([]byte) bool {
	cost, err := bcrypt.Cost([]byte(s))
	if err != nil || cost > maxBcryptCost {
		return nil
	}
	return func(p []byte) bool {
		// Others cut at 72 octets without a word; Go's refuses. The hash is
		// the others'.
		return bcrypt.CompareHashAndPassword([]byte(s), p[:min(len(p), 72)]) == nil
	}
}

// Importable tells whether a stored hash of another system can be verified
// here: argon2id in PHC form, {SSHA512} and {BLF-CRYPT}.
func (h *hasher) importable(stored string) bool {
	check, _ := h.checker(stored)
	return check != nil && len(stored) <= 512
}

const crockford = "0123456789abcdefghjkmnpqrstvwxyz"

// newSecret makes a password of 120 random bits, in groups one can type.
func newSecret() string {
	raw := make([]byte, 24)
	rand.Read(raw) // never fails (crypto/rand)
	var b strings.Builder
	for i, c := range raw {
		if i > 0 && i%6 == 0 {
			b.WriteByte('-')
		}
		b.WriteByte(crockford[c%32])
	}
	return b.String()
}

// appHash is the stored form of an app password. It is fast: 120 random bits
// need no stretching, and an account may have several.
func appHash(secret string) string {
	sum := sha256.Sum256([]byte("postern app password\x00" + plainSecret(secret)))
	return "sha256$" + hex.EncodeToString(sum[:])
}

// plainSecret forgives how a person copies a generated password.
func plainSecret(s string) string {
	return strings.NewReplacer("-", "", " ", "").Replace(strings.ToLower(s))
}
