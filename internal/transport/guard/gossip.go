package guard

import (
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
)

const (
	gossipEvery = time.Second
	// maxPending is how many things wait to be told, and the most in a batch;
	// what is more is not told.
	maxPending = 4096
	maxBatch   = 2 << 20
	maxKey     = 300
)

// seenKind is what was seen.
type seenKind uint8

const (
	kindConnection seenKind = 1 + iota // n from a network
	kindFailure                        // n of a network
	kindFirst                          // first attempt of a triple, at n (Unix)
	kindPassed                         // triple passed, at n
	kindKnown                          // sender domain proven at a network, at n
	kindOutside                        // n recipients outside of an account
)

// seen names one thing that was seen.
type seen struct {
	kind seenKind
	key  string
}

// batch1 is what travels between servers.
type batch1 struct {
	V    int        `cbor:"1,keyasint"`
	Seen []seenItem `cbor:"2,keyasint"`
}

type seenItem struct {
	Kind seenKind `cbor:"1,keyasint"`
	Key  []byte   `cbor:"2,keyasint"`
	N    int64    `cbor:"3,keyasint"`
}

// tell notes something for the others. The caller holds mu.
func (m *memory) tell(s seen, n int64) {
	if _, ok := m.pending[s]; !ok && len(m.pending) >= maxPending || len(s.key) > maxKey {
		return
	}
	switch s.kind {
	case kindFirst, kindPassed, kindKnown:
		m.pending[s] = n
	default:
		m.pending[s] += n
	}
}

// batch takes what the others do not know yet; nil if that is nothing.
func (m *memory) batch() []byte {
	m.mu.Lock()
	pending := m.pending
	if len(pending) > 0 {
		m.pending = map[seen]int64{}
	}
	m.mu.Unlock()
	if len(pending) == 0 {
		return nil
	}
	b := batch1{V: 1}
	for s, n := range pending {
		b.Seen = append(b.Seen, seenItem{s.kind, []byte(s.key), n})
	}
	return codec.MustMarshal(b)
}

// parseBatch reads a batch. Kinds that are not known are passed over: they are
// of a newer server.
func parseBatch(b []byte) (batch1, error) {
	var out batch1
	if len(b) > maxBatch {
		return batch1{}, kind.Errorf(kind.Invalid, "read guard batch: %d bytes", len(b))
	}
	if err := codec.Unmarshal(b, &out); err != nil {
		return batch1{}, kind.Errorf(kind.Invalid, "read guard batch: %w", err)
	}
	if out.V != 1 || len(out.Seen) > maxPending {
		return batch1{}, kind.Errorf(kind.Invalid, "read guard batch: version %d with %d entries", out.V, len(out.Seen))
	}
	for _, s := range out.Seen {
		if len(s.Key) > maxKey || s.N < 0 {
			return batch1{}, kind.Errorf(kind.Invalid, "read guard batch: entry out of bounds")
		}
	}
	return out, nil
}

// Remember takes in what another server saw. A batch that cannot be read changes
// nothing.
func (g *Guard) Remember(batch []byte) {
	b, err := parseBatch(batch)
	if err != nil {
		g.deps.Log.Warn("what another server saw of clients is not understood", "err", err)
		return
	}
	g.mem.remember(b, time.Now())
}

// counted bounds what one entry of another server may add.
const counted = 1_000_000

func (m *memory) remember(b batch1, now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range b.Seen {
		key, n := string(s.Key), min(s.N, counted)
		at := time.Unix(s.N, 0)
		if at.After(now) || now.Sub(at) > time.Hour { // clocks differ, a batch is seconds old
			at = now
		}
		switch s.Kind {
		case kindConnection:
			m.conns.at(key).add(now, time.Minute, n)
		case kindFailure:
			m.failures.at(key).add(float64(n), now)
		case kindFirst:
			if a := m.grey.at(key); a.first.IsZero() || now.Sub(a.first) >= greylistRetry {
				a.first = at
			}
		case kindPassed:
			m.grey.at(key).passed = at
		case kindKnown:
			*m.known.at(key) = at
		case kindOutside:
			o := m.outside.at(key)
			o.hour.add(now, time.Hour, n)
			o.day.add(now, 24*time.Hour, n)
		}
	}
}
