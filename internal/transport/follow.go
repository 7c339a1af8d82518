package transport

import (
	"context"
	"encoding/json"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/schedule"
)

func (m *Mover) inDoubt() time.Duration { return m.settings.Group().InDoubtWait.Std() }

func (m *Mover) fullRetry() time.Duration { return m.settings.Group().FullRetry.Std() }

// hashes find the organization that a ledger's key is the hash of.
type hashes struct {
	mu    sync.Mutex // guards known
	known map[uint64]org.OrganizationID
	list  func() []org.OrganizationID
}

// name is the organization, empty where nobody has that hash.
func (h *hashes) name(hash uint64) org.OrganizationID {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o, ok := h.known[hash]; ok {
		return o
	}
	h.known = map[uint64]org.OrganizationID{queue.Hash(""): ""}
	for _, o := range h.list() {
		h.known[queue.Hash(string(o))] = o
	}
	if _, ok := h.known[hash]; !ok {
		h.known[hash] = "" // an organization that is gone
	}
	return h.known[hash]
}

// suspensionsKey is the row of destinations that are held back by
// administrators.
const suspensionsKey = "transport/suspensions"

// suspension holds back what waits for a destination.
type suspension struct {
	Dest         string             `json:"destination,omitempty"`
	Organization org.OrganizationID `json:"organization,omitempty"`
	Server       org.ServerName     `json:"server,omitempty"` // empty: all
	By           string             `json:"by,omitempty"`
	At           time.Time          `json:"at"`
}

func (s suspension) selector() schedule.Selector {
	return schedule.Selector{Dest: schedule.Dest(s.Dest), Organization: s.Organization}
}

// suspensions are those of the agreed state, with the revision of the row.
func (m *Mover) suspensions() (out []suspension, revision int64) {
	it, ok := m.deps.Group.View().Get(suspensionsKey)
	if !ok {
		return nil, 0
	}
	if err := json.Unmarshal(it.Value, &out); err != nil {
		m.log.Error("suspended destinations cannot be read", "err", err)
	}
	return out, it.Revision
}

// followSettings brings limits and suspensions of the agreed state to the
// schedule.
func (m *Mover) followSettings(ctx context.Context) {
	g := m.settings.Group()
	times := queue.Times{Hold: g.HoldTime.Std(), Retention: max(g.TraceRetention.Std(), g.HoldTime.Std()), Expiration: g.MessageExpiration.Std()}
	if err := m.queue.SetTimes(times); err != nil {
		m.log.Warn("times of the queue", "err", err)
	}
	m.dispatch.SetRules(m.rules())
	want, _ := m.suspensions()
	have := m.dispatch.Suspensions()
	for _, s := range want {
		if (s.Server == "" || s.Server == m.me) && !slices.Contains(have, s.selector()) {
			if _, err := m.dispatch.Suspend(ctx, s.selector()); err != nil {
				m.log.Warn("suspend destination", "destination", s.Dest, "err", err)
			}
		}
	}
	for _, l := range have {
		if !slices.ContainsFunc(want, func(s suspension) bool { return s.selector() == l && (s.Server == "" || s.Server == m.me) }) {
			m.dispatch.Resume(l)
		}
	}
}
