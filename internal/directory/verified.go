package directory

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"sync"
	"time"
)

// verified remembers for a short time that a password was right, so that a
// thousand clients that come back at once do not cost a thousand hashes. It
// holds only an HMAC under a key of this process. The revision of the credentials is part
// of it: after a change nothing matches any more.
type verified struct {
	key  [32]byte
	size int
	ttl  time.Duration

	mu   sync.Mutex // guards seen
	seen map[[32]byte]time.Time
}

func newVerified(size int, ttl time.Duration) *verified {
	c := &verified{size: size, ttl: ttl, seen: map[[32]byte]time.Time{}}
	rand.Read(c.key[:]) // never fails (crypto/rand)
	return c
}

// mark is the name of one account's password at one revision.
func (c *verified) mark(account string, revision int64, password string) [32]byte {
	m := hmac.New(sha256.New, c.key[:])
	var n [16]byte
	binary.BigEndian.PutUint64(n[:8], uint64(revision))
	binary.BigEndian.PutUint64(n[8:], uint64(len(account)))
	m.Write(n[:])
	m.Write([]byte(account))
	m.Write([]byte(password))
	return [32]byte(m.Sum(nil))
}

func (c *verified) has(mark [32]byte, now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	until, ok := c.seen[mark]
	if ok && !now.Before(until) {
		delete(c.seen, mark)
		return false
	}
	return ok
}

func (c *verified) add(mark [32]byte, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.seen) >= c.size {
		for k := range c.seen { // any one
			delete(c.seen, k)
			break
		}
	}
	c.seen[mark] = now.Add(c.ttl)
}

// sweep drops what is too old.
func (c *verified) sweep(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, until := range c.seen {
		if !now.Before(until) {
			delete(c.seen, k)
		}
	}
}
