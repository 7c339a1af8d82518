package active

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/reseed"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// Volumes is what AutoReseed needs of the mailbox room; *mailbox.Keeper is one.
type Volumes interface {
	// Volumes are this server's volumes as it finds them.
	Volumes() []mailbox.VolumeStatus
	// CheckSpare says what keeps a volume from taking copies of need bytes.
	CheckSpare(ctx context.Context, v org.VolumeName, need int64) ([]string, error)
}

// reseeder runs AutoReseed for the volumes of this server. Every server runs
// its own: what it decides, it decides by changes of rows, each of them
// together with the row of the work and its entry of the recovery log.
type reseeder struct {
	m     *Manager
	disks Volumes
	t     reseed.Times
	pause time.Duration
	seen  map[org.DatabaseName]progress // touched by Run only
	would map[org.VolumeName]rehearsal  // likewise
}

// rehearsal is how far AutoReseed of a volume would be, in dry-run mode.
type rehearsal struct {
	row  org.Reseed
	said string // what was last written down, without numbers
}

// setVolume is the health set whose recovery mode holds for AutoReseed.
const setVolume = "Volume"

// progress is when a copy last came forward.
type progress struct {
	copied org.LSN
	done   int64
	state  org.CopyState
	at     time.Time
}

func newReseeder(m *Manager, v Volumes, fast bool) *reseeder {
	r := &reseeder{m: m, disks: v, t: reseed.Default(), pause: 10 * time.Second, seen: map[org.DatabaseName]progress{},
		would: map[org.VolumeName]rehearsal{}}
	if fast {
		r.t, r.pause = reseed.Fast(), 500*time.Millisecond
	}
	return r
}

// run looks at the volumes until ctx ends.
func (r *reseeder) run(ctx context.Context) {
	tick := time.NewTicker(r.pause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		r.turn(ctx)
	}
}

// workRow is a row of AutoReseed with its revision.
type workRow struct {
	org.Reseed
	rev int64
}

// turn looks at each volume once.
func (r *reseeder) turn(ctx context.Context) {
	v := r.m.group.View()
	if me, ok := v.Server(r.m.me); !ok || me.Witness || !r.m.group.Quorum() {
		return
	}
	r.watchProgress()
	works := r.works(v)
	dry := r.m.recoveryMode(setVolume) == recoveryDryRun
	if !dry {
		clear(r.would)
	}
	for _, st := range r.disks.Volumes() {
		if !st.Looked || ctx.Err() != nil {
			continue
		}
		row, ok := works[st.Volume]
		if !ok {
			row.Server, row.Volume = r.m.me, st.Volume
		}
		if dry {
			r.rehearse(ctx, v, works, row.Reseed, st)
			continue
		}
		f := r.facts(ctx, v, works, row.Reseed, st)
		next, step := reseed.Next(f, row.Reseed, r.t, time.Now().UTC())
		if err := r.carryOut(ctx, v, f, row, next, step); err != nil && ctx.Err() == nil {
			r.m.said.say("reseed "+string(st.Volume), "AutoReseed of %s: %s not done: %v", st.Volume, step.Do, err)
		}
		v = r.m.group.View()
	}
}

// works are the rows of AutoReseed of this server, by volume.
func (r *reseeder) works(v *cluster.View) map[org.VolumeName]workRow {
	out := map[org.VolumeName]workRow{}
	for key := range v.Prefix(org.ReseedKey(r.m.me, "")) {
		it, _ := v.Get(key)
		row, err := org.ParseReseed(it.Value)
		if err != nil {
			r.m.deps.Log.Error("row of AutoReseed", "key", key, "err", err)
			continue
		}
		out[row.Volume] = workRow{row, it.Revision}
	}
	return out
}

// underWay tells whether work on a volume has begun and not ended.
func underWay(s org.ReseedStage) bool { return s != org.ReseedIdle && s != org.ReseedDone }

// watchProgress notes which copies of this server came forward.
func (r *reseeder) watchProgress() {
	now := time.Now()
	seen := map[org.DatabaseName]progress{}
	for _, st := range r.m.copies.PeerStatuses(r.m.me) {
		p := r.seen[st.Database]
		if p.at.IsZero() || p.copied != st.Copied || p.done != st.SeedDone || p.state != st.State || waits(st) {
			p = progress{st.Copied, st.SeedDone, st.State, now}
		}
		seen[st.Database] = p
	}
	r.seen = seen
}

// waits tells whether a seed waits for others.
func waits(st org.CopyStatus) bool { return st.State == org.CopySeeding && st.SeedTotal == 0 }

