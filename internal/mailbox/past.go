package mailbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

const (
	// pastName is the folder of a copy for scratch indexes.
	pastName = "past"
	// pastsMost bounds how many moments a server shows at once.
	pastsMost = 4
	// pastIdle is how long one is kept that nobody asks.
	pastIdle = 5 * time.Minute
	// pastOpen bounds how long one may take to be made.
	pastOpen = 12 * time.Hour
	// pastBehind is how long a copy may take to hear that what it has is agreed.
	pastBehind = 30 * time.Second
)

// past is the index of a copy as it was at a moment: a scratch copy of an older
// one, with the log until then replayed. Bodies are read from the copy's log,
// which keeps them while it is open.
type past struct {
	id   string
	c    *dbCopy
	at   time.Time
	to   org.LSN // where the active copy's log ended when it was asked for
	dir  string
	end  context.CancelFunc // ends it, wherever it is
	from org.LSN            // the log is kept from here on

	mu    sync.RWMutex // held while ix is read; guards the rest
	ix    *store.Index // nil until it is opened, and after it is closed
	ready bool
	err   error
	total int64 // bytes of log to replay, at most
	done  int64
	used  time.Time
}

// pastBook are the moments that this server shows.
type pastBook struct {
	mu   sync.Mutex // guards the rest
	open map[string]*past
}

// keepFrom is from where on the open ones of a copy need its log.
func (b *pastBook) keepFrom(c *dbCopy) org.LSN {
	b.mu.Lock()
	defer b.mu.Unlock()
	from := keepsNothing
	for _, p := range b.open {
		if p.c == c {
			from = min(from, p.from)
		}
	}
	return from
}

// add adds one, from when on the log is kept that it needs.
func (b *pastBook) add(p *past) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.open) >= pastsMost {
		return kind.Errorf(kind.Busy, "%s shows %d other moments already; it ends with those who look at them, or after %s", p.c.k.me, pastsMost, pastIdle)
	}
	b.open[p.id] = p
	return nil
}

// base is what a moment is made from: the newest index of the copy that holds
// nothing made after t. at is when the newest record in it was made. An empty index
// is one only where the log still has everything.
func (c *dbCopy) base(t time.Time) (cp checkpoint, ok bool) {
	cp, ok = c.checkpoints.before(t)
	if at := c.lastTime.Load(); at <= t.UnixNano() && c.index().Applied().LSN >= cp.lsn && (at > 0 || c.index().Applied().LSN == 0 && c.jn.Start() == 0) {
		return checkpoint{at: at, lsn: c.index().Durable()}, true
	}
	return cp, ok
}

// shows tells whether the copy's log goes on to t: it has a record made after t, or
// all that the active copy had when its log ended at end.
func (c *dbCopy) shows(t time.Time, end org.LSN) bool {
	return min(c.commitEnd(), c.jn.End().LSN) >= end || max(c.lastTime.Load(), c.late.copied.Load()) > t.UnixNano()
}

// keepsPast tells whether the copy will be able to show what is there now.
func (c *dbCopy) keepsPast() bool {
	_, kept := c.checkpoints.before(time.Now())
	return kept || c.lagNow() > 0
}

// pastReach is the first moment that the copy can show, Unix nanoseconds; 0 where
// it is not known.
func (c *dbCopy) pastReach() int64 {
	at := c.lastTime.Load()
	if cp, ok := c.checkpoints.first(); ok && (at == 0 || cp.at < at) {
		at = cp.at
	}
	return at
}

// openPast begins to make the index as of t; end is where the log of the active copy
// ended when it was asked for.
func (c *dbCopy) openPast(t time.Time, end org.LSN) (*past, error) {
	inside, leave, ok := c.gate.enter(c.k.life())
	if !ok {
		return nil, kind.Errorf(kind.Busy, "the copy of %s on %s is not open", c.name, c.k.me)
	}
	base, ok := c.base(t)
	if !ok {
		leave()
		return nil, c.errNoPast(t)
	}
	var id [8]byte
	rand.Read(id[:]) // never fails (crypto/rand)
	p := &past{id: hex.EncodeToString(id[:]), c: c, at: t, to: end, from: base.lsn, used: time.Now()}
	p.dir = filepath.Join(c.dir, pastName, p.id)
	inside, p.end = context.WithCancel(inside)
	b := &c.k.pasts
	if err := b.add(p); err != nil {
		p.end()
		leave()
		return nil, err
	}
	go func() {
		defer leave()
		defer c.k.forgetPast(p)
		if err := p.make(inside, base); err != nil {
			p.fail(err)
		}
		p.live(inside)
		p.close()
	}()
	return p, nil
}

func (k *Keeper) forgetPast(p *past) {
	k.pasts.mu.Lock()
	defer k.pasts.mu.Unlock()
	delete(k.pasts.open, p.id)
}

func (p *past) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

