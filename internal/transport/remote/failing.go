package remote

import (
	"sync"

	"github.com/postern-mail/postern/internal/base/event"
)

// maxFailing bounds the connectors that are remembered.
const maxFailing = 10_000

// failing remembers of which connectors was told that they do not work, so that
// it is told once until they do.
type failing struct {
	events *event.Log

	mu   sync.Mutex
	told map[string]int // code of the event, by destination
}

func newFailing(l *event.Log) *failing { return &failing{events: l, told: map[string]int{}} }

func (f *failing) worked(dest string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.told, dest)
}

func (f *failing) failed(dest string, d event.Definition, why string) {
	f.mu.Lock()
	known := f.told[dest] == d.Code || len(f.told) >= maxFailing
	if !known {
		f.told[dest] = d.Code
	}
	f.mu.Unlock()
	if !known {
		f.events.Emit(d, "%s: %s", dest, why)
	}
}
