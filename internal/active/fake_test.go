package active

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// fake is a group in memory with the copies of its servers: a copy that is
// named active mounts at once, unless it is told to fail.
type fake struct {
	tb       testing.TB
	me       org.ServerName
	mu       sync.Mutex // guards the rest
	rows     map[string]cluster.Item
	rev      int64
	view     *cluster.View
	dead     map[org.ServerName]bool
	stuck    map[org.ServerName]org.CopyState // what a copy there reports instead of Mounted
	states   map[org.ServerName]map[org.DatabaseName]org.CopyStatus
	commits  []int         // how many databases each was about
	takes    time.Duration // of a handover
	refuses  map[org.DatabaseName]int
	mute     map[org.ServerName]bool // its word of copies does not come
	said     map[string][]byte       // server/section
	at, max  int                     // handovers under way, and the most at a time
	syncs    int                     // how often a view was asked to be new
	onCommit func()                  // what others do just before the next commit
	onGather func()                  // and while log is gathered
	onSync   func(n int)             // what others do before the n-th time
}

// newFake makes servers MBX01.. and databases DB0001.. with three copies each,
// the first active.
func newFake(tb testing.TB, servers, databases int) *fake {
	f := &fake{tb: tb, me: "MBX02", rows: map[string]cluster.Item{}, dead: map[org.ServerName]bool{}, stuck: map[org.ServerName]org.CopyState{},
		states: map[org.ServerName]map[org.DatabaseName]org.CopyStatus{}, refuses: map[org.DatabaseName]int{}, said: map[string][]byte{}, mute: map[org.ServerName]bool{}}
	for i := range servers {
		s := f.server(i)
		f.states[s] = map[org.DatabaseName]org.CopyStatus{}
		f.put("servers/"+string(s), org.Server{Name: s, Site: "A"})
	}
	for d := range databases {
		def := org.Database{Name: f.db(d)}
		mt := org.Mount{Database: def.Name, Term: 3, Active: f.server(0)}
		for c := range min(3, servers) {
			s := f.server(0)
			if c > 0 {
				s = f.server(1 + (d+(c-1)*(1+d/(servers-1)%max(servers-2, 1)))%(servers-1))
			}
			def.Copies = append(def.Copies, org.Copy{Server: s, Preference: c + 1})
			mt.InSync = append(mt.InSync, s)
			f.states[s][def.Name] = org.CopyStatus{Database: def.Name, Server: s, State: org.CopyHealthy, Copied: 10, Replayed: 10, Generated: 10, Term: 3}
		}
		f.set(f.server(0), def.Name, org.CopyMounted, 3)
		f.put(mailbox.DatabaseKey(def.Name), def)
		f.put(mailbox.MountKey(def.Name), mt)
	}
	return f
}

func (f *fake) server(i int) org.ServerName { return org.ServerName(fmt.Sprintf("MBX%02d", i+1)) }
func (f *fake) db(i int) org.DatabaseName   { return org.DatabaseName(fmt.Sprintf("DB%04d", i+1)) }

func (f *fake) set(s org.ServerName, db org.DatabaseName, st org.CopyState, t org.Term) {
	is := f.states[s][db]
	is.State, is.Term = st, t
	f.states[s][db] = is
}

func (f *fake) put(key string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		f.tb.Fatal(err)
	}
	f.rev++
	f.rows[key], f.view = cluster.Item{Value: b, Revision: f.rev}, nil
}

// drop removes a row.
func (f *fake) drop(key string) {
	f.rev++
	delete(f.rows, key)
	f.view = nil
}

// lose makes a server dead.
func (f *fake) lose(s org.ServerName) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead[s] = true
}

func (f *fake) mount(db org.DatabaseName) org.Mount {
	mt, _ := f.View().Mount(db)
	return mt
}

func (f *fake) manager(cfg Config, d Deps) *Manager {
	d.Group, d.Copies = f, f
	d.Log, d.Events = slog.New(slog.DiscardHandler), event.NewLog(slog.New(slog.DiscardHandler))
	return New(cfg, d)
}