// make makes the scratch index and replays log until the moment.
func (p *past) make(ctx context.Context, base checkpoint) error {
	ctx, cancel := context.WithTimeout(ctx, pastOpen)
	defer cancel()
	c := p.c
	disk := c.k.deps.IndexFS
	if err := disk.MkdirAll(filepath.Dir(p.dir), 0o755); err != nil {
		return err
	}
	if err := p.clone(base); err != nil {
		return err
	}
	ix, err := store.Open(p.dir, store.Options{FS: disk, Cache: c.k.cache, Identity: c.identity, Log: c.log})
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.ix, p.total = ix, int64(c.jn.End().LSN-ix.Applied().LSN)
	p.mu.Unlock()
	if err := p.replayAll(ctx, ix); err != nil {
		return fmt.Errorf("replay %s to %s: %w", c.name, p.at.UTC().Format(time.RFC3339), err)
	}
	p.mu.Lock()
	p.ready, p.used = true, time.Now()
	p.mu.Unlock()
	c.k.deps.Events.Emit(evPast, "%s on %s is shown as it was at %s: %d bytes of log were replayed for it", c.name, c.k.me, p.at.UTC().Format(time.RFC3339), p.done)
	return nil
}

// replayAll replays log until the moment. A log that ends before does not show it.
func (p *past) replayAll(ctx context.Context, ix *store.Index) error {
	behind := time.Now()
	for ctx.Err() == nil {
		more, there, err := p.replay(ix)
		switch {
		case err != nil:
			return err
		case there:
			return nil
		case more:
			behind = time.Now()
		case time.Since(behind) > pastBehind:
			return kind.WithHint(kind.Errorf(kind.Busy, "the log of the copy on %s ends before that moment", p.c.k.me), "take another copy with --from-server, or try again when this one is up to date")
		default:
			sleep(ctx, 50*time.Millisecond)
		}
	}
	return kind.Errorf(kind.Busy, "given up before the log was replayed")
}

// clone makes the scratch index of the base.
func (p *past) clone(base checkpoint) error {
	if base.dir != "" {
		return store.CloneCheckpoint(p.c.k.deps.IndexFS, base.dir, p.dir)
	}
	// Nothing is applied meanwhile: the copy may just come to what is newer.
	p.c.applyMu.Lock()
	defer p.c.applyMu.Unlock()
	if p.c.lastTime.Load() > p.at.UnixNano() {
		return kind.Errorf(kind.Busy, "%s on %s replayed beyond that moment meanwhile; try again", p.c.name, p.c.k.me)
	}
	return p.c.index().Checkpoint(p.dir)
}

// replay applies some records, and tells whether there are more until the moment,
// or else whether that was reached: by a record made later, or by having all that
// there was.
func (p *past) replay(ix *store.Index) (more, there bool, err error) {
	c := p.c
	at := ix.Applied().LSN
	to := min(c.commitEnd(), c.jn.End().LSN)
	if at >= to {
		return false, to >= p.to, nil
	}
	if start := c.jn.Start(); at < start {
		return false, false, kind.Errorf(kind.NotFound, "the log of the copy on %s begins at %d, its index ends at %d", c.k.me, start, at)
	}
	var recs []journal.Record
	n := 0
	now := c.late.now()
	for r, err := range c.jn.Records(at, to) {
		if err != nil {
			return false, false, err
		}
		if r.Next().LSN > to {
			break
		}
		if c.late.madeBy(r, now) > p.at.UnixNano() {
			there = true
			break
		}
		if recs = append(recs, r); n >= applyStep {
			more = true
			break
		}
		n += len(r.Ops) + journal.HeaderSize
	}
	there = there || !more && to >= p.to
	if len(recs) == 0 {
		return false, there, nil
	}
	if _, err := ix.Apply(recs); err != nil {
		return false, false, err
	}
	p.mu.Lock()
	p.done += int64(ix.Applied().LSN - at)
	p.used = time.Now()
	p.mu.Unlock()
	return more, there, nil
}

// live waits until nobody looks at the past any more.
func (p *past) live(ctx context.Context) {
	for sleep(ctx, time.Second) {
		p.mu.RLock()
		idle := time.Since(p.used)
		p.mu.RUnlock()
		if idle >= pastIdle {
			return
		}
	}
}

// close removes the scratch index.
func (p *past) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ix != nil {
		if err := p.ix.Close(); err != nil {
			p.c.log.Warn("close scratch index", "err", err)
		}
	}
	p.ix, p.ready = nil, false
	if p.err == nil {
		p.err = kind.Errorf(kind.NotFound, "it was closed")
	}
	if err := p.c.k.deps.IndexFS.RemoveAll(p.dir); err != nil {
		p.c.log.Warn("remove scratch index", "err", err)
	}
}

// read runs f on the index.
func (p *past) read(f func(*store.Reader) error) error {
	p.mu.Lock()
	p.used = time.Now()
	p.mu.Unlock()
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.err != nil {
		return p.err
	}
	if !p.ready {
		return kind.Errorf(kind.Busy, "the log is being replayed")
	}
	r := p.ix.Reader()
	defer r.Close()
	return f(r)
}

