package active

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/active/balance"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// Config are the settings of Active Manager.
type Config struct {
	// BalanceWindow is when databases may go back to their preferred servers by
	// themselves; empty for never.
	BalanceWindow string `toml:"balance_window" doc:"when databases may go back to their preferred servers by themselves, for example Sat,Sun 22:00-04:00 in the server's time; empty: never, only by postern database balance" default:""`
	// PreferenceMoveFrequency is the pause between two looks inside the
	// balance window; negative for never.
	PreferenceMoveFrequency time.Duration `toml:"preference_move_frequency" doc:"pause between two looks, inside balance_window, whether databases should go back to their preferred servers, negative for never" default:"1h"`
	// SitePreference ranks servers of the site of the active copy before others.
	SitePreference string `toml:"site_preference" doc:"source: among copies that are equally fit those in the site of the active copy come first; none: activation preference alone" default:"source"`
	// MoveBackOff is how long after an automatic move that was not forced by
	// a dead server the same database stays where it is.
	MoveBackOff time.Duration `toml:"move_back_off" doc:"how long a database stays after an automatic move that no dead server forced" default:"5m"`
}

func (c Config) withDefaults() Config {
	c.PreferenceMoveFrequency = cmp.Or(c.PreferenceMoveFrequency, time.Hour)
	c.MoveBackOff = cmp.Or(c.MoveBackOff, 5*time.Minute)
	c.SitePreference = cmp.Or(c.SitePreference, siteSource)
	return c
}

// Site preferences.
const (
	siteSource = "source"
	siteNone   = "none"
)

// Validate checks what was configured.
func (c Config) Validate() error {
	if c.SitePreference != "" && c.SitePreference != siteSource && c.SitePreference != siteNone {
		return kind.Errorf(kind.Invalid, "site_preference %q: want source or none", c.SitePreference)
	}
	if c.MoveBackOff < 0 || c.MoveBackOff > 24*time.Hour {
		return kind.Errorf(kind.Invalid, "move_back_off %s: want 0 to 24h", c.MoveBackOff)
	}
	if c.PreferenceMoveFrequency > 31*24*time.Hour {
		return kind.Errorf(kind.Invalid, "preference_move_frequency %s: want at most 744h", c.PreferenceMoveFrequency)
	}
	_, err := balance.ParseWindow(c.BalanceWindow)
	return err
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
	// Gather brings the copy on to the log that the one on from holds beyond it,
	// and returns where the log there ends then.
	Gather(ctx context.Context, db org.DatabaseName, to, from org.ServerName) (org.LSN, error)
	// CatchUp has a copy that replays late replay all it has, and waits for it.
	CatchUp(ctx context.Context, db org.DatabaseName, on org.ServerName) error
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
	// Rewind brings the mailboxes of a database back to a moment; nil: none are here.
	Rewind func(context.Context, mailbox.Rewind) (mailbox.RewindResult, error)
	// Volumes are this server's disks, for AutoReseed; nil: there is none.
	Volumes Volumes
	// Fast shortens the timers of AutoReseed and of plans, for tests.
	Fast bool
	// Health tells the health sets of a server and how old that news is; nil sets
	// where it reported none. nil: every server is healthy.
	Health func(org.ServerName) (sets map[string]org.SetHealth, age time.Duration)
	// Component tells what a component of a server may do; nil: everything.
	Component func(org.ServerName, org.Component) org.ComponentState
	// Recovery is the recovery mode that holds for a health set of this server, or
	// for what belongs to none: dry-run, off, or anything else for act. nil: act.
	Recovery func(set string) string
	// Noted has what was done by itself, beside what is written with the deed,
	// written into the recovery log. It must not wait; nil: nobody listens.
	Noted func(org.Note)
	Plans PlanDeps
	// Sites tell whether this server, and others, may lead; nil: everybody may.
	Sites  *Sites
	Log    *slog.Logger
	Events *event.Log
	// Metrics takes the room's figures, nil for nobody.
	Metrics prometheus.Registerer
}

// Manager is Active Manager on one server.
type Manager struct {
	cfg    Config
	deps   Deps
	group  Group
	copies Copies
	me     org.ServerName
	said   *journal
	works  *works

	window  balance.Window
	watch   *watch
	figures *figures
	pulse   pulse // of the primary, owned by the loop

	beside    sync.WaitGroup // what the loop started and does not wait for
	balancing sync.Mutex     // held while databases go back to where they should be

	mu       sync.Mutex // guards the rest
	balanced time.Time  // when preferences were last looked at
	storm    storm
}

// New builds a Manager; nothing runs before Run.
func New(cfg Config, d Deps) *Manager {
	window, _ := balance.ParseWindow(cfg.BalanceWindow) // Validate told of what is wrong; then it is never open
	m := &Manager{
		cfg: cfg.withDefaults(), deps: d, group: d.Group, copies: d.Copies, me: d.Group.Name(),
		said: newJournal(d.Group, d.Log), window: window, watch: newWatch(), figures: newFigures(d.Metrics), storm: storm{lost: map[org.ServerName]lostServer{}},
	}
	m.works = newWorks(m)
	return m
}

// mayLead tells whether this server may decide anything.
func (m *Manager) mayLead() (why string, ok bool) {
	if m.deps.Sites == nil {
		return "", true
	}
	return m.deps.Sites.MayLead()
}

// turnPause is how often the loop looks when nothing calls it sooner.
const turnPause = 250 * time.Millisecond

// Run plays the standby or primary role until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	defer m.beside.Wait()
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
	m.noteLost(m.group.View(), time.Now())
	m.feelPulse(time.Now())
	if why, ok := m.mayLead(); !ok {
		m.said.say("role", "%s does nothing: %s", m.me, why)
		return
	}
	row, rev := m.primary()
	if row.Server == m.me && m.handOnRole(ctx) {
		return
	}
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
