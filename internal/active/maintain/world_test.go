package maintain

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/active/plan/plantest"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// world is a group in memory whose servers obey their wishes: they hand queues
// over, leave in-sync sets and give the lead away. It is all rows, so that
// whoever carries a plan out sees the same.
type world struct {
	t     *testing.T
	times Times
	state *plantest.State

	mu       sync.Mutex // guards the rest
	down     map[org.ServerName]bool
	deaf     map[string]bool // "SERVER component" that is not obeyed
	sessions map[org.ServerName]int
	seeding  map[org.DatabaseName][2]org.ServerName // to, from
	behind   map[org.ServerName]bool                // its copies do not catch up
	cancel   map[org.ServerName]context.CancelFunc
	wg       sync.WaitGroup
}

func newWorld(t *testing.T) *world {
	w := &world{t: t, times: Defaults(), state: plantest.New(), down: map[org.ServerName]bool{}, deaf: map[string]bool{}, sessions: map[org.ServerName]int{},
		seeding: map[org.DatabaseName][2]org.ServerName{}, behind: map[org.ServerName]bool{}, cancel: map[org.ServerName]context.CancelFunc{}}
	w.state.Obey(w.obey)
	return w
}

func (w *world) servers(names ...org.ServerName) {
	for _, n := range names {
		name, witness := strings.CutPrefix(string(n), "witness:")
		w.state.Put("servers/"+name, org.Server{Name: org.ServerName(name), Witness: witness, Voter: true})
	}
	w.state.Put(plantest.RoleKey, string(names[0]))
	w.state.Put("leader", string(names[0]))
}

func (w *world) database(name org.DatabaseName, active org.ServerName, copies ...org.ServerName) {
	def := org.Database{Name: name}
	for i, c := range copies {
		def.Copies = append(def.Copies, org.Copy{Server: c, Preference: i + 1})
	}
	w.state.Put("databases/"+string(name), def)
	w.state.Put("mounts/"+string(name), org.Mount{Database: name, Term: 1, Active: active, InSync: copies})
}

// obey does what servers do by themselves; the state is locked.
func (w *world) obey(s *plantest.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v := s.Snapshot()
	ha := func(n org.ServerName) org.ComponentState {
		st, _ := v.Component(n, org.HighAvailability, time.Now())
		return st
	}
	if it, _ := v.Get("leader"); ha(org.ServerName(it.Value)) != org.Active {
		for _, m := range v.Servers() {
			if ha(m.Name) == org.Active && !w.down[m.Name] {
				s.Set("leader", string(m.Name))
				break
			}
		}
	}
	for _, m := range v.Servers() {
		it, _ := v.Get("queue/" + string(m.Name))
		// Of a thousand messages nobody holds a copy.
		if st, _ := v.Component(m.Name, org.Transport, time.Now()); st != org.Active && len(it.Value) > 0 && len(it.Value) < 4 {
			s.Drop("queue/" + string(m.Name))
		}
	}
	for _, mt := range v.Mounts() {
		def, _ := v.Database(mt.Database)
		n := mt
		n.InSync = nil
		for _, c := range def.Copies {
			was := mt.IsInSync(c.Server)
			switch {
			case w.down[c.Server], !was && w.behind[c.Server]:
			case ha(c.Server) == org.Inactive && len(def.Copies) > 2 && mt.Active != c.Server:
			default:
				n.InSync = append(n.InSync, c.Server)
			}
		}
		if !slices.Equal(n.InSync, mt.InSync) {
			s.Set("mounts/"+string(mt.Database), n)
		}
	}
}

func (w *world) set(f func()) {
	w.mu.Lock()
	f()
	w.mu.Unlock()
	w.state.Put("turn", time.Now()) // whoever waits looks again
}

// library is the steps as server me carries them out.
func (w *world) library(me org.ServerName) *Library {
	return &Library{World: &member{w, w.state.Server(me)}, Times: w.times, Now: time.Now}
}

func (w *world) engine(me org.ServerName, tell func(org.Plan, string)) *plan.Engine {
	return plan.New(plan.Deps{Group: w.state.Server(me), RoleKey: plantest.RoleKey, Primary: w.state.Primary, Log: slog.New(slog.DiscardHandler), Tell: tell},
		Kinds(w.library(me))...)
}

func (w *world) run(tell func(org.Plan, string), names ...org.ServerName) {
	for _, n := range names {
		ctx, cancel := context.WithCancel(context.Background())
		w.cancel[n] = cancel
		e := w.engine(n, tell)
		w.wg.Go(func() { _ = e.Run(ctx) }) // it returns nil
	}
}

