package dns

import (
	"container/list"
	"time"
)

type cacheKey struct {
	name  string // lower case, with the final dot
	qtype uint16
}

// cache keeps answers until their time is over, the least recently used go
// first. It is not safe for concurrent use.
type cache struct {
	names, bytes int // limits
	held         int // bytes
	byKey        map[cacheKey]*list.Element
	order        *list.List // front: used last
}

type cached struct {
	key     cacheKey
	answer  answer
	expires time.Time
	size    int
}

func newCache(names, bytes int) cache {
	return cache{names: names, bytes: bytes, byKey: map[cacheKey]*list.Element{}, order: list.New()}
}

// get returns what is remembered, with the time it still holds for.
func (c *cache) get(k cacheKey, now time.Time) (answer, time.Duration, bool) {
	e, ok := c.byKey[k]
	if !ok {
		return answer{}, 0, false
	}
	v := e.Value.(*cached)
	left := v.expires.Sub(now)
	if left <= 0 {
		c.drop(e)
		return answer{}, 0, false
	}
	c.order.MoveToFront(e)
	return v.answer, left, true
}

func (c *cache) put(k cacheKey, a answer, now time.Time) {
	if e, ok := c.byKey[k]; ok {
		c.drop(e)
	}
	size := a.size() + len(k.name)
	if a.ttl <= 0 || size > c.bytes {
		return
	}
	c.byKey[k] = c.order.PushFront(&cached{key: k, answer: a, expires: now.Add(a.ttl), size: size})
	c.held += size
	for c.held > c.bytes || c.order.Len() > c.names {
		c.drop(c.order.Back())
	}
}

func (c *cache) drop(e *list.Element) {
	v := c.order.Remove(e).(*cached)
	c.held -= v.size
	delete(c.byKey, v.key)
}
