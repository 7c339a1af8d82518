package guard

import "container/list"

// tableSize is how many entries each table keeps.
const tableSize = 100_000

// table is a map of limited size: the entry that was not used for longest goes
// first. It has no lock.
type table[V any] struct {
	size int
	m    map[string]*list.Element
	used list.List // of *entry[V], last used in front
}

type entry[V any] struct {
	key   string
	value V
}

func newTable[V any](size int) *table[V] {
	return &table[V]{size: size, m: map[string]*list.Element{}}
}

// get finds an entry and counts it as used.
func (t *table[V]) get(key string) (*V, bool) {
	e, ok := t.m[key]
	if !ok {
		return nil, false
	}
	t.used.MoveToFront(e)
	return &e.Value.(*entry[V]).value, true
}

// at finds an entry or makes a zero one, in place of the oldest where the
// table is full.
func (t *table[V]) at(key string) *V {
	if v, ok := t.get(key); ok {
		return v
	}
	if len(t.m) >= t.size {
		last := t.used.Back()
		delete(t.m, last.Value.(*entry[V]).key)
		t.used.Remove(last)
	}
	e := &entry[V]{key: key}
	t.m[key] = t.used.PushFront(e)
	return &e.value
}

func (t *table[V]) drop(key string) {
	if e, ok := t.m[key]; ok {
		t.used.Remove(e)
		delete(t.m, key)
	}
}