func (w *world) stop() {
	for _, c := range w.cancel {
		c()
	}
	w.wg.Wait()
}

// member is the world as one server sees it.
type member struct {
	*world
	group *plantest.Server
}

func (m *member) View() *cluster.View { return m.state.View() }
func (m *member) Heard(s org.ServerName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.down[s]
}
func (m *member) Primary() org.ServerName { return m.state.Primary() }
func (m *member) Leader(context.Context) org.ServerName {
	it, _ := m.View().Get("leader")
	return org.ServerName(it.Value)
}

func (m *member) Statuses(s org.ServerName) []org.CopyStatus {
	v := m.View()
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []org.CopyStatus
	for _, def := range v.Databases() {
		if _, ok := def.Copy(s); !ok {
			continue
		}
		st := org.CopyStatus{Database: def.Name, State: org.CopyHealthy}
		if m.behind[s] {
			st.State, st.Generated = "Resynchronizing", 12*org.GenerationSize
		}
		if x := m.seeding[def.Name]; x[0] == s {
			st.State, st.SeedSource = org.CopySeeding, x[1]
		}
		out = append(out, st)
	}
	return out
}

func (m *member) Obeyed(s org.ServerName) (org.ServerComponents, bool) {
	v := m.View()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.down[s] {
		return org.ServerComponents{}, false
	}
	o := org.ServerComponents{Components: map[org.Component]org.ComponentNow{}}
	for _, c := range org.Components() {
		var n org.ComponentNow
		n.Wished, _ = v.Component(s, c, time.Now())
		if !m.deaf[string(s)+" "+string(c)] {
			n.State = n.Wished
		}
		if c == org.IMAPComponent && n.State != org.Inactive {
			n.Left = m.sessions[s]
		}
		o.Components[c] = n
	}
	return o, true
}

func (m *member) Queue(_ context.Context, s org.ServerName) (int64, bool, error) {
	it, _ := m.View().Get("queue/" + string(s))
	n, _ := strconv.ParseInt(string(it.Value), 10, 64)
	st, _ := m.View().Component(s, org.Transport, time.Now())
	return n, st == org.Active, nil
}

func (m *member) Evacuate(_ context.Context, s org.ServerName, why string, holds func() error) error {
	v := m.View()
	for _, mt := range v.Mounts() {
		if mt.Active != s {
			continue
		}
		if err := holds(); err != nil {
			return err
		}
		i := slices.IndexFunc(mt.InSync, func(x org.ServerName) bool {
			st, _ := v.Component(x, org.HighAvailability, time.Now())
			return x != s && st == org.Active
		})
		if i < 0 {
			return fmt.Errorf("%s stays on %s: no copy can be activated", mt.Database, s)
		}
		mt.Active, mt.Term, mt.Why = mt.InSync[i], mt.Term+1, why
		m.state.Put("mounts/"+string(mt.Database), mt)
	}
	return nil
}

func (m *member) Unbalanced() []string {
	var out []string
	v := m.View()
	for _, def := range v.Databases() {
		if mt, _ := v.Mount(def.Name); mt.Active != def.Copies[0].Server && mt.IsInSync(def.Copies[0].Server) {
			out = append(out, string(def.Name))
		}
	}
	return out
}

func (m *member) Balance(context.Context) error {
	v := m.View()
	for _, name := range m.Unbalanced() {
		def, _ := v.Database(org.DatabaseName(name))
		mt, _ := v.Mount(def.Name)
		mt.Active = def.Copies[0].Server
		m.state.Put("mounts/"+name, mt)
	}
	return nil
}

func (m *member) PassRole(ctx context.Context, p *plan.Pen, to org.ServerName, _ string) error {
	return p.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: plantest.RoleKey, Value: []byte(to)}}})
}

// hold makes a requester hold a component back.
func (w *world) hold(s org.ServerName, c org.Component, r org.Requester, why string) {
	w.state.Put(org.ComponentKey(s, c, r), org.ComponentEntry{Component: c, Requester: r, State: org.Inactive, By: "ann", Reason: why})
}

// wishes are the components of a server that maintenance holds back.
func (w *world) wishes(s org.ServerName) []string {
	var out []string
	for _, e := range w.state.View().ComponentEntries(s) {
		if e.Requester == org.Maintenance {
			out = append(out, string(e.Component))
		}
	}
	return out
}
