package mailbox

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// statusSection is the name under which a server publishes the state of its
// copies to the others.
const statusSection = StatusSection

// StatusSection is the mesh section of what PeerStatuses returns.
const StatusSection = "copies"

// Keeper is the front door of the room: it keeps the copies of this server and
// obeys the group's rows about them.
type Keeper struct {
	cfg     Config
	deps    Deps
	began   time.Time // what is done again and again is done at multiples of its pause since
	group   Group
	me      org.ServerName
	fs      fsx.FS
	cache   *pebble.Cache
	volumes map[org.VolumeName]*volume
	watches watchTable
	report  chan struct{} // buffered
	ops     map[string]method
	seeds   seedSlots
	zip     func() *zipper // made when it is needed first
	leaving leaving
	joints  joints
	pasts   pastBook
	rewinds sync.Map // identities of the runs that bring a database back, while they have a turn
	// impossible counts changes of state that were refused (org.CopyMay).
	impossible atomic.Uint64

	mu     sync.Mutex // guards the rest
	copies map[org.DatabaseName]*running
	epochs map[org.DatabaseName]*mountEpoch
	peers  map[org.ServerName]peerReport
	ctx    context.Context // of Run
}

// running is a copy with the means to end it.
type running struct {
	c      *dbCopy
	cancel context.CancelFunc
	done   chan struct{}
}

// mountEpoch ends when another copy becomes active.
type mountEpoch struct {
	active org.ServerName
	term   org.Term
	ctx    context.Context
	end    context.CancelFunc
}

type peerReport struct {
	raw    []byte
	copies []org.CopyStatus
}

// New builds a Keeper and registers what it serves to other servers. Nothing
// is opened before Run.
func New(cfg Config, d Deps) (*Keeper, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	cfg = cfg.WithDefaults()
	if d.FS == nil {
		d.FS = fsx.OS{}
	}
	if d.IndexFS == nil {
		d.IndexFS = vfs.Default
	}
	k := &Keeper{
		cfg: cfg, deps: d, began: time.Now(), group: d.Group, me: d.Group.Name(), fs: d.FS,
		volumes: map[org.VolumeName]*volume{}, report: make(chan struct{}, 1), ops: copyOps(),
		copies: map[org.DatabaseName]*running{}, epochs: map[org.DatabaseName]*mountEpoch{},
		peers: map[org.ServerName]peerReport{}, ctx: context.Background(),
	}
	for _, v := range cfg.Volumes {
		k.volumes[v.Name] = newVolume(v, d.FS, cfg.Reserve)
	}
	k.pasts.open = map[string]*past{}
	k.seeds = seedSlots{most: cfg.SeedsInParallel, perSource: cfg.SeedsPerSource, taken: map[org.DatabaseName]org.ServerName{}}
	if d.Metrics != nil {
		if err := d.Metrics.Register(collector{k}); err != nil {
			return nil, err
		}
	}
	k.zip = sync.OnceValue(newZipper)
	d.Group.Handle(logProto, k.serveLog)
	d.Group.RegisterService(serviceDesc(), k)
	return k, nil
}

// tillNext is the time until what all copies do with a pause between is done again:
// by all at once, so that an idle server sleeps in between.
func (k *Keeper) tillNext(pause time.Duration) time.Duration {
	return pause - time.Since(k.began)%pause
}

// Client returns the store as callers see it.
func (k *Keeper) Client() *Client { return &Client{k} }

// Run keeps the copies until ctx ends; then it closes them.
func (k *Keeper) Run(ctx context.Context) error {
	k.cache = pebble.NewCache(k.cfg.cacheSize())
	defer k.cache.Unref()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k.mu.Lock()
	k.ctx = ctx
	k.mu.Unlock()
	var wg sync.WaitGroup
	wg.Go(func() { k.reportLoop(ctx) })
	wg.Go(func() { k.followPermission(ctx) })
	wg.Go(func() { k.endTrials(ctx) })
	for _, v := range k.volumes {
		wg.Go(func() { k.watchVolume(ctx, v) })
		wg.Go(func() { k.reclaimVolume(ctx, v) })
	}
	defer wg.Wait()
	for {
		changed := k.group.Changed()
		k.reconcile(ctx, k.group.View())
		select {
		case <-changed:
		case <-ctx.Done():
			k.stopAll()
			return nil
		}
	}
}

// life is the context of work that belongs to the Keeper as a whole.
func (k *Keeper) life() context.Context {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.ctx
}

