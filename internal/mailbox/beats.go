package mailbox

import (
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/org"
)

// ownBeat is the longest pause between signs of life on a stream itself. Its two
// ends notice by them that the other is gone, before streamStall.
const ownBeat = 2 * time.Second

// jointBeat is a source's sign of life for several databases that it leads, on
// the stream of one of them: with many idle databases, a beat on each stream is most
// of what they cost. The follower sends it back with those it follows there: for each
// a promise as an ack is (see follower.onBeat). What is stored it does not tell.
type jointBeat struct {
	Sent  int64 `cbor:"1,keyasint"` // the sender's own clock
	Leads []led `cbor:"2,keyasint,omitempty"`
}

// led is a database and the term in which it is led.
type led struct {
	Database org.DatabaseName `cbor:"1,keyasint"`
	Term     org.Term         `cbor:"2,keyasint"`
}

// joints knows on which streams this server's leading copies feed peers that read
// joint beats, and which stream of each peer carries them.
type joints struct {
	mu    sync.Mutex // guards the rest
	peers map[org.ServerName]*joint
}

type joint struct {
	feeds   map[*feed]bool
	carrier *feed
}

// add notes a stream; what it returns forgets it.
func (j *joints) add(f *feed) (remove func()) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.peers[f.peer]
	if p == nil {
		p = &joint{feeds: map[*feed]bool{}, carrier: f}
		if j.peers == nil {
			j.peers = map[org.ServerName]*joint{}
		}
		j.peers[f.peer] = p
	}
	p.feeds[f] = true
	return func() {
		j.mu.Lock()
		defer j.mu.Unlock()
		delete(p.feeds, f)
		if p.carrier != f {
			return
		}
		for p.carrier = range p.feeds {
			return
		}
		delete(j.peers, f.peer)
	}
}

// carries tells whether the joint beats of its peer go on this stream.
func (j *joints) carries(f *feed) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.peers[f.peer]
	return p != nil && p.carrier == f
}

// others are the streams to the same peer.
func (j *joints) others(f *feed) (all []*feed) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if p := j.peers[f.peer]; p != nil {
		for g := range p.feeds {
			if g != f {
				all = append(all, g)
			}
		}
	}
	return all
}

// spared tells whether a beat that is due can be left out: there is nothing to tell,
// the last on this stream, own, is not long ago, and joint beats are answered.
func (f *feed) spared(now, own time.Time) bool {
	if !f.joint || now.Sub(own) >= ownBeat || f.c.k.joints.carries(f) {
		return false
	}
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	m := f.l.members[f.peer]
	return m != nil && uint64(f.l.commit) == f.told.Load() && now.Sub(m.heard) <= f.c.k.cfg.idleHeartbeat()+f.c.k.cfg.Heartbeat
}

// beatJointly sends a sign of life for all other databases, if that is for this
// stream to do.
func (f *feed) beatJointly(now time.Time) error {
	k := f.c.k
	if !f.joint || !k.joints.carries(f) {
		return nil
	}
	b := jointBeat{Sent: int64(now.Sub(k.began))}
	for _, g := range k.joints.others(f) {
		b.Leads = append(b.Leads, led{g.c.name, g.l.term})
	}
	if len(b.Leads) == 0 {
		return nil
	}
	return f.s.sendValue(frameJoint, b)
}

// answered notes the answer to a joint beat.
func (f *feed) answered(p []byte) error {
	var b jointBeat
	if err := codec.Unmarshal(p, &b); err != nil {
		return err
	}
	k := f.c.k
	at := k.began.Add(time.Duration(b.Sent))
	yes := make(map[led]bool, len(b.Leads))
	for _, d := range b.Leads {
		yes[d] = true
	}
	for _, g := range k.joints.others(f) {
		if yes[led{g.c.name, g.l.term}] {
			g.l.promisedBy(g.peer, g.line, at)
		}
	}
	return nil
}

// promisedBy notes that a member promised, at a beat sent at a time, to lead no newer
// term within the lease.
func (l *leader) promisedBy(s org.ServerName, line int, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m := l.members[s]; m != nil && l.lines[s] == line && l.ended == nil {
		m.spoke = time.Now()
		if at.After(m.heard) {
			m.heard = at
		}
	}
}

// onJoint answers a joint beat with the databases that are followed there.
func (f *follower) onJoint(p []byte) error {
	var b jointBeat
	if err := codec.Unmarshal(p, &b); err != nil {
		return err
	}
	a := jointBeat{Sent: b.Sent}
	for _, d := range b.Leads {
		if c := f.c.k.copy(d.Database); c != nil && c.promise(f.source, d.Term) {
			a.Leads = append(a.Leads, d)
		}
	}
	f.sendMu.Lock()
	defer f.sendMu.Unlock()
	return f.s.sendValue(frameJoint, a)
}

// promise promises a source to lead no newer term within the lease, if this copy
// follows it in that term.
func (c *dbCopy) promise(source org.ServerName, term org.Term) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if f := c.following; f == nil || f.source != source || f.term != term || term < c.maxTerm {
		return false
	}
	c.promised, c.promisee = time.Now(), source
	return true
}

// follows notes which stream this copy follows, nil for none.
func (c *dbCopy) follows(f *follower) {
	c.mu.Lock()
	c.following = f
	c.mu.Unlock()
}

// beat sends a sign of life on the stream itself, with what is confirmed.
func (f *feed) beat(now time.Time) error {
	b := beat{End: f.c.jn.End().LSN, Commit: f.c.commitEnd()}
	if f.l != nil {
		f.l.mu.Lock()
		b.Term, b.End, b.Commit = f.l.term, f.l.build.from.LSN, f.l.commit
		b.Sent = int64(now.Sub(f.l.start))
		f.l.mu.Unlock()
	}
	f.told.Store(uint64(b.Commit))
	return f.s.send(frameBeat, b.encode())
}

// nextBeat is when the beat after the last one is due, with what is confirmed now.
// A peer that was told all there is needs it for the lease only. The beats of all
// streams come at the same moments: a server that is woken once for all of them does
// not spend its time on waking.
func (f *feed) nextBeat(last time.Time, commit org.LSN) time.Time {
	if last.IsZero() {
		return last
	}
	pause := f.c.k.cfg.Heartbeat
	if uint64(commit) == f.told.Load() {
		pause = f.c.k.cfg.idleHeartbeat()
	}
	return last.Add(pause - last.Sub(f.c.k.began)%pause)
}

// confirmed is what the peer should know to be confirmed.
func (f *feed) confirmed() org.LSN {
	if f.l == nil {
		return f.c.commitEnd()
	}
	f.l.mu.Lock()
	defer f.l.mu.Unlock()
	return f.l.commit
}
