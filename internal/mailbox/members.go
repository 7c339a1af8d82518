package mailbox

import (
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// member is what a leading copy knows of one other copy.
type member struct {
	server org.ServerName
	inSync bool // in the agreed set
	// joining: a compare and swap that adds it may be under way, so it is waited for
	// as if it were a member until the row is known to say otherwise.
	joining   bool
	connected bool      // has a stream
	lostAt    time.Time // when the stream went, zero while connected
	spoke     time.Time // when it was last heard on its stream, or of it by a joint beat
	own       time.Time // when it was last heard on its stream
	acked     org.LSN   // durable there, as far as it told
	// behindSince is when it was first owed something it has not
	// acknowledged, zero when it has all it was sent.
	behindSince time.Time
	// heard is when the newest beat it echoed was sent: until heard + lease
	// it will not lead.
	heard time.Time
	// short tells that its log ends before what is confirmed: it lost data.
	short bool
	// gone tells that the group judges its server dead, and why.
	gone    bool
	goneWhy string
	// canStore tells that its server is a live member with a copy that is
	// neither suspended nor failed, being seeded, or on a full volume.
	canStore bool
	// leaving tells that its server is to have no part in the group's work
	// (component high_availability Inactive, as in maintenance).
	leaving bool
}

// rules are what membership decides by.
type rules struct {
	grace, lostGrace time.Duration
	redundancy       org.Redundancy
	// wasAlone tells that the mount row says so: changes are confirmed on this
	// copy only, and known by position.
	wasAlone bool
}

// verdict says what the in-sync set should become.
type verdict struct {
	remove []org.ServerName
	add    []org.ServerName
	// await are copies so near that nothing more is confirmed without them,
	// though they lack a little of what is confirmed: they enter when they
	// have it. Without that a copy would never enter that is slower, by however
	// little, than confirming without it.
	await []org.ServerName
	// alone tells that this copy may confirm changes without a second one
	// once it is the only member.
	alone bool
	// held says why nothing may be confirmed although this copy is the only
	// member, empty otherwise.
	held string
	// why says of who is removed or added why.
	why map[org.ServerName]string
}

// because notes why somebody is removed or added: seldom, so the map is made then.
func (v *verdict) because(s org.ServerName, why string) {
	if v.why == nil {
		v.why = map[org.ServerName]string{}
	}
	v.why[s] = why
}

// judge decides who leaves and who enters the in-sync set (design 5.2). It
// reads nothing but its arguments. tail is the end of what was sent, commit
// what is confirmed.
func judge(ms []*member, tail, commit org.LSN, r rules, now time.Time) verdict {
	var v verdict
	left := 0
	for _, m := range ms {
		if !m.inSync && !m.joining {
			continue
		}
		if why := m.fails(tail, r, now); why != "" {
			v.remove = append(v.remove, m.server)
			v.because(m.server, why)
		} else {
			left++
		}
	}
	for _, m := range ms {
		// Who leaves on purpose goes as long as two others hold everything: this
		// copy and one more.
		if m.leaving && (m.inSync || m.joining) && left >= 2 && !slices.Contains(v.remove, m.server) {
			v.remove = append(v.remove, m.server)
			v.because(m.server, "its server is to have no part in the group's work (component high_availability)")
			left--
		}
	}
	for _, m := range ms {
		if m.leaving && left > 0 {
			continue
		}
		// A copy enters when it has everything confirmed and is close enough
		// to the end that waiting for it costs no more than one round.
		if m.inSync || !m.connected || m.short || m.stalls(r, now) || tail > m.acked+enterWithin || slices.Contains(v.remove, m.server) {
			continue
		}
		if m.acked >= commit {
			v.add = append(v.add, m.server)
			v.because(m.server, fmt.Sprintf("it has stored all that is confirmed, to position %d of %d", m.acked, tail))
		} else if !m.joining {
			v.await = append(v.await, m.server)
		}
	}
	if left > 0 || len(v.add)+len(v.await) > 0 {
		return v
	}
	i := slices.IndexFunc(ms, func(m *member) bool { return m.canStore })
	switch {
	case len(ms) == 0:
		v.alone = true // a database with one copy has nobody to wait for
	case r.redundancy == org.AlwaysTwo:
		v.held = "always-two asks for a second copy and none is in sync"
	case r.wasAlone:
		// A server that comes back needs a while to catch up. Holding changes
		// meanwhile would make its return an outage and protect nothing: what
		// it lacks it lacks either way, and it enters as soon as it is near.
		v.alone = true
	case i >= 0:
		v.held = string(ms[i].server) + " is a live member and is not in sync yet"
	default:
		v.alone = true
	}
	return v
}

// fails says why a member cannot be waited for, empty when it can.
func (m *member) fails(tail org.LSN, r rules, now time.Time) string {
	ms := func(since time.Time) time.Duration { return now.Sub(since).Round(time.Millisecond) }
	switch {
	case m.short:
		return fmt.Sprintf("its log ends at position %d, before what is confirmed: it lost data", m.acked)
	case m.gone && !m.connected:
		return "its server is gone: " + m.goneWhy
	case m.stalls(r, now) && !m.behindSince.IsZero() && now.Sub(m.behindSince) >= r.grace:
		return fmt.Sprintf("it stalls: for %s it has not stored %d bytes it was sent (grace %s)", ms(m.behindSince), int64(tail)-int64(m.acked), r.grace)
	case m.stalls(r, now) && now.Sub(m.spoke) < r.grace:
		return fmt.Sprintf("its stream is silent for %s (grace %s)", ms(m.own), ownBeat+r.grace)
	case m.stalls(r, now):
		return fmt.Sprintf("it is silent for %s (grace %s)", ms(m.spoke), r.grace)
	case !m.connected && !m.lostAt.IsZero() && now.Sub(m.lostAt) >= r.lostGrace:
		return fmt.Sprintf("its connection is gone for %s (grace %s)", ms(m.lostAt), r.lostGrace)
	}
	return ""
}

// stalls tells that it is connected and either silent, or has not stored what
// it was sent, for the grace time.
func (m *member) stalls(r rules, now time.Time) bool {
	return m.connected && !m.spoke.IsZero() && now.Sub(m.spoke) >= r.grace ||
		m.connected && !m.own.IsZero() && now.Sub(m.own) >= ownBeat+r.grace ||
		!m.behindSince.IsZero() && now.Sub(m.behindSince) >= r.grace
}

// settled tells that nothing can make it leave the set, but what wakes who looks
// after the set, or silence and debts that last for the grace time.
func (m *member) settled() bool {
	return m.inSync && !m.joining && m.connected && m.behindSince.IsZero() && !m.short && !m.gone && !m.leaving
}

// membersPause is how long nobody has to look at the set. A debt that begins
// meanwhile is seen long before the grace time is over, and silence when it is.
func membersPause(ms []*member, grace time.Duration, now time.Time) time.Duration {
	pause := min(reviewIdle, grace/4)
	for _, m := range ms {
		if !m.settled() {
			return reviewBusy
		}
		pause = min(pause, m.spoke.Add(grace).Sub(now))
	}
	return max(pause, reviewBusy)
}

// enterWithin is how far from the end a copy may be to enter the in-sync set.
const enterWithin = 4 << 20
