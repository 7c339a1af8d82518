package mailbox

import (
	"sync"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/store"
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
	signal chan struct{}                 // buffered
	mu     sync.Mutex                    // guards the rest
	boxes  map[org.MailboxID]mail.ModSeq // the newest
	all    bool                          // everything may have changed
}

func (h *hub) subscribe() *subscription {
	s := &subscription{h: h, signal: make(chan struct{}, 1), boxes: map[org.MailboxID]mail.ModSeq{}}
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

func (h *hub) ping(changed []store.Change) {
	if len(changed) == 0 {
		return
	}
	h.each(func(s *subscription) {
		for _, c := range changed {
			m := c.ModSeq
			if m == 0 {
				m = mail.AnyModSeq
			}
			s.boxes[c.Mailbox] = max(s.boxes[c.Mailbox], m)
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
func (s *subscription) take() watchNews {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := watchNews{All: s.all}
	for b, m := range s.boxes {
		n.Boxes, n.ModSeqs = append(n.Boxes, b), append(n.ModSeqs, m)
	}
	clear(s.boxes)
	s.all = false
	return n
}
