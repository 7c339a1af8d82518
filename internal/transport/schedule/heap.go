package schedule

// pile is a binary heap whose members know their place in it.
type pile[T any] struct {
	s    []T
	less func(a, b T) bool
	pos  func(T) *int32 // -1 when not in the heap
}

func (p *pile[T]) len() int { return len(p.s) }
func (p *pile[T]) top() T   { return p.s[0] }

func (p *pile[T]) push(x T) {
	p.s = append(p.s, x)
	*p.pos(x) = int32(len(p.s) - 1)
	p.up(len(p.s) - 1)
}

// remove takes x out; it may be absent.
func (p *pile[T]) remove(x T) {
	i := int(*p.pos(x))
	if i < 0 {
		return
	}
	last := len(p.s) - 1
	p.swap(i, last)
	var zero T
	p.s[last] = zero
	p.s = p.s[:last]
	*p.pos(x) = -1
	if i < last {
		p.fix(i)
	}
	if cap(p.s) > 1024 && len(p.s) < cap(p.s)/4 { // a backlog went: give its memory back
		p.s = append(make([]T, 0, cap(p.s)/2), p.s...)
	}
}

// moved puts x, whose key changed, in its place.
func (p *pile[T]) moved(x T) { p.fix(int(*p.pos(x))) }

func (p *pile[T]) fix(i int) {
	if !p.up(i) {
		p.down(i)
	}
}

func (p *pile[T]) up(i int) bool {
	moved := false
	for i > 0 {
		parent := (i - 1) / 2
		if !p.less(p.s[i], p.s[parent]) {
			break
		}
		p.swap(i, parent)
		i, moved = parent, true
	}
	return moved
}

func (p *pile[T]) down(i int) {
	for {
		c := 2*i + 1
		if c >= len(p.s) {
			return
		}
		if c+1 < len(p.s) && p.less(p.s[c+1], p.s[c]) {
			c++
		}
		if !p.less(p.s[c], p.s[i]) {
			return
		}
		p.swap(i, c)
		i = c
	}
}

func (p *pile[T]) swap(i, j int) {
	p.s[i], p.s[j] = p.s[j], p.s[i]
	*p.pos(p.s[i]), *p.pos(p.s[j]) = int32(i), int32(j)
}
