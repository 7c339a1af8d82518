package active

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/active/choose"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// Config are the settings of Active Manager.
type Config struct {
	// PreferenceMoveFrequency is the pause between two looks whether
	// databases should go back to their preferred servers; negative for never.
	PreferenceMoveFrequency time.Duration `toml:"preference_move_frequency" doc:"pause between two looks whether databases should go back to their preferred servers, negative for never" default:"1h"`
	// MoveBackOff is how long after an automatic move that was not forced by
	// a dead server the same database stays where it is.
	MoveBackOff time.Duration `toml:"move_back_off" doc:"how long a database stays after an automatic move that no dead server forced" default:"5m"`
}

func (c Config) withDefaults() Config {
	c.PreferenceMoveFrequency = cmp.Or(c.PreferenceMoveFrequency, time.Hour)
	c.MoveBackOff = cmp.Or(c.MoveBackOff, 5*time.Minute)
	return c
}

// Group is what Active Manager needs of the group; *cluster.Cluster is one.
type Group interface {
	Name() org.ServerName
	View() *cluster.View
	Changed() <-chan struct{}
	PeersChanged() <-chan struct{}
	Commit(context.Context, cluster.Txn) (int64, error)
	Sync(context.Context) error
	Quorum() bool
	Dead(org.ServerName) (string, bool)
	Alive(org.ServerName) bool
	Publish(section string, v []byte)
	Published(s org.ServerName, section string) ([]byte, time.Time, bool)
}

// Copies is what Active Manager needs of the mailbox room; *mailbox.Keeper is one.
type Copies interface {
	PeerStatuses(org.ServerName) []org.CopyStatus
	Handover(ctx context.Context, db org.DatabaseName, active, to org.ServerName) (org.LSN, error)
	Thaw(ctx context.Context, db org.DatabaseName, active org.ServerName) error
}

// Deps are what a Manager is built from.
type Deps struct {
	Group  Group
	Copies Copies
	// SafetyNet makes the request that asks for what a lossy mount of db may
	// lack: mail delivered from since on, zero where that is not known. The
	// row is written together with that of the mount. nil: nobody is asked.
	SafetyNet func(db org.DatabaseName, since time.Time, why string) (id string, op cluster.Op)
	// Completed tells whether such a request was answered in full; nil: never.
	Completed func(id string) bool
	// Volumes are this server's disks, for AutoReseed; nil: there is none.
	Volumes Volumes
	// Fast shortens the timers of AutoReseed, for tests.
	Fast   bool
	Log    *slog.Logger
	Events *event.Log
}

// Manager is Active Manager on one server.
type Manager struct {
	cfg    Config
	deps   Deps
	group  Group
	copies Copies
	me     org.ServerName
	said   *journal

	balancing sync.Mutex // held while databases go back to where they should be

	mu       sync.Mutex // guards the rest
	moved    map[org.DatabaseName]time.Time
	balanced time.Time // when preferences were last looked at
}

// New builds a Manager; nothing runs before Run.
func New(cfg Config, d Deps) *Manager {
	return &Manager{
		cfg: cfg.withDefaults(), deps: d, group: d.Group, copies: d.Copies, me: d.Group.Name(),
		said: newJournal(d.Group, d.Log), moved: map[org.DatabaseName]time.Time{},
	}
}

// primaryKey holds who has the primary role.
const primaryKey = "active/primary"

// primary is the row of the primary role.
type primary struct {
	Server org.ServerName `json:"server"`
	Since  time.Time      `json:"since"`
	Why    string         `json:"why"`
}

// turnPause is how often the loop looks when nothing calls it sooner.
const turnPause = 250 * time.Millisecond

// Run plays the standby or primary role until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	tick := time.NewTicker(turnPause)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	if m.deps.Volumes != nil {
		wg.Go(func() { newReseeder(m, m.deps.Volumes, m.deps.Fast).run(ctx) })
	}
	for {
		changed, peers := m.group.Changed(), m.group.PeersChanged()
		m.turn(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-peers:
		case <-tick.C:
		}
	}
}

// turn is one turn of the loop.
func (m *Manager) turn(ctx context.Context) {
	row, rev := m.primary()
	if row.Server != m.me {
		why, stand := m.mayTake(row)
		if !stand {
			return
		}
		if err := m.take(ctx, rev, why); err != nil {
			if !kind.Is(err, kind.Conflict) {
				m.said.say("role", "%s could not take the primary role: %v", m.me, err)
			}
			return
		}
	}
	m.decide(ctx)
}

