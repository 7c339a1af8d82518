package notify

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"
)

// Limits of what servers without quorum show each other.
const (
	maxShown    = 32
	maxShownLen = 64 << 10
	shownFor    = 15 * time.Second
)

// withoutQuorum shows the others what this server could not write. When it
// lasts, the first server by name that is heard tells it all.
func (t *turner) withoutQuorum(ctx context.Context, s snapshot, now time.Time) {
	n := t.n
	if t.alone.IsZero() {
		t.alone = now
	}
	mine := n.unwritten(s)
	if b, err := json.Marshal(mine); err == nil && len(b) <= maxShownLen {
		n.d.Mesh.Publish(section, b)
	}
	if now.Sub(t.alone) < n.cfg.Lost {
		return
	}
	first := n.me
	all := map[string]Alert{}
	for id, h := range s.alerts {
		all[id] = h.value
	}
	for _, m := range n.d.Mesh.Members() {
		if m.Name == n.me || !m.Heard {
			continue
		}
		first = min(first, m.Name)
		b, heard, ok := n.d.Mesh.Published(m.Name, section)
		if ok && now.Sub(heard) < shownFor {
			for _, a := range shown(b) {
				all[a.ID] = a
			}
		}
	}
	if first != n.me {
		return
	}
	for _, a := range mine {
		all[a.ID] = a
	}
	alerts := slices.Collect(maps.Values(all))
	for _, name := range slices.Sorted(maps.Keys(s.channels)) {
		t.tellAlone(ctx, s, s.channels[name].value, alerts, now)
	}
}

func (t *turner) tellAlone(ctx context.Context, s snapshot, c Channel, alerts []Alert, now time.Time) {
	n := t.n
	n.mu.Lock()
	st := s.states[c.Name].value.with(n.told[c.Name])
	tr := n.tries[c.Name]
	waits := n.busy[c.Name] || tr != nil && now.Before(tr.next)
	n.mu.Unlock()
	if waits {
		return
	}
	m, due, _ := next(c, st, alerts, rulesOf(s), n.pace(), now)
	if !due || m.Reason == Test {
		return
	}
	m.Server, m.NoQuorum = n.me, true
	t.tell(ctx, c, held[state]{value: st}, m)
}

// unwritten are the alerts as they would be if they could be written.
func (n *Notifier) unwritten(s snapshot) []Alert {
	rules := rulesOf(s)
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []Alert
	for key, p := range n.pending {
		h, exists := s.alerts[idOf(key)]
		known := exists && h.value.State != Closed
		if known || p.count > 0 && (!p.observed || covered(p, rules)) {
			out = append(out, h.value.merge(*p))
		}
	}
	slices.SortFunc(out, byAge)
	return out[:min(len(out), maxShown)]
}

// shown reads what another server published.
func shown(b []byte) []Alert {
	var out []Alert
	if len(b) == 0 || len(b) > maxShownLen || json.Unmarshal(b, &out) != nil {
		return nil
	}
	out = out[:min(len(out), maxShown)]
	for i := range out {
		out[i].Report = out[i].bounded()
		out[i].ID = idOf(out[i].Key())
	}
	return out
}

// settle writes what was told without quorum into the rows of the channels, so that
// it is not told again.
func (t *turner) settle(ctx context.Context, s snapshot) {
	n := t.n
	n.mu.Lock()
	told := n.told
	n.told = map[string]state{}
	n.mu.Unlock()
	for name, mine := range told {
		h, ok := s.states[name]
		if !ok {
			continue
		}
		err := n.rewrite(ctx, name, h, func(st state) state { return st.with(mine) })
		if err != nil {
			n.d.Log.Warn("what was told without quorum is not written", "channel", name, "err", err)
		}
	}
}

// with adds what another server told.
func (st state) with(o state) state {
	st.Told, st.Codes = maps.Clone(st.Told), maps.Clone(st.Codes)
	if st.Told == nil {
		st.Told = map[string]told{}
	}
	if st.Codes == nil {
		st.Codes = map[int]time.Time{}
	}
	for id, t := range o.Told {
		if old, ok := st.Told[id]; !ok || old.At.Before(t.At) {
			st.Told[id] = t
		}
	}
	for code, at := range o.Codes {
		if st.Codes[code].Before(at) {
			st.Codes[code] = at
		}
	}
	for _, at := range o.Sent {
		if !slices.ContainsFunc(st.Sent, at.Equal) {
			st.Sent = append(slices.Clone(st.Sent), at)
		}
	}
	slices.SortFunc(st.Sent, time.Time.Compare)
	return st
}
