package node

import "time"

// backoff says how long to wait before a worker is started again. The first
// restart is immediate; a worker that lived long enough is forgiven.
type backoff struct {
	first, most time.Duration
	forgive     time.Duration // a life this long begins the count anew
	next        time.Duration
}

// after returns the pause after a worker that lived for life.
func (b *backoff) after(life time.Duration) time.Duration {
	if life >= b.forgive {
		b.next = 0
	}
	pause := b.next
	switch {
	case b.next == 0:
		b.next = b.first
	case b.next < b.most:
		b.next = min(2*b.next, b.most)
	}
	return pause
}