// primary returns the row of the role and its revision.
func (m *Manager) primary() (primary, int64) {
	it, ok := m.group.View().Get(primaryKey)
	if !ok {
		return primary{}, 0
	}
	var row primary
	if err := json.Unmarshal(it.Value, &row); err != nil {
		m.deps.Log.Error("row of the primary role", "err", err)
	}
	return row, it.Revision
}

// Primary tells which server has the primary role.
func (m *Manager) Primary() org.ServerName {
	row, _ := m.primary()
	return row.Server
}

// mayTake tells whether this standby should take the role: its holder is
// gone, and this is the first by name of the members that live.
func (m *Manager) mayTake(row primary) (string, bool) {
	v := m.group.View()
	me, ok := v.Server(m.me)
	if !ok || me.Witness {
		return "", false
	}
	why := "nobody had it"
	if row.Server != "" {
		if _, member := v.Server(row.Server); member {
			w, dead := m.group.Dead(row.Server)
			if !dead && m.group.Alive(row.Server) {
				return "", false
			}
			why = cmp.Or(w, string(row.Server)+" no longer renews its lease")
		} else {
			why = string(row.Server) + " is no longer a member"
		}
	}
	for _, s := range v.Servers() {
		if s.Witness || s.Name >= m.me || s.Name == row.Server {
			continue
		}
		if _, dead := m.group.Dead(s.Name); !dead && m.group.Alive(s.Name) {
			return "", false
		}
	}
	return why, true
}

func (m *Manager) take(ctx context.Context, rev int64, why string) error {
	b, err := json.Marshal(primary{Server: m.me, Since: time.Now().UTC(), Why: why})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err = m.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: primaryKey, Revision: rev}}, Then: []cluster.Op{{Key: primaryKey, Value: b}}})
	if err == nil {
		m.said.say("role", "%s has the primary role: %s", m.me, why)
		m.deps.Events.Emit(evPrimary, "%s has the primary role: %s", m.me, why)
	}
	return err
}

// decide looks at every database once, all of them at the same time: one that
// waits for its disk must not hold up the others.
func (m *Manager) decide(ctx context.Context) {
	v := m.group.View()
	var wg sync.WaitGroup
	calm := 0
	for _, def := range v.Databases() {
		mt, ok := v.Mount(def.Name)
		if !ok {
			continue
		}
		why := m.needsMount(v, def, mt)
		if why == "" {
			m.settleLossy(ctx, mt)
			calm++
			continue
		}
		wg.Go(func() { m.failover(ctx, v, def, mt, why) })
	}
	wg.Wait()
	if n := len(v.Databases()); n > 0 && calm == n {
		m.said.say("calm", "no action: %d databases are active where they should be", n)
	}
	m.rebalanceSometimes(ctx, v)
}

// needsMount says why a database needs another active copy, empty when it
// does not.
func (m *Manager) needsMount(v *cluster.View, def org.Database, mt org.Mount) string {
	if mt.Active == "" {
		if def.Dismounted {
			return ""
		}
		return "it is not mounted"
	}
	if _, ok := v.Server(mt.Active); !ok {
		return string(mt.Active) + " is no longer a member"
	}
	if why, dead := m.group.Dead(mt.Active); dead {
		return why
	}
	if st, ok := m.status(mt.Active, def.Name); ok && st.Term == mt.Term &&
		(st.State == org.CopyFailed || st.State == org.CopyFailedAndSuspended) {
		return fmt.Sprintf("the copy on %s is %s: %s", mt.Active, st.State, st.Reason)
	}
	return ""
}

func (m *Manager) status(s org.ServerName, db org.DatabaseName) (org.CopyStatus, bool) {
	for _, st := range m.copies.PeerStatuses(s) {
		if st.Database == db {
			return st, true
		}
	}
	return org.CopyStatus{}, false
}

