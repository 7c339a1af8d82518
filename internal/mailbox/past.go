package mailbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"math"
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
)

// past is the index of a copy as it was at a moment: a scratch copy of an older
// one, with the log until then replayed. Bodies are read from the copy's log,
// which keeps them while it is open.
type past struct {
	id   string
	c    *dbCopy
	at   time.Time
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

// base is what a moment is made from: the newest index of the copy that holds
// nothing made after t. at is when the newest record in it was made.
func (c *dbCopy) base(t time.Time) (cp checkpoint, ok bool) {
	cp, ok = c.checkpoints.before(t)
	if at := c.lastTime.Load(); at <= t.UnixNano() && c.index().Applied().LSN >= cp.lsn && (at > 0 || c.index().Applied().LSN == 0) {
		return checkpoint{at: at, lsn: c.index().Durable()}, true
	}
	return cp, ok
}

// keepsPast tells whether the copy will be able to show what is there now.
func (c *dbCopy) keepsPast() bool {
	_, kept := c.checkpoints.before(time.Now())
	return kept || c.lagNow() > 0
}

// openPast begins to make the index as of t. ctx is the life of the copy.
func (c *dbCopy) openPast(t time.Time) (*past, error) {
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
	p := &past{id: hex.EncodeToString(id[:]), c: c, at: t, from: base.lsn, used: time.Now()}
	p.dir = filepath.Join(c.dir, pastName, p.id)
	inside, p.end = context.WithCancel(inside)
	b := &c.k.pasts
	b.mu.Lock()
	full := len(b.open) >= pastsMost
	if !full {
		b.open[p.id] = p // from here on the log is kept
	}
	b.mu.Unlock()
	if full {
		p.end()
		leave()
		return nil, kind.Errorf(kind.Busy, "%s shows %d other moments already; it ends with those who look at them, or after %s", c.k.me, pastsMost, pastIdle)
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
	for ctx.Err() == nil {
		more, err := p.replay(ix)
		if err != nil {
			return fmt.Errorf("replay %s to %s: %w", c.name, p.at.UTC().Format(time.RFC3339), err)
		}
		if !more {
			p.mu.Lock()
			p.ready, p.used = true, time.Now()
			p.mu.Unlock()
			c.k.deps.Events.Emit(evPast, "%s on %s is shown as it was at %s: %d bytes of log were replayed for it", c.name, c.k.me, p.at.UTC().Format(time.RFC3339), p.done)
			return nil
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

// replay applies some records, and tells whether there are more until the moment.
func (p *past) replay(ix *store.Index) (more bool, err error) {
	c := p.c
	at := ix.Applied().LSN
	to := min(c.commitEnd(), c.jn.End().LSN)
	if at >= to {
		return false, nil
	}
	var recs []journal.Record
	n := 0
	now := c.late.now()
	for r, err := range c.jn.Records(max(at, c.jn.Start()), to) {
		if err != nil {
			return false, err
		}
		if r.Next().LSN > to || c.late.madeBy(r, now) > p.at.UnixNano() {
			break
		}
		if recs = append(recs, r); n >= applyStep {
			more = true
			break
		}
		n += len(r.Ops) + journal.HeaderSize
	}
	if len(recs) == 0 {
		return false, nil
	}
	if _, err := ix.Apply(recs); err != nil {
		return false, err
	}
	p.mu.Lock()
	p.done += int64(ix.Applied().LSN - at)
	p.used = time.Now()
	p.mu.Unlock()
	return more, nil
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
		Do       string                `cbor:"1,keyasint"` // reach, open, state, folders, messages, body, close
		ID       string                `cbor:"2,keyasint,omitempty"`
		At       int64                 `cbor:"3,keyasint,omitempty"` // Unix nanoseconds
		Mailbox  org.MailboxID         `cbor:"4,keyasint"`
		Messages *mail.MessagesRequest `cbor:"5,keyasint,omitempty"`
		Body     *mail.BodyRequest     `cbor:"6,keyasint,omitempty"`
	}
	pastAnswer struct {
		ID       string         `cbor:"1,keyasint,omitempty"`
		Ready    bool           `cbor:"2,keyasint,omitempty"`
		Done     int64          `cbor:"3,keyasint,omitempty"`
		Total    int64          `cbor:"4,keyasint,omitempty"`
		Base     int64          `cbor:"5,keyasint,omitempty"` // Unix nanoseconds, of what it is made from
		Folders  []mail.Folder  `cbor:"6,keyasint,omitempty"`
		Messages *mail.Messages `cbor:"7,keyasint,omitempty"`
		Body     []byte         `cbor:"8,keyasint,omitempty"`
		// Keeps tells that the copy goes back whatever is written meanwhile.
		Keeps bool `cbor:"9,keyasint,omitempty"`
	}
)

// opPast is the call of all questions to a past.
func opPast() op[pastRequest, pastAnswer] {
	return op[pastRequest, pastAnswer]{"Past", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, q pastRequest) (a pastAnswer, err error) {
		switch q.Do {
		case "reach":
			base, ok := c.base(time.Unix(0, q.At))
			if !ok {
				return a, c.errNoPast(time.Unix(0, q.At))
			}
			return pastAnswer{Base: max(base.at, 1), Keeps: c.keepsPast()}, nil
		case "open":
			p, err := c.openPast(time.Unix(0, q.At))
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

// Past is a database as it was at a moment, on whichever server can show it.
// It is for one goroutine; Close ends it.
type Past struct {
	k      *Keeper
	db     org.DatabaseName
	id     string
	Server org.ServerName
	At     time.Time
}

// OpenPast shows a database as it was at t, from the copy that has the least to
// replay for that, or from the one on server from where that is given. It waits
// until the log is replayed; progress is told how much of it, in bytes.
// Errors: NotFound where no copy goes back so far.
func (k *Keeper) OpenPast(ctx context.Context, db org.DatabaseName, t time.Time, from org.ServerName, progress func(done, total int64)) (*Past, error) {
	def, ok := k.group.View().Database(db)
	if !ok {
		return nil, k.noDatabase(db)
	}
	best, base := org.ServerName(""), int64(math.MinInt64)
	var last error
	for _, cp := range def.Copies {
		if from != "" && cp.Server != from || !k.heard(cp.Server) {
			continue
		}
		rctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		a, err := callPeer[pastRequest, pastAnswer](rctx, k, cp.Server, "Past", db, pastRequest{Do: "reach", At: t.UnixNano()})
		cancel()
		if err != nil {
			last = err
		} else if a.Base > base {
			best, base = cp.Server, a.Base
		}
	}
	if best == "" {
		if last == nil {
			last = kind.WithHint(kind.Errorf(kind.NotFound, "no copy of %s can be asked", db), "postern copy status "+string(db))
		}
		return nil, last
	}
	a, err := callPeer[pastRequest, pastAnswer](ctx, k, best, "Past", db, pastRequest{Do: "open", At: t.UnixNano()})
	if err != nil {
		return nil, err
	}
	p := &Past{k: k, db: db, id: a.ID, Server: best, At: t}
	for {
		a, err := p.ask(ctx, pastRequest{Do: "state"})
		if err != nil {
			p.Close()
			return nil, err
		}
		if progress != nil {
			progress(a.Done, a.Total)
		}
		if a.Ready {
			return p, nil
		}
		if !sleep(ctx, 100*time.Millisecond) {
			p.Close()
			return nil, ctx.Err()
		}
	}
}

// KeepsPast are the servers whose copies of a database will be able to show what
// is there now: those with a checkpoint, or a replay lag.
func (k *Keeper) KeepsPast(ctx context.Context, db org.DatabaseName) (out []org.ServerName) {
	def, _ := k.group.View().Database(db)
	for _, cp := range def.Copies {
		if !k.heard(cp.Server) {
			continue
		}
		ask, cancel := context.WithTimeout(ctx, 2*time.Second)
		a, err := callPeer[pastRequest, pastAnswer](ask, k, cp.Server, "Past", db, pastRequest{Do: "reach", At: time.Now().UnixNano()})
		cancel()
		if err == nil && a.Keeps {
			out = append(out, cp.Server)
		}
	}
	return out
}

func (p *Past) ask(ctx context.Context, q pastRequest) (pastAnswer, error) {
	q.ID = p.id
	return callPeer[pastRequest, pastAnswer](ctx, p.k, p.Server, "Past", p.db, q)
}

// Close ends it. A server that cannot be told ends it by itself after a while.
func (p *Past) Close() {
	ctx, cancel := context.WithTimeout(p.k.life(), 5*time.Second)
	defer cancel()
	_, _ = p.ask(ctx, pastRequest{Do: "close"}) // else it ends by itself
}

// Folders are the folders of a mailbox as they were.
func (p *Past) Folders(ctx context.Context, id org.MailboxID) ([]mail.Folder, error) {
	a, err := p.ask(ctx, pastRequest{Do: "folders", Mailbox: id})
	return a.Folders, err
}

// Messages is a page of a folder as it was.
func (p *Past) Messages(ctx context.Context, id org.MailboxID, q mail.MessagesRequest) (mail.Messages, error) {
	a, err := p.ask(ctx, pastRequest{Do: "messages", Mailbox: id, Messages: &q})
	if err != nil || a.Messages == nil {
		return mail.Messages{}, err
	}
	return *a.Messages, nil
}

// Body is a whole message; NotFound where its bytes were given back before the
// copy was to keep them.
func (p *Past) Body(ctx context.Context, m mail.Message) ([]byte, error) {
	out := make([]byte, 0, m.Size)
	for int64(len(out)) < m.Size {
		a, err := p.ask(ctx, pastRequest{Do: "body", Body: &mail.BodyRequest{Blob: m.Blob, Offset: int64(len(out))}})
		if err != nil {
			return nil, err
		}
		if len(a.Body) == 0 {
			return nil, kind.Errorf(kind.NotFound, "message content %d is shorter than it was", m.Blob)
		}
		out = append(out, a.Body...)
	}
	return out, nil
}