// facts gathers what a decision about one volume may look at.
func (r *reseeder) facts(ctx context.Context, v *cluster.View, works map[org.VolumeName]workRow, row org.Reseed, st mailbox.VolumeStatus) reseed.Facts {
	f := reseed.Facts{Volume: r.volume(v, st), Held: r.held(v), Off: r.off(v)}
	f.Current = f.Volume
	if row.Spare != "" && underWay(row.Stage) {
		for _, other := range r.disks.Volumes() {
			if other.Volume == row.Spare {
				f.Current = r.volume(v, other)
			}
		}
	}
	others := map[org.DatabaseName]bool{}
	for name, w := range works {
		if name == row.Volume || !underWay(w.Stage) {
			continue
		}
		for _, db := range w.Databases {
			others[db] = true
		}
	}
	for _, def := range v.Databases() {
		mine, ok := def.Copy(r.m.me)
		if !ok {
			continue
		}
		c := r.copyFact(v, def, mine)
		if c.State == org.CopyFailedAndSuspended {
			f.Failed++
		}
		c.Here = mine.Volume == f.Current.Name
		inWork := underWay(row.Stage) && slices.Contains(row.Databases, def.Name)
		if (c.Here || inWork) && !others[def.Name] {
			f.Copies = append(f.Copies, c)
		}
	}
	if row.Stage == org.ReseedSpare || row.Stage == org.ReseedBlocked {
		f.Spares = r.spares(ctx, v, f.Copies)
	}
	return f
}

func (r *reseeder) volume(v *cluster.View, st mailbox.VolumeStatus) reseed.Volume {
	row, _ := volumeRow(v, r.m.me, st.Volume)
	return reseed.Volume{Name: st.Volume, Cause: st.Cause, Why: st.Why, Calm: st.Calm, Failures: row.Failures(time.Now().Add(-volumeMemory))}
}

// volumeMemory is how long a failure of a volume counts, and two of them
// retire it.
const volumeMemory = 7 * 24 * time.Hour

// volumeRow is a volume's row with its revision; the zero row where the server
// that wrote it is not this member.
func volumeRow(v *cluster.View, s org.ServerName, name org.VolumeName) (org.VolumeRow, int64) {
	it, ok := v.Get(org.VolumeKey(s, name))
	if !ok {
		return org.VolumeRow{}, 0
	}
	row, err := org.ParseVolume(it.Value)
	srv, _ := v.Server(s)
	if err != nil || row.Member != srv.Identity {
		return org.VolumeRow{}, it.Revision
	}
	return row, it.Revision
}

func (r *reseeder) copyFact(v *cluster.View, def org.Database, mine org.Copy) reseed.Copy {
	mt, _ := v.Mount(def.Name)
	c := reseed.Copy{Database: def.Name, State: org.CopyInitializing, Active: mt.Active == r.m.me, InSync: mt.IsInSync(r.m.me),
		ByAdmin: mine.Suspended && mine.SuspendedBy == "", BySystem: mine.Suspended && mine.SuspendedBy != "", NoAuto: mine.NoAutoReseed}
	if st, ok := r.m.status(r.m.me, def.Name); ok && (st.Volume == "" || st.Volume == mine.Volume) {
		c.State, c.Cause, c.Reason = st.State, st.Cause, st.Reason
		if st.Since != 0 {
			c.For = time.Since(time.Unix(0, st.Since))
		}
		if p := r.seen[def.Name]; !p.at.IsZero() && st.State != org.CopyHealthy {
			c.Idle = time.Since(p.at)
		}
	}
	for _, s := range r.sources(v, def, mt) {
		if s.Healthy {
			c.Sources++
		}
	}
	return c
}

// sources are the other copies of a database, as sources of a seed.
func (r *reseeder) sources(v *cluster.View, def org.Database, mt org.Mount) []reseed.Source {
	me, _ := v.Server(r.m.me)
	var out []reseed.Source
	for _, cp := range def.Copies {
		if cp.Server == r.m.me {
			continue
		}
		srv, _ := v.Server(cp.Server)
		_, dead := r.m.group.Dead(cp.Server)
		st, ok := r.m.status(cp.Server, def.Name)
		out = append(out, reseed.Source{Server: cp.Server, Active: mt.Active == cp.Server, SameSite: srv.Site == me.Site,
			Healthy: ok && !dead && r.m.group.Alive(cp.Server) && mt.IsInSync(cp.Server) && (st.State == org.CopyHealthy || st.State == org.CopyMounted)})
	}
	return out
}

// held says why no seed may begin on this server.
func (r *reseeder) held(v *cluster.View) string {
	if s := r.component(v, org.HighAvailability); s != org.Active {
		return "high availability of this server is " + string(s)
	}
	return ""
}

// off says why AutoReseed is not to act.
func (r *reseeder) off(v *cluster.View) string {
	if s := r.component(v, org.RecoveryActions); s != org.Active {
		return "recovery actions of this server are " + string(s)
	}
	if r.m.recoveryMode(setVolume) == recoveryOff {
		return "recovery is off"
	}
	return ""
}

