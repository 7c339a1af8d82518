package store

import (
	"math/rand/v2"

	"github.com/postern-mail/postern/internal/org"
)

// overlay holds what planned records will change and the index does not show
// yet. It has one owner, the planner's goroutine.
//
// Point reads use a map. Kinds that requests iterate over are also in a skip
// list. A range delete removes the entries it covers and is remembered; any
// entry found later is newer than every range that covers it.
type overlay struct {
	vals   map[string]*entry
	sorted skipList
	ranges []pendingRange
	recs   []pendingRecord // in log order
}

// entry is the newest pending value of a key.
type entry struct {
	lsn org.LSN
	val []byte // nil: deleted
}

type pendingRange struct {
	lsn    org.LSN
	lo, hi string
}

type pendingRecord struct {
	lsn  org.LSN
	keys []string
}

func newOverlay() *overlay {
	return &overlay{vals: map[string]*entry{}, sorted: newSkipList()}
}

// ranged tells whether requests iterate over keys of the kind.
func ranged(k byte) bool {
	switch k {
	case kMessage, kFolder, kEmail, kVanished, kSub:
		return true
	}
	return false
}

// get returns the pending value of a key. known is false when nothing pending
// touches it; a nil val is a pending delete.
func (o *overlay) get(key []byte) (val []byte, lsn org.LSN, known bool) {
	if e := o.vals[string(key)]; e != nil {
		return e.val, e.lsn, true
	}
	if lsn, ok := o.covered(key); ok {
		return nil, lsn, true
	}
	return nil, 0, false
}

// covered tells whether a pending range delete covers the key.
func (o *overlay) covered(key []byte) (org.LSN, bool) {
	for i := len(o.ranges) - 1; i >= 0; i-- {
		if r := o.ranges[i]; r.lo <= string(key) && string(key) < r.hi {
			return r.lsn, true
		}
	}
	return 0, false
}

func (o *overlay) put(rec *pendingRecord, key string, val []byte) {
	if e := o.vals[key]; e != nil {
		if e.lsn != rec.lsn {
			rec.keys = append(rec.keys, key)
		}
		e.lsn, e.val = rec.lsn, val
		return
	}
	e := &entry{lsn: rec.lsn, val: val}
	o.vals[key] = e
	rec.keys = append(rec.keys, key)
	if ranged(key[0]) {
		o.sorted.put(key, e)
	}
}

func (o *overlay) deleteRange(rec *pendingRecord, lo, hi string) {
	for key := range o.vals {
		if lo <= key && key < hi {
			o.drop(key)
		}
	}
	o.ranges = append(o.ranges, pendingRange{rec.lsn, lo, hi})
}

func (o *overlay) drop(key string) {
	delete(o.vals, key)
	if ranged(key[0]) {
		o.sorted.remove(key)
	}
}

// hotRows remembers values of the index that nearly every request reads again.
// Only what the planner planned changes the index, so a value stays true until
// a newer one of its key settles.
type hotRows map[string][]byte

// maxHot bounds them: when it is reached they start anew, which costs a few
// reads and needs no order of use.
const maxHot = 8192

func hot(k byte) bool { return k == kMailbox || k == kFolder || k == kName }

func (h hotRows) keep(key string, val []byte) {
	if val == nil {
		delete(h, key)
		return
	}
	if len(h) >= maxHot {
		clear(h)
	}
	h[key] = val
}

// settle forgets the records below lsn; their newest values are the index's.
func (o *overlay) settle(lsn org.LSN, rows hotRows) {
	n := 0
	for n < len(o.recs) && o.recs[n].lsn < lsn {
		for _, key := range o.recs[n].keys {
			if e := o.vals[key]; e != nil && e.lsn == o.recs[n].lsn {
				if hot(key[0]) {
					rows.keep(key, e.val)
				}
				o.drop(key)
			}
		}
		o.recs[n] = pendingRecord{}
		n++
	}
	o.recs = o.recs[n:]
	if len(o.recs) == 0 {
		o.recs = nil // the array under it grew with the longest queue
	}
	n = 0
	for n < len(o.ranges) && o.ranges[n].lsn < lsn {
		clear(rows) // a mailbox was removed: rare
		n++
	}
	o.ranges = o.ranges[n:]
}

// skipList is a sorted list of keys for one goroutine.
type skipList struct {
	head *node
	rnd  *rand.Rand
	len  int
}

const skipLevels = 18

type node struct {
	key  string
	e    *entry
	next []*node
}

func newSkipList() skipList {
	// The seed is fixed: heights only have to look random, and equal runs are
	// easier to study.
	return skipList{head: &node{next: make([]*node, skipLevels)}, rnd: rand.New(rand.NewPCG(1, 2))}
}

// path fills prev with the last node before key on each level.
func (l *skipList) path(key string, prev *[skipLevels]*node) {
	n := l.head
	for i := skipLevels - 1; i >= 0; i-- {
		for n.next[i] != nil && n.next[i].key < key {
			n = n.next[i]
		}
		prev[i] = n
	}
}

// put adds a key that is not there.
func (l *skipList) put(key string, e *entry) {
	var prev [skipLevels]*node
	l.path(key, &prev)
	h := 1
	for r := l.rnd.Uint32(); h < skipLevels && r&3 == 0; r >>= 2 {
		h++
	}
	n := &node{key: key, e: e, next: make([]*node, h)}
	for i := range h {
		n.next[i], prev[i].next[i] = prev[i].next[i], n
	}
	l.len++
}

func (l *skipList) remove(key string) {
	var prev [skipLevels]*node
	l.path(key, &prev)
	n := prev[0].next[0]
	if n == nil || n.key != key {
		return
	}
	for i := range n.next {
		prev[i].next[i] = n.next[i]
	}
	l.len--
}

// seek returns the first node at or after key.
func (l *skipList) seek(key string) *node {
	if l.len == 0 {
		return nil
	}
	var prev [skipLevels]*node
	l.path(key, &prev)
	return prev[0].next[0]
}