func (f *fake) Commit(_ context.Context, t cluster.Txn) (int64, error) {
	f.mu.Lock()
	others := f.onCommit
	f.onCommit = nil
	f.mu.Unlock()
	if others != nil {
		others()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	mounts := 0
	for _, c := range t.If {
		if strings.HasPrefix(c.Key, "mounts/") {
			mounts++
		}
		if f.rows[c.Key].Revision != c.Revision {
			return 0, kind.Errorf(kind.Conflict, "%s changed", c.Key)
		}
	}
	f.rev++
	f.view = nil
	keys := map[string]bool{}
	for _, o := range t.Then {
		if keys[o.Key] {
			f.tb.Errorf("%s is written twice", o.Key)
		}
		keys[o.Key] = true
		if o.Delete {
			delete(f.rows, o.Key)
			continue
		}
		f.rows[o.Key] = cluster.Item{Value: o.Value, Revision: f.rev}
		if db, ok := strings.CutPrefix(o.Key, "mounts/"); ok {
			f.obey(org.DatabaseName(db), o.Value)
		}
	}
	f.commits = append(f.commits, mounts)
	return f.rev, nil
}

// obey has copies do what the row says. f.mu is held.
func (f *fake) obey(db org.DatabaseName, row []byte) {
	var mt org.Mount
	if err := json.Unmarshal(row, &mt); err != nil {
		f.tb.Error(err)
	}
	for s, all := range f.states {
		if st, ok := all[db]; ok && !f.dead[s] {
			st.State, st.Term = org.CopyHealthy, mt.Term
			if s == mt.Active {
				st.State = org.CopyMounted
				if how, ok := f.stuck[s]; ok {
					st.State = how
				}
			}
			all[db] = st
		}
	}
}

func (f *fake) View() *cluster.View {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.view == nil {
		f.view = cluster.NewView(f.rev, f.rows)
	}
	return f.view
}

func (f *fake) Name() org.ServerName          { return f.me }
func (f *fake) Changed() <-chan struct{}      { return nil }
func (f *fake) PeersChanged() <-chan struct{} { return nil }
func (f *fake) Sync(context.Context) error {
	f.mu.Lock()
	f.syncs++
	n, others := f.syncs, f.onSync
	f.mu.Unlock()
	if others != nil {
		others(n)
	}
	return nil
}
func (f *fake) Quorum() bool { return true }
func (f *fake) Dead(s org.ServerName) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return string(s) + " does not answer", f.dead[s]
}
func (f *fake) Alive(s org.ServerName) bool {
	_, dead := f.Dead(s)
	return !dead
}
func (f *fake) Publish(section string, v []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.said[string(f.me)+"/"+section] = v
}
func (f *fake) Published(s org.ServerName, section string) ([]byte, time.Time, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if section == mailbox.StatusSection {
		return nil, time.Now(), !f.mute[s]
	}
	v, ok := f.said[string(s)+"/"+section]
	return v, time.Time{}, ok
}

func (f *fake) PeerStatuses(s org.ServerName) []org.CopyStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]org.CopyStatus, 0, len(f.states[s]))
	for _, st := range f.states[s] {
		out = append(out, st)
	}
	return out
}

func (f *fake) Handover(_ context.Context, db org.DatabaseName, _, _ org.ServerName) (org.LSN, error) {
	f.mu.Lock()
	f.at++
	f.max = max(f.max, f.at)
	refuse := f.refuses[db] > 0
	f.refuses[db]--
	f.mu.Unlock()
	time.Sleep(f.takes) // of the bubble
	f.mu.Lock()
	defer f.mu.Unlock()
	f.at--
	if refuse {
		return 0, kind.Errorf(kind.Busy, "the target does not come along")
	}
	return 10, nil
}

func (f *fake) Thaw(context.Context, org.DatabaseName, org.ServerName) error { return nil }

func (f *fake) CatchUp(context.Context, org.DatabaseName, org.ServerName) error { return nil }

func (f *fake) Gather(_ context.Context, db org.DatabaseName, to, from org.ServerName) (org.LSN, error) {
	if f.onGather != nil {
		f.onGather()
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	st := f.states[to][db]
	st.Copied = max(st.Copied, f.states[from][db].Copied)
	f.states[to][db] = st
	return st.Copied, nil
}