// rehearse decides as in earnest, from where the work would be if nothing but
// time had passed, and writes down the deed that would be done. It goes no further
// than the first deed: what comes after depends on it.
func (r *reseeder) rehearse(ctx context.Context, v *cluster.View, works map[org.VolumeName]workRow, row org.Reseed, st mailbox.VolumeStatus) {
	was, begun := r.would[st.Volume]
	if !begun {
		was.row = row
	}
	f := r.facts(ctx, v, works, was.row, st)
	now := time.Now().UTC()
	next, step := reseed.Next(f, was.row, r.t, now)
	if step.Do == reseed.Nothing {
		was.row = next
		r.would[st.Volume] = was
		return
	}
	said := digitless(string(step.Do) + step.Say)
	if said == was.said {
		return
	}
	t := &change{v: v, me: r.m.me, now: now}
	t.record(next, step, true)
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := r.m.group.Commit(ctx, t.txn); err != nil {
		return // said at the next turn
	}
	was.said = said
	r.would[st.Volume] = was
	r.m.said.say("reseed "+string(st.Volume), "AutoReseed of %s would: %s: %s", st.Volume, step.Do, step.Say)
}

func (r *reseeder) component(v *cluster.View, c org.Component) org.ComponentState {
	rows := func(yield func(string, []byte) bool) {
		for key := range v.Prefix(org.ComponentPrefix(r.m.me)) {
			it, _ := v.Get(key)
			if !yield(key, it.Value) {
				return
			}
		}
	}
	s, _ := org.Combine(org.ComponentEntries(rows), c, time.Now())
	return s
}

// spares are the spare volumes of this server, judged for the copies.
func (r *reseeder) spares(ctx context.Context, v *cluster.View, copies []reseed.Copy) []reseed.Spare {
	var need int64
	for _, c := range copies {
		need += r.diskUsed(v, c.Database)
	}
	var out []reseed.Spare
	for _, st := range r.disks.Volumes() {
		row, _ := volumeRow(v, r.m.me, st.Volume)
		if row.State != org.VolumeSpare {
			continue
		}
		s := reseed.Spare{Name: st.Volume, Size: st.Size, Problem: st.Why}
		if s.Problem == "" && row.Trial != "" {
			s.Problem = "what drill " + row.Trial + " left is being removed"
		}
		if st.Cause == "" && row.Trial == "" {
			problems, err := r.disks.CheckSpare(ctx, st.Volume, need)
			switch {
			case err != nil:
				s.Problem = err.Error()
			case len(problems) > 0:
				s.Problem = problems[0]
			}
		}
		out = append(out, s)
	}
	return out
}

// diskUsed is what a copy of a database takes, by the largest there is.
func (r *reseeder) diskUsed(v *cluster.View, db org.DatabaseName) int64 {
	def, _ := v.Database(db)
	var n int64
	for _, c := range def.Copies {
		if st, ok := r.m.status(c.Server, db); ok {
			n = max(n, st.DiskUsed)
		}
	}
	return n
}

// carryOut commits a decision: the row of the work, what is to be changed, and
// the entry of the recovery log, all or nothing.
func (r *reseeder) carryOut(ctx context.Context, v *cluster.View, f reseed.Facts, was workRow, next org.Reseed, step reseed.Step) error {
	if step.Do == reseed.Nothing && same(was.Reseed, next) {
		return nil
	}
	t := &change{v: v, me: r.m.me, now: time.Now().UTC()}
	if err := r.deed(t, f, &next, step); err != nil {
		return err
	}
	if underWay(was.Stage) || next.Stage != org.ReseedIdle {
		t.put(org.ReseedKey(r.m.me, next.Volume), was.rev, next)
	}
	if step.Do != reseed.Nothing {
		t.record(next, step, false)
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err := r.m.group.Commit(ctx, t.txn)
	if err != nil {
		if kind.Is(err, kind.Conflict) {
			return nil // somebody changed what was looked at: it is looked at again
		}
		return err
	}
	r.tell(was.Reseed, next, step)
	return nil
}

func same(a, b org.Reseed) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

// tell says what was done.
func (r *reseeder) tell(was, next org.Reseed, step reseed.Step) {
	if step.Say == "" {
		return
	}
	r.m.said.say("reseed "+string(next.Volume), "AutoReseed of %s: %s: %s", next.Volume, next.Stage, step.Say)
	switch {
	case step.Do == reseed.Assign:
		r.m.deps.Events.Emit(evSpare, "volume %s of %s takes the place of %s: %s", step.Spare, r.m.me, next.Volume, step.Say)
	case step.Do == reseed.Completed:
		r.m.deps.Events.Emit(evReseedDone, "AutoReseed of volume %s of %s is done: %s", next.Volume, r.m.me, step.Say)
	case step.Do == reseed.Alert:
		r.m.deps.Events.Emit(evReseedBlocked, "AutoReseed of volume %s of %s needs help (%s): %s", next.Volume, r.m.me, next.Stage, step.Say)
	case was.Stage != next.Stage || step.Do != reseed.Nothing:
		r.m.deps.Events.Emit(evReseed, "AutoReseed of volume %s of %s: %s: %s", next.Volume, r.m.me, next.Stage, step.Say)
	}
}
