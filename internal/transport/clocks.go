package transport

import (
	"encoding/binary"
	"time"
)

// ClockSection is the name under which servers tell each other the time.
const ClockSection = "clock"

func (m *Mover) publishClock() {
	m.deps.Group.Publish(ClockSection, binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())))
}

// peerClocks are the offsets of the other servers' clocks from this one's, as
// far as they were heard lately.
func (m *Mover) peerClocks() []time.Duration {
	var out []time.Duration
	for _, s := range m.deps.Group.View().Servers() {
		if s.Name == m.me {
			continue
		}
		b, heard, ok := m.deps.Group.Published(s.Name, ClockSection)
		if !ok || len(b) != 8 || time.Since(heard) > time.Minute {
			continue
		}
		told := time.Unix(0, int64(binary.BigEndian.Uint64(b)))
		out = append(out, told.Sub(heard.Round(0)))
	}
	return out
}