// mayLead tells whether copies here may lead.
func (k *Keeper) mayLead() (why string, ok bool) {
	if k.deps.Permission == nil {
		return "", true
	}
	return k.deps.Permission.MayLead()
}

// followPermission lets copies look at their role again when the permission to
// lead comes or goes.
func (k *Keeper) followPermission(ctx context.Context) {
	for p := k.deps.Permission; p != nil; {
		changed := p.LeadChanged()
		k.mu.Lock()
		for _, r := range k.copies {
			r.c.poke()
		}
		k.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}

// reconcile starts, informs and stops copies as the view says.
func (k *Keeper) reconcile(ctx context.Context, v *cluster.View) {
	want := map[org.DatabaseName]bool{}
	for _, def := range v.Databases() {
		m, _ := v.Mount(def.Name)
		k.noteEpoch(ctx, def.Name, m)
		mine, ok := def.Copy(k.me)
		if !ok {
			continue
		}
		want[def.Name] = true
		k.mu.Lock()
		r := k.copies[def.Name]
		k.mu.Unlock()
		if r != nil && r.c.identity != def.Identity {
			k.retire(def.Name, r, removedPrefix) // removed and made anew under the same name
			r = nil
		}
		if r != nil && r.c.vol.Name != mine.Volume && k.volumes[mine.Volume] != nil {
			k.retire(def.Name, r, movedPrefix)
			r = nil
		}
		if r == nil {
			r = k.start(ctx, def, mine)
		}
		if r != nil {
			r.c.update(def, m)
		}
	}
	k.mu.Lock()
	var gone []org.DatabaseName
	for name := range k.copies {
		if !want[name] {
			gone = append(gone, name)
		}
	}
	k.mu.Unlock()
	for _, name := range gone {
		k.mu.Lock()
		r := k.copies[name]
		k.mu.Unlock()
		k.retire(name, r, removedPrefix)
	}
}

// noteEpoch keeps the context that calls to the active copy end with.
func (k *Keeper) noteEpoch(ctx context.Context, db org.DatabaseName, m org.Mount) {
	k.mu.Lock()
	defer k.mu.Unlock()
	e := k.epochs[db]
	if e != nil && e.active == m.Active && e.term == m.Term {
		return
	}
	if e != nil {
		e.end()
	}
	e = &mountEpoch{active: m.Active, term: m.Term}
	e.ctx, e.end = context.WithCancel(ctx)
	k.epochs[db] = e
}

// epoch returns a context that ends when server s is no longer active for db.
func (k *Keeper) epoch(db org.DatabaseName, s org.ServerName) context.Context {
	k.mu.Lock()
	defer k.mu.Unlock()
	if e := k.epochs[db]; e != nil && e.active == s {
		return e.ctx
	}
	ended, end := context.WithCancel(k.ctx)
	end()
	return ended
}

func (k *Keeper) start(ctx context.Context, def org.Database, mine org.Copy) *running {
	vol := k.volumes[mine.Volume]
	if vol == nil {
		k.deps.Log.Error("copy names a volume that this server does not have", "database", def.Name, "volume", mine.Volume)
		return nil
	}
	c := newCopy(k, def, vol)
	m, _ := k.group.View().Mount(def.Name)
	c.update(def, m)
	cctx, cancel := context.WithCancel(ctx)
	r := &running{c: c, cancel: cancel, done: make(chan struct{})}
	k.mu.Lock()
	k.copies[def.Name] = r
	k.mu.Unlock()
	go func() {
		defer close(r.done)
		c.run(cctx)
	}()
	return r
}

// What folders that were set aside begin with.
const (
	removedPrefix = ".removed-" // an administrator removed copy or database
	movedPrefix   = ".moved-"   // the copy was given another volume
)

// retirePatience is how long a copy that is to end may take before it is left
// to end by itself: its disk may never answer again.
const retirePatience = 2 * time.Second

// retire stops a copy that is no longer in the definition, or not on this
// volume. Its files are set aside, not deleted: an administrator may have been
// wrong (P42). A copy whose disk hangs is left behind.
func (k *Keeper) retire(name org.DatabaseName, r *running, prefix string) {
	r.cancel()
	k.mu.Lock()
	delete(k.copies, name)
	k.mu.Unlock()
	t := time.NewTimer(retirePatience)
	defer t.Stop()
	select {
	case <-r.done:
	case <-t.C:
		k.deps.Log.Warn("a copy does not end, its disk hangs; it is left behind", "database", name, "volume", r.c.vol.Name)
		return
	}
	if r.c.vol.failure() != nil {
		return
	}
	to := filepath.Join(r.c.vol.Path, fmt.Sprintf("%s%s-%d", prefix, name, time.Now().Unix()))
	if err := moveDurably(k.fs, r.c.dir, to); err != nil && !kind.Is(err, kind.NotFound) {
		k.deps.Log.Warn("set copy aside", "database", name, "err", err)
	}
}

// stopAll ends all copies and waits for those whose disk answers.
func (k *Keeper) stopAll() {
	k.mu.Lock()
	all := slices.Collect(maps.Values(k.copies))
	k.mu.Unlock()
	for _, r := range all {
		r.cancel()
	}
	for _, r := range all {
		for over := false; !over; {
			t := time.NewTimer(retirePatience)
			select {
			case <-r.done:
				over = true
			case <-t.C:
				over = classOf(r.c.vol.failure()) == org.CauseHung
			}
			t.Stop()
		}
	}
}

// copy returns this server's copy of a database, nil when there is none.
func (k *Keeper) copy(db org.DatabaseName) *dbCopy {
	k.mu.Lock()
	defer k.mu.Unlock()
	if r := k.copies[db]; r != nil {
		return r.c
	}
	return nil
}

// reportSoon makes the next report go out at once.
func (k *Keeper) reportSoon() {
	select {
	case k.report <- struct{}{}:
	default:
	}
}

// reportLoop publishes the state of this server's copies to the others.
func (k *Keeper) reportLoop(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		k.group.Publish(statusSection, codec.MustMarshal(k.Statuses()))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-k.report:
		}
	}
}

