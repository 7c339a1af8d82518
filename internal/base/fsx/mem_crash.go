package fsx

import (
	"math/rand/v2"
	"path/filepath"
	"slices"
)

// CrashImage returns the disk as a power cut at this moment might leave it,
// chosen by seed: everything synced, and of the rest a random part. A write
// is kept or lost sector by sector, whatever came after it; a hole block by
// block; truncation, allocation and changes of names each whole or not at all
// (file systems journal those). m is not changed and not referred to.
func (m *Mem) CrashImage(seed uint64) *Mem {
	rnd := rand.New(rand.NewPCG(seed, 0x706f737465726e))
	// Some crashes lose all, some nothing: the ends find most faults.
	share := []float64{0, 0.1, 0.5, 0.9, 1}[rnd.IntN(5)]
	keep := func() bool { return rnd.Float64() < share }

	m.mu.Lock()
	defer m.mu.Unlock()
	out := NewMem()
	out.limit = m.limit
	space := m.durable.clone()
	for _, c := range m.pending {
		if keep() {
			space.apply(c)
		}
	}
	out.now.dirs = space.dirs
	made := map[*inode]*inode{} // an inode with two names stays one
	for _, path := range sortedKeys(space.files) {
		ino := space.files[path]
		if !space.dirs[filepath.Dir(path)] {
			continue // its folder was lost
		}
		if made[ino] == nil {
			made[ino] = ino.crash(keep)
		}
		out.now.files[path] = made[ino]
	}
	out.durable = out.now.clone()
	return out
}

// crash returns the file as a crash leaves it.
func (ino *inode) crash(keep func() bool) *inode {
	c := ino.durable.clone()
	for _, ch := range ino.pending {
		unit := int64(0)
		switch ch.kind {
		case OpWrite:
			unit = sectorSize
		case OpPunch:
			unit = pageSize
		}
		if unit == 0 {
			if keep() {
				c.apply(ch)
			}
			continue
		}
		for off := ch.off; off < ch.off+ch.n; {
			end := min(ch.off+ch.n, off-off%unit+unit)
			if keep() {
				part := change{kind: ch.kind, off: off, n: end - off}
				if ch.data != nil {
					part.data = ch.data[off-ch.off : end-ch.off]
				}
				c.apply(part)
			}
			off = end
		}
	}
	return &inode{now: c, durable: c.clone()}
}

func sortedKeys(m map[string]*inode) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	// Order decides who is asked for the next random number: it must not
	// depend on the map.
	slices.Sort(keys)
	return keys
}

// Clone returns a disk of its own that is as m is now, with what of it is
// durable: what a process finds whose predecessor was killed while the machine
// went on. Hooks and injected errors stay with m.
func (m *Mem) Clone() *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := NewMem()
	out.limit = m.limit
	made := map[*inode]*inode{}
	of := func(ino *inode) *inode {
		if ino == nil {
			return nil
		}
		if made[ino] == nil {
			made[ino] = &inode{now: ino.now.clone(), durable: ino.durable.clone(), pending: slices.Clone(ino.pending)}
		}
		return made[ino]
	}
	space := func(n names) names {
		c := n.clone()
		for p, ino := range c.files {
			c.files[p] = of(ino)
		}
		return c
	}
	out.now, out.durable = space(m.now), space(m.durable)
	for _, c := range m.pending {
		out.pending = append(out.pending, nameChange{c.from, c.to, of(c.ino), c.tree})
	}
	return out
}
