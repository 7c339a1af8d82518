package mailbox

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Two databases that are idle cost one beat: the other's lease lasts by what is
// said on the first one's stream.
func TestJointBeats(t *testing.T) {
	g := newAgreed()
	for _, name := range []org.DatabaseName{"DB01", "DB02"} {
		g.put(t, DatabaseKey(name), org.Database{Name: name, Identity: string(name), SegmentSize: 64 << 10, Copies: []org.Copy{
			{Server: "MBX1", Volume: "vol1", Preference: 1}, {Server: "MBX2", Volume: "vol1", Preference: 2}}})
		g.put(t, MountKey(name), org.Mount{Database: name, Term: 1, Active: "MBX1", InSync: []org.ServerName{"MBX1"}})
	}
	k := startKeeper(t, g.server("MBX1"), newDisks())
	startKeeper(t, g.server("MBX2"), newDisks())
	in := 0
	eventually(t, "one stream goes without beats of its own", func() bool {
		k.joints.mu.Lock()
		p := k.joints.peers["MBX2"]
		var quiet *feed
		if p != nil && len(p.feeds) == 2 {
			for f := range p.feeds {
				if f != p.carrier {
					quiet = f
				}
			}
		}
		k.joints.mu.Unlock()
		if quiet == nil || !quiet.spared(time.Now(), time.Now()) {
			in = 0
			return false
		}
		if ok, stale := quiet.l.readable(); !ok || stale {
			in = 0
			return false
		}
		in++
		return in > 60 // longer than a beat lasts, which none on its stream follows
	})
}

// A copy promises only to whom it follows, in the term it follows, and nothing
// after it has heard of a newer one.
func TestPromise(t *testing.T) {
	c := &dbCopy{maxTerm: 4}
	if c.promise("A", 4) {
		t.Error("a copy that follows nobody promises")
	}
	c.follows(&follower{source: "A", term: 4})
	if !c.promise("A", 4) || c.promisee != "A" || time.Since(c.promised) > time.Minute {
		t.Errorf("no promise to whom it follows: %s, %s", c.promisee, c.promised)
	}
	if c.promise("B", 4) || c.promise("A", 3) || c.promise("A", 5) {
		t.Error("a promise to another, or for another term")
	}
	if c.maxTerm = 5; c.promise("A", 4) {
		t.Error("a promise for a term that is over")
	}
}

// When the stream that carries the joint beats ends, another does it.
func TestJointCarrier(t *testing.T) {
	var j joints
	a, b, x := &feed{peer: "B"}, &feed{peer: "B"}, &feed{peer: "C"}
	endA, endB, endX := j.add(a), j.add(b), j.add(x)
	if !j.carries(a) || j.carries(b) || !j.carries(x) || len(j.others(a)) != 1 || len(j.others(x)) != 0 {
		t.Error("the first stream to each peer carries")
	}
	endA()
	if j.carries(a) || !j.carries(b) {
		t.Error("nobody carries on")
	}
	endB()
	endX()
	if j.carries(b) || len(j.peers) != 0 {
		t.Error("what has ended is kept")
	}
}
