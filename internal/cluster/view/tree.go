package view

import (
	"iter"
	"slices"
	"strings"
)

// chunkMax is the number of entries at which a chunk is split. A change
// copies one chunk and the list of chunks.
const chunkMax = 128

// Item is a value with the revision of its last change (etcd: mod revision).
type Item struct {
	Value    []byte
	Revision int64
}

type entry struct {
	key  string
	item Item
}

// tree is a sorted map in two levels: a list of chunks, each sorted and not
// empty. Trees share chunks; a chunk reachable from a published tree is never
// written again.
type tree struct {
	chunks [][]entry
	n      int
}

// chunkOf returns the chunk in which key is or belongs.
func (t *tree) chunkOf(key string) int {
	i, _ := slices.BinarySearchFunc(t.chunks, key, func(c []entry, k string) int { return strings.Compare(c[0].key, k) })
	if i == len(t.chunks) || (i > 0 && t.chunks[i][0].key != key) {
		i--
	}
	return max(i, 0)
}

func find(c []entry, key string) (int, bool) {
	return slices.BinarySearchFunc(c, key, func(e entry, k string) int { return strings.Compare(e.key, k) })
}

func (t *tree) get(key string) (Item, bool) {
	if len(t.chunks) == 0 {
		return Item{}, false
	}
	c := t.chunks[t.chunkOf(key)]
	i, ok := find(c, key)
	if !ok {
		return Item{}, false
	}
	return c[i].item, true
}

// from iterates in key order beginning with the first key >= start.
func (t *tree) from(start string) iter.Seq2[string, Item] {
	return func(yield func(string, Item) bool) {
		if len(t.chunks) == 0 {
			return
		}
		ci := t.chunkOf(start)
		i, _ := find(t.chunks[ci], start)
		for ; ci < len(t.chunks); ci++ {
			for ; i < len(t.chunks[ci]); i++ {
				if e := t.chunks[ci][i]; !yield(e.key, e.item) {
					return
				}
			}
			i = 0
		}
	}
}

// edit is a tree under construction; it knows which chunks are its own and
// may be written in place.
type edit struct {
	tree
	own map[*entry]bool // by address of the chunk's first entry slot
}

func (t *tree) edit() *edit {
	return &edit{tree: tree{chunks: slices.Clone(t.chunks), n: t.n}, own: map[*entry]bool{}}
}

// writable returns chunk i as one that may be written, with room for one more.
func (e *edit) writable(i int) []entry {
	c := e.chunks[i]
	if !e.own[&c[0]] {
		c = append(make([]entry, 0, chunkMax), c...)
		e.put(i, c)
	}
	return c
}

func (e *edit) put(i int, c []entry) {
	e.chunks[i] = c
	e.own[&c[0]] = true
}

func (e *edit) set(key string, it Item) {
	if len(e.chunks) == 0 {
		e.chunks = [][]entry{nil}
		e.put(0, append(make([]entry, 0, chunkMax), entry{key, it}))
		e.n = 1
		return
	}
	ci := e.chunkOf(key)
	c := e.writable(ci)
	i, ok := find(c, key)
	if ok {
		c[i].item = it
		return
	}
	e.n++
	if len(c) < chunkMax {
		e.put(ci, slices.Insert(c, i, entry{key, it}))
		return
	}
	// The left half keeps its array; the right one moves. Ascending inserts
	// (a load from etcd) fill chunks instead of leaving halves behind.
	half := chunkMax / 2
	if i == len(c) {
		half = chunkMax - 1
	}
	right := append(make([]entry, 0, chunkMax), c[half:]...)
	clear(c[half:])
	e.chunks[ci] = c[:half]
	e.chunks = slices.Insert(e.chunks, ci+1, right)
	e.own[&right[0]] = true
	e.n--
	e.set(key, it)
}

func (e *edit) remove(key string) {
	if len(e.chunks) == 0 {
		return
	}
	ci := e.chunkOf(key)
	i, ok := find(e.chunks[ci], key)
	if !ok {
		return
	}
	e.n--
	if len(e.chunks[ci]) == 1 {
		e.chunks = slices.Delete(e.chunks, ci, ci+1)
		return
	}
	e.chunks[ci] = slices.Delete(e.writable(ci), i, i+1)
}

func (e *edit) done() tree { return e.tree }