// question gathers what a decision may look at.
func (m *Manager) question(v *cluster.View, def org.Database, mt org.Mount, p choose.Purpose) choose.Question {
	q := choose.Question{Database: def.Name, Purpose: p, Source: mt.Active}
	if s, ok := v.Server(mt.Active); ok {
		q.Site = s.Site
	}
	q.SourceFenced = mt.Active == "" || !m.group.Alive(mt.Active)
	now := map[org.ServerName]int{}
	for _, other := range v.Mounts() {
		now[other.Active]++
	}
	var newest org.LSN
	for _, c := range def.Copies {
		if st, ok := m.status(c.Server, def.Name); ok {
			newest = max(newest, st.Generated, st.Copied)
		}
	}
	for _, c := range def.Copies {
		s, member := v.Server(c.Server)
		_, dead := m.group.Dead(c.Server)
		st, known := m.status(c.Server, def.Name)
		cand := choose.Candidate{
			Server: c.Server, Site: s.Site, Preference: c.Preference, InSync: mt.IsInSync(c.Server),
			Reachable: member && !dead && m.group.Alive(c.Server), Policy: s.ActivationPolicy,
			ActiveNow: now[c.Server], MaximumActive: s.MaximumActive, MaximumPreferred: s.MaximumPreferredActive,
			Dial: s.AutoDatabaseMountDial, State: org.CopyInitializing,
		}
		if known {
			cand.State, cand.ReplayQueue = st.State, st.ReplayQueueLength()
			cand.Missing = org.Generations(st.Copied, newest)
		}
		switch {
		case c.Suspended && !cand.InSync:
			cand.Blocked = "it is suspended"
		case c.ActivationSuspended:
			cand.Blocked = "activation of this copy is suspended: " + c.SuspendComment
		}
		q.Candidates = append(q.Candidates, cand)
	}
	return q
}

// failover makes another copy active after the active one is gone.
func (m *Manager) failover(ctx context.Context, v *cluster.View, def org.Database, mt org.Mount, why string) {
	q := m.question(v, def, mt, choose.Failover)
	if mt.Active == "" {
		q.Source = "" // nobody is to be passed over for having been active
	}
	d := choose.Choose(q)
	if d.Target == "" {
		m.said.say(string(def.Name), "%s: %s; %s", def.Name, why, d)
		return
	}
	began := time.Now()
	if err := m.swap(ctx, mt, d, why, false, m.keepInSync(mt, d)); err != nil {
		m.said.say(string(def.Name), "%s: %s; %s; not done: %v", def.Name, why, d, err)
		return
	}
	m.said.say(string(def.Name), "%s: %s; %s; decided in %s", def.Name, why, d, time.Since(began).Round(time.Millisecond))
	m.deps.Events.Emit(evFailover, "%s fails over from %s to %s: %s", def.Name, cmp.Or(mt.Active, "nobody"), d.Target, why)
}

// keepInSync is the in-sync set of the next term: of the old one, the servers that live.
// A lossy mount begins with its target alone, as nothing is known of the rest.
func (m *Manager) keepInSync(mt org.Mount, d choose.Decision) []org.ServerName {
	if d.Lossy {
		return []org.ServerName{d.Target}
	}
	return slices.DeleteFunc(slices.Clone(mt.InSync), func(s org.ServerName) bool {
		_, dead := m.group.Dead(s)
		return s != d.Target && (dead || s == mt.Active)
	})
}

// swap writes the mount row of the next term, if the row is still mt.
func (m *Manager) swap(ctx context.Context, mt org.Mount, d choose.Decision, why string, handed bool, inSync []org.ServerName) error {
	n := mt
	n.Term, n.Active, n.InSync = mt.Term+1, d.Target, inSync
	n.Handed, n.Since, n.Why = handed, time.Now().UTC(), why
	var ask []cluster.Op
	if d.Lossy {
		n.AloneSince = nil
		n.Lossy, ask = m.lossy(mt, d.Target)
	} else if len(inSync) > 1 {
		n.AloneSince = nil
	}
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	key := mailbox.MountKey(mt.Database)
	_, err = m.group.Commit(ctx, cluster.Txn{
		If:   []cluster.Cond{{Key: key, Revision: mt.Revision}},
		Then: append([]cluster.Op{{Key: key, Value: b}}, ask...),
	})
	return err
}

func (m *Manager) mayMoveAgain(db org.DatabaseName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return time.Since(m.moved[db]) >= m.cfg.MoveBackOff
}

func (m *Manager) noteMove(db org.DatabaseName) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.moved[db] = time.Now()
}