// Statuses are the states of this server's copies, by database.
func (k *Keeper) Statuses() []org.CopyStatus {
	k.mu.Lock()
	names := slices.Sorted(maps.Keys(k.copies))
	k.mu.Unlock()
	var out []org.CopyStatus
	for _, n := range names {
		if c := k.copy(n); c != nil {
			out = append(out, c.status())
		}
	}
	return out
}

// peerStatus is what another server last said of its copy of a database.
func (k *Keeper) peerStatus(s org.ServerName, db org.DatabaseName) (org.CopyStatus, bool) {
	for _, st := range k.PeerStatuses(s) {
		if st.Database == db {
			return st, true
		}
	}
	return org.CopyStatus{}, false
}

// PeerStatuses is what a server, this one included, last said of its copies.
func (k *Keeper) PeerStatuses(s org.ServerName) []org.CopyStatus {
	raw, _, ok := k.group.Published(s, statusSection)
	if !ok {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if p := k.peers[s]; bytes.Equal(p.raw, raw) {
		return p.copies
	}
	var copies []org.CopyStatus
	if err := codec.Unmarshal(raw, &copies); err != nil {
		k.deps.Log.Warn("report of another server", "server", s, "err", err)
		return nil
	}
	k.peers[s] = peerReport{raw, copies}
	return copies
}

// processGone tells that a server's process is known to have ended: its
// machine answers and nobody listens.
func (k *Keeper) processGone(s org.ServerName) bool {
	return k.peerState(s) == cluster.PeerRefused
}

func (k *Keeper) peerUp(s org.ServerName) bool { return k.peerState(s) == cluster.PeerUp }

func (k *Keeper) peerState(s org.ServerName) cluster.PeerState {
	for _, p := range k.group.Peers() {
		if p.Server == s {
			return p.State
		}
	}
	return ""
}

// Handover asks the active copy of db to stop and hand over to a copy on to.
// Afterwards a mount row of a newer term may name it; Thaw takes it back.
func (k *Keeper) Handover(ctx context.Context, db org.DatabaseName, active, to org.ServerName) (end org.LSN, err error) {
	a, err := callPeer[handoverRequest, handoverAnswer](ctx, k, active, "Handover", db, handoverRequest{To: to})
	return a.End, err
}

// Thaw takes a handover back.
func (k *Keeper) Thaw(ctx context.Context, db org.DatabaseName, active org.ServerName) error {
	_, err := callPeer[none, none](ctx, k, active, "Thaw", db, none{})
	return err
}

// Lead tells whether this server's copy is active and ready for clients, and
// with which in-sync copies it is connected.
func (k *Keeper) Lead(db org.DatabaseName) (ready bool, held string) {
	c := k.copy(db)
	if c == nil {
		return false, ""
	}
	l := c.leader()
	if l == nil {
		return false, ""
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready, l.held
}
