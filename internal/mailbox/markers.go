package mailbox

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// A marker is a record without operations. Each copy that applies it takes a
// digest of its index at exactly that position; equal histories give equal
// digests, whatever is written meanwhile.

// digest is what a copy found at a marker.
type digest struct {
	LSN  org.LSN `cbor:"1,keyasint"`
	Sum  []byte  `cbor:"2,keyasint,omitempty"`
	Keys int64   `cbor:"3,keyasint"`
	// Chain are the checksums of the log at each generation up to the marker.
	Chain []journal.Position `cbor:"4,keyasint"`
	Done  bool               `cbor:"5,keyasint"`
	Error string             `cbor:"6,keyasint,omitempty"`
	Late  bool               `cbor:"7,keyasint,omitempty"` // of the log only: the index is late on purpose
}

// VerifiedLate is the result for a lagged copy whose log is that of the active one.
const VerifiedLate = "log identical, the index is late"

// Compared tells that nothing differs from the active copy.
func (v Verified) Compared() bool { return v.Result == "identical" || v.Result == VerifiedLate }

type sumsRequest struct {
	To org.LSN `cbor:"1,keyasint"`
}

// opSums answers with the checksums of a copy's log, without its index.
func opSums() op[sumsRequest, digest] {
	return op[sumsRequest, digest]{"Sums", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, q sumsRequest) (digest, error) {
		for c.jn.End().LSN < q.To {
			if !sleep(ctx, 20*time.Millisecond) {
				return digest{}, kind.Errorf(kind.Busy, "the log does not reach the marker")
			}
		}
		return digest{LSN: q.To, Chain: c.jn.GenerationSums(c.jn.Start(), q.To), Done: true, Late: true}, nil
	}}
}

// markersKept is how many digests a copy remembers.
const markersKept = 8

type markerBook struct {
	mu   sync.Mutex // guards the rest
	ids  []string
	seen map[string]*digest
}

// reached is called with the index at exactly the marker.
func (b *markerBook) reached(ctx context.Context, c *dbCopy, r journal.Record) {
	id := hex.EncodeToString(r.Ops)
	d := &digest{LSN: r.Next().LSN}
	b.mu.Lock()
	if b.seen == nil {
		b.seen = map[string]*digest{}
	}
	b.ids = append(b.ids, id)
	b.seen[id] = d
	if len(b.ids) > markersKept {
		delete(b.seen, b.ids[0])
		b.ids = slices.Delete(b.ids, 0, 1)
	}
	b.mu.Unlock()
	inside, leave, ok := c.gate.enter(context.WithoutCancel(ctx))
	if !ok {
		return
	}
	ix := c.index()
	rd := ix.Reader()
	go func() {
		defer leave()
		defer rd.Close()
		sum, keys, err := ix.Digest(inside, rd)
		chain := c.jn.GenerationSums(c.jn.Start(), d.LSN)
		b.mu.Lock()
		defer b.mu.Unlock()
		d.Sum, d.Keys, d.Chain, d.Done = sum[:], keys, chain, true
		if err != nil {
			d.Error = err.Error()
		}
	}()
}

func (b *markerBook) get(id string) (digest, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	d, ok := b.seen[id]
	if !ok {
		return digest{}, false
	}
	return *d, true
}

// mark writes a marker and returns its position once it is confirmed.
func (l *leader) mark(ctx context.Context, id []byte) (org.LSN, error) {
	if err := l.admit(ctx, false); err != nil {
		return 0, err
	}
	l.seqMu.Lock()
	end := l.appendLocked(journal.KindMarker, id, nil)
	l.seqMu.Unlock()
	return end, l.wait(ctx, func() bool { return l.applied >= end })
}

// Verified tells how one copy compares with the active one.
type Verified struct {
	Database org.DatabaseName `json:"database" col:"DATABASE"`
	Server   org.ServerName   `json:"server" col:"SERVER"`
	Position org.LSN          `json:"position" col:"POSITION"`
	Keys     int64            `json:"keys" col:"KEYS"`
	Digest   string           `json:"digest" col:"DIGEST"`
	Damaged  int              `json:"damaged" col:"DAMAGED"`
	Repaired int              `json:"repaired" col:"REPAIRED"`
	Result   string           `json:"result" col:"RESULT"` // "identical", or what differs
}