// body reads bytes of a message. What is damaged is mended; what was given back
// before this copy was to keep it is not there.
func (p *past) body(ctx context.Context, r *store.Reader, q mail.BodyRequest) ([]byte, error) {
	lsn, size, ok := r.Blob(q.Blob)
	n := min(size-q.Offset, bodyChunk)
	if !ok || q.Offset < 0 || n <= 0 {
		return nil, nil
	}
	b, err := p.c.jn.Body(lsn, q.Offset, n)
	if kind.Is(err, kind.Corrupt) {
		return p.c.body(ctx, lsn, q.Offset, n)
	}
	return b, err
}

// Questions to a past, as they go between servers.
type (
	pastRequest struct {
		Do       string                `cbor:"1,keyasint"` // end, reach, open, state, mailboxes, folders, messages, body, close
		ID       string                `cbor:"2,keyasint,omitempty"`
		At       int64                 `cbor:"3,keyasint,omitempty"` // Unix nanoseconds
		Mailbox  org.MailboxID         `cbor:"4,keyasint"`
		Messages *mail.MessagesRequest `cbor:"5,keyasint,omitempty"`
		Body     *mail.BodyRequest     `cbor:"6,keyasint,omitempty"`
		// End is, with reach and open, where the active copy's log ends.
		End org.LSN `cbor:"8,keyasint,omitempty"`
	}
	pastAnswer struct {
		ID       string         `cbor:"1,keyasint,omitempty"`
		Ready    bool           `cbor:"2,keyasint,omitempty"`
		Done     int64          `cbor:"3,keyasint,omitempty"`
		Total    int64          `cbor:"4,keyasint,omitempty"`
		Base     int64          `cbor:"5,keyasint,omitempty"` // Unix nanoseconds, of what it is made from; 0: there is nothing
		Folders  []mail.Folder  `cbor:"6,keyasint,omitempty"`
		Messages *mail.Messages `cbor:"7,keyasint,omitempty"`
		Body     []byte         `cbor:"8,keyasint,omitempty"`
		// Oldest is the first moment the copy can show, Unix nanoseconds, 0: not known.
		Oldest    int64           `cbor:"9,keyasint,omitempty"`
		Mailboxes []org.MailboxID `cbor:"10,keyasint,omitempty"`
		// Keeps tells that the copy goes back whatever is written meanwhile.
		Keeps bool `cbor:"11,keyasint,omitempty"`
		// End is where the active copy's log ends. Until is when the newest record of a
		// log was made that ends before the moment, Unix nanoseconds.
		End   org.LSN `cbor:"12,keyasint,omitempty"`
		Until int64   `cbor:"13,keyasint,omitempty"`
	}
)

// opPast is the call of all questions to a past.
func opPast() op[pastRequest, pastAnswer] {
	return op[pastRequest, pastAnswer]{"Past", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, q pastRequest) (a pastAnswer, err error) {
		switch q.Do {
		case "end":
			return read(ctx, c, func(*store.Reader) (pastAnswer, error) { return pastAnswer{End: c.jn.End().LSN}, nil })
		case "reach":
			a.Oldest = c.pastReach()
			base, ok := c.base(time.Unix(0, q.At))
			switch {
			case ok && c.shows(time.Unix(0, q.At), q.End):
				a.Base = max(base.at, 1)
			case ok:
				a.Until = max(c.lastTime.Load(), c.late.copied.Load(), 1)
			}
			a.Keeps = c.keepsPast()
			return a, nil
		case "open":
			p, err := c.openPast(time.Unix(0, q.At), q.End)
			if err != nil {
				return a, err
			}
			return pastAnswer{ID: p.id}, nil
		}
		p := c.k.past(q.ID)
		if p == nil || p.c != c {
			return a, kind.Errorf(kind.NotFound, "%s shows no such moment any more", c.k.me)
		}
		return p.answer(ctx, q)
	}}
}

func (k *Keeper) past(id string) *past {
	k.pasts.mu.Lock()
	defer k.pasts.mu.Unlock()
	return k.pasts.open[id]
}

// answer answers one question.
func (p *past) answer(ctx context.Context, q pastRequest) (a pastAnswer, err error) {
	switch q.Do {
	case "close":
		p.end()
		return a, nil
	case "state":
		p.mu.Lock()
		defer p.mu.Unlock()
		p.used = time.Now()
		return pastAnswer{Ready: p.ready, Done: p.done, Total: p.total}, p.err
	}
	err = p.read(func(r *store.Reader) (err error) {
		switch {
		case q.Do == "mailboxes":
			var all []store.MailboxInfo
			all, err = r.Mailboxes()
			for _, m := range all {
				a.Mailboxes = append(a.Mailboxes, m.ID)
			}
		case q.Do == "folders":
			a.Folders, err = r.Folders(q.Mailbox)
		case q.Do == "messages" && q.Messages != nil:
			var ms mail.Messages
			ms, err = r.Messages(q.Mailbox, *q.Messages)
			a.Messages = &ms
		case q.Do == "body" && q.Body != nil:
			a.Body, err = p.body(ctx, r, *q.Body)
		default:
			err = kind.Errorf(kind.Invalid, "past: no such question %q", q.Do)
		}
		return err
	})
	return a, err
}
