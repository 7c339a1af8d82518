package queue

import (
	"sync"

	"github.com/postern-mail/postern/internal/mail"
)

// hot keeps bodies that will be tried at once, up to a limit.
type hot struct {
	limit  int64
	mu     sync.Mutex // guards the rest
	bodies map[mail.TraceID][]byte
	used   int64
}

func (h *hot) put(id mail.TraceID, body []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.used+int64(len(body)) > h.limit || h.bodies[id] != nil {
		return
	}
	if h.bodies == nil {
		h.bodies = map[mail.TraceID][]byte{}
	}
	h.bodies[id] = body
	h.used += int64(len(body))
}

func (h *hot) get(id mail.TraceID) []byte {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.bodies[id]
}

func (h *hot) drop(id mail.TraceID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.used -= int64(len(h.bodies[id]))
	delete(h.bodies, id)
}
