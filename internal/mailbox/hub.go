package mailbox

import (
	"sync"

	"github.com/postern-mail/postern/internal/org"
)

// hub tells subscribers which mailboxes of a leading copy changed. What a
// subscriber has not taken yet is merged, so a slow one costs one entry for
// each mailbox that changed.
type hub struct {
	mu   sync.Mutex // guards subs
	subs map[*subscription]struct{}
}

// subscription collects mailboxes that changed.
type subscription struct {
	h      *hub
	signal chan struct{} // buffered
	mu     sync.Mutex    // guards the rest
	boxes  map[org.MailboxID]struct{}
	all    bool // everything may have changed
}

func (h *hub) subscribe() *subscription {
	s := &subscription{h: h, signal: make(chan struct{}, 1), boxes: map[org.MailboxID]struct{}{}}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.subs == nil {
		h.subs = map[*subscription]struct{}{}
	}
	h.subs[s] = struct{}{}
	return s
}

func (s *subscription) close() {
	s.h.mu.Lock()
	defer s.h.mu.Unlock()
	delete(s.h.subs, s)
}

func (h *hub) ping(boxes []org.MailboxID) {
	if len(boxes) == 0 {
		return
	}
	h.each(func(s *subscription) {
		for _, b := range boxes {
			s.boxes[b] = struct{}{}
		}
	})
}

// pingAll says that anything may have changed: a term began or ended.
func (h *hub) pingAll() { h.each(func(s *subscription) { s.all = true }) }

func (h *hub) each(f func(*subscription)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for s := range h.subs {
		s.mu.Lock()
		f(s)
		s.mu.Unlock()
		select {
		case s.signal <- struct{}{}:
		default:
		}
	}
}

// take returns what changed since the last call.
func (s *subscription) take() (boxes []org.MailboxID, all bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for b := range s.boxes {
		boxes = append(boxes, b)
	}
	clear(s.boxes)
	all, s.all = s.all, false
	return boxes, all
}