// Verify compares all copies of a database at one position of the log: the
// checksums of the log, generation by generation, and a digest of everything
// in the index. With bodies it also reads every byte of every copy.
func (k *Keeper) Verify(ctx context.Context, db org.DatabaseName, bodies bool) ([]Verified, error) {
	def, ok := k.group.View().Database(db)
	if !ok {
		return nil, kind.Errorf(kind.NotFound, "database %s does not exist", db)
	}
	m, ok := k.group.View().Mount(db)
	if !ok || m.Active == "" {
		return nil, kind.Errorf(kind.Busy, "database %s is not mounted", db)
	}
	id := newKey()
	if _, err := callPeer[markRequest, markAnswer](ctx, k, m.Active, "Mark", db, markRequest{ID: id[:]}); err != nil {
		return nil, err
	}
	var out []Verified
	var first *digest
	order := slices.Clone(def.Copies)
	slices.SortStableFunc(order, func(a, b org.Copy) int {
		if (a.Server == m.Active) == (b.Server == m.Active) {
			return 0
		} else if a.Server == m.Active {
			return -1
		}
		return 1
	})
	for _, cp := range order {
		v := Verified{Database: db, Server: cp.Server}
		var d digest
		var err error
		if cp.ReplayLag > 0 && cp.Server != m.Active && first != nil {
			d, err = callPeer[sumsRequest, digest](ctx, k, cp.Server, "Sums", db, sumsRequest{first.LSN})
		} else {
			d, err = k.awaitDigest(ctx, cp.Server, db, id[:])
		}
		if err != nil {
			v.Result = err.Error()
			out = append(out, v)
			continue
		}
		v.Position, v.Keys = d.LSN, d.Keys
		if len(d.Sum) >= 8 {
			v.Digest = hex.EncodeToString(d.Sum[:8])
		}
		if first == nil {
			first = &d
		}
		v.Result = compareDigests(*first, d)
		if bodies {
			k.verifyBodies(ctx, cp.Server, db, &v)
		}
		out = append(out, v)
	}
	return out, nil
}

func (k *Keeper) verifyBodies(ctx context.Context, s org.ServerName, db org.DatabaseName, v *Verified) {
	res, err := callPeer[scrubRequest, scrubResult](ctx, k, s, "Scrub", db, scrubRequest{})
	v.Damaged, v.Repaired = res.Damaged, res.Repaired
	switch {
	case err != nil:
		v.Result = err.Error()
	case res.Damaged > res.Repaired:
		v.Result = "damaged"
	}
}

// awaitDigest waits until a copy has reached the marker, at most 30 s.
func (k *Keeper) awaitDigest(ctx context.Context, s org.ServerName, db org.DatabaseName, id []byte) (digest, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		d, err := callPeer[markRequest, digest](ctx, k, s, "Digest", db, markRequest{ID: id})
		if err == nil && d.Done {
			if d.Error != "" {
				return d, kind.Errorf(kind.Internal, "%s", d.Error)
			}
			return d, nil
		}
		if err != nil && !kind.Is(err, kind.NotFound) {
			return d, err
		}
		if !sleep(ctx, 50*time.Millisecond) {
			return d, kind.Errorf(kind.Busy, "not reached the marker within 30 s")
		}
	}
}

// compareDigests says how b differs from a.
func compareDigests(a, b digest) string {
	at := map[org.LSN]journal.Position{}
	for _, p := range a.Chain {
		at[p.LSN] = p
	}
	for _, p := range b.Chain {
		if q, ok := at[p.LSN]; ok && q.Chain != p.Chain {
			return fmt.Sprintf("log differs from generation %d", p.LSN.Generation())
		}
	}
	switch {
	case b.Late:
		return VerifiedLate
	case a.LSN != b.LSN:
		return "marker at another position"
	case !bytes.Equal(a.Sum, b.Sum):
		return "index differs"
	}
	return "identical"
}
