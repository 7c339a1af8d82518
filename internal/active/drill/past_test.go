package drill

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/active/plan/plantest"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// past is a health mailbox in memory that remembers what was there at each
// change, and the other rooms of a world.
type past struct {
	Store // not used here

	mu      sync.Mutex // guards the rest
	now     content
	was     []moment
	spoil   func(*held) bool // what becomes of a message that is recovered: false for lost
	refused error            // of a recovery
}

type held struct {
	msg  mail.Message
	body []byte
}

type content map[string][]held // by folder

type moment struct {
	at   time.Time
	what content
}

func newPast() *past {
	return &past{now: content{"INBOX": nil}, spoil: func(*held) bool { return true }}
}

// change changes the mailbox and keeps what was there before.
func (p *past) change(f func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := content{}
	for name, list := range p.now {
		old[name] = slices.Clone(list)
	}
	p.was = append(p.was, moment{time.Now(), old})
	return f()
}

func (p *past) Mail() Mail { return p }

func (p *past) HealthMailbox(_ context.Context, db org.DatabaseName) (org.MailboxRef, error) {
	return org.MailboxRef{Database: db}, nil
}

func (p *past) Verify(context.Context, org.DatabaseName, org.ServerName) (string, error) {
	return "identical", nil
}

func (p *past) Folders(context.Context, org.MailboxRef) (out []mail.Folder, _ error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for name := range p.now {
		out = append(out, mail.Folder{Name: name})
	}
	slices.SortFunc(out, func(a, b mail.Folder) int { return strings.Compare(a.Name, b.Name) })
	for i := range out {
		out[i].ID = mail.FolderID(i + 1)
	}
	return out, nil
}

func (p *past) ChangeFolder(_ context.Context, _ org.MailboxRef, r mail.FolderChange) (mail.Folder, error) {
	return mail.Folder{Name: r.Name}, p.change(func() error {
		if _, ok := p.now[r.Name]; ok == (r.Op == "create") {
			return kind.Errorf(map[bool]kind.Kind{true: kind.Exists, false: kind.NotFound}[ok], "%s %s", r.Op, r.Name)
		}
		if delete(p.now, r.Name); r.Op == "create" {
			p.now[r.Name] = nil
		}
		return nil
	})
}

func (p *past) Append(_ context.Context, _ org.MailboxRef, r mail.Append) (mail.Appended, error) {
	return mail.Appended{}, p.change(func() error {
		p.now[r.Folder] = append(p.now[r.Folder], held{mail.Message{Flags: r.Flags, Keywords: r.Keywords, Size: int64(len(r.Body)), InternalDate: r.InternalDate}, r.Body})
		return nil
	})
}

func (p *past) Messages(ctx context.Context, at org.MailboxRef, r mail.MessagesRequest) (out mail.Messages, err error) {
	folders, _ := p.Folders(ctx, at) // it never fails
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, h := range p.now[folders[r.Folder-1].Name] {
		h.msg.Blob = mail.BlobID(int(r.Folder)*1000 + i)
		out.Messages = append(out.Messages, h.msg)
	}
	return out, nil
}

func (p *past) Body(ctx context.Context, at org.MailboxRef, r mail.BodyRequest) ([]byte, error) {
	folders, _ := p.Folders(ctx, at) // it never fails
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.now[folders[r.Blob/1000-1].Name][r.Blob%1000].body[r.Offset:]
	return b[:min(len(b), 100<<10)], nil // in parts, as the store does
}

// Recover puts back what was in the folder at the moment.
func (p *past) Recover(_ context.Context, r mailbox.Recovery) (out []mailbox.Recovered, err error) {
	if p.refused != nil {
		return nil, p.refused
	}
	return out, p.change(func() error {
		i := slices.IndexFunc(p.was, func(m moment) bool { return m.at.After(r.At) })
		if i < 0 {
			return kind.Errorf(kind.NotFound, "nothing changed since")
		}
		for _, h := range p.was[i].what[r.Folder] {
			if slices.ContainsFunc(p.now[r.Folder], func(x held) bool { return string(x.body) == string(h.body) }) {
				continue
			}
			if p.spoil(&h) {
				p.now[r.Folder] = append(p.now[r.Folder], h)
				out = append(out, mailbox.Recovered{Server: "MBX3"})
			}
		}
		return nil
	})
}

// obeyVolumes has servers do what rows about volumes ask: a copy comes into sync
// on its volume after a while, and a spare is emptied.
func (l *lab) obeyVolumes() {
	all := []org.ServerName{"MBX1", "MBX2", "MBX3"}
	key := org.VolumeKey("MBX3", "Vol2")
	l.st.Put(key, org.VolumeRow{Server: "MBX3", Volume: "Vol2", State: org.VolumeSpare})
	var busy atomic.Bool
	l.st.Obey(func(s *plantest.State) {
		v := s.Snapshot()
		mt, _ := v.Mount("DB01")
		it, _ := v.Get(key)
		row, err := org.ParseVolume(it.Value)
		if err != nil || busy.Load() || mt.IsInSync("MBX3") && (row.Trial == "" || row.State != org.VolumeSpare) {
			return
		}
		busy.Store(true)
		time.AfterFunc(5*time.Second, func() {
			if mt, _ := l.st.View().Mount("DB01"); !mt.IsInSync("MBX3") {
				mt.InSync = all
				l.st.Put("mounts/DB01", mt)
			}
			it, _ := l.st.View().Get(key)
			if row, err := org.ParseVolume(it.Value); err == nil && row.State == org.VolumeSpare {
				row.Trial = ""
				l.st.Put(key, row)
			}
			busy.Store(false)
			l.st.Put("nudge", "")
		})
	})
}

// clean fails where a drill left something behind.
func (l *lab) clean(when string) {
	l.t.Helper()
	v := l.st.View()
	for _, prefix := range []string{restoredPrefix, verifiedPrefix} {
		for key := range v.Prefix(prefix) {
			l.t.Errorf("%s: %s is left", when, key)
		}
	}
	l.past.mu.Lock()
	defer l.past.mu.Unlock()
	if len(l.past.now) != 1 {
		l.t.Errorf("%s: the health mailbox has %d folders", when, len(l.past.now))
	}
	def, _ := v.Database("DB01")
	if c, _ := def.Copy("MBX3"); c.Volume != "Vol1" {
		l.t.Errorf("%s: the copy is on %s", when, c.Volume)
	}
	if it, ok := v.Get(org.VolumeKey("MBX3", "Vol2")); ok {
		if row, err := org.ParseVolume(it.Value); err != nil || row.State != org.VolumeSpare {
			l.t.Errorf("%s: the spare is %+v (%v)", when, row, err)
		}
	}
	if it, ok := v.Get(cluster.NetworkKey("Replication01")); ok {
		var n org.Network
		if err := json.Unmarshal(it.Value, &n); err != nil || n.Ignore {
			l.t.Errorf("%s: the network is %+v (%v)", when, n, err)
		}
	}
}

// TestRestore destroys mail and recovers it: all of it, not all of it, otherwise
// than it was, and not at all.
func TestRestore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.times = maintain.Fast()
		l.run("MBX2")
		defer l.end()
		o := Order{Exercise: Restore, Database: "DB01", Allowed: time.Second}
		p, r := l.drill(o)
		if p.State != org.PlanDone || !r.Passed || len(r.Restored) != 1 || !strings.Contains(r.Verdict, "5 messages (") || !strings.Contains(r.Verdict, "copy on MBX3") {
			t.Fatalf("%s (%s): %+v", p.State, p.Held, r)
		}
		if x := r.Restored[0]; x.Digest != x.Found || x.Missing+x.Different != 0 || !x.Destroyed.After(x.At) || x.Bytes < 300<<10 {
			t.Errorf("%+v", x)
		}
		l.clean("all came back")
		for _, c := range []struct {
			name string
			do   func()
			want string
		}{
			{"one is lost", func() { n := 0; l.past.spoil = func(*held) bool { n++; return n != 2 } }, "of 5 messages recovered in DB01 1 are missing and 0"},
			{"one is another", func() { l.past.spoil = func(h *held) bool { h.msg.Flags |= mail.Draft; return true } }, "5 are missing and 5 are not as they were"},
			{"no copy shows it", func() { l.past.refused = kind.Errorf(kind.NotFound, "no copy shows it") }, "recover it: not within 2m0s"},
		} {
			c.do()
			p, r := l.drill(o)
			if p.State != org.PlanUndone || r.Passed || !strings.Contains(r.Verdict, c.want) || len(r.Restored) != 1 {
				t.Errorf("%s: %s (%s): %s", c.name, p.State, p.Held, r.Verdict)
			}
			l.clean(c.name)
		}
	})
}

// TestSpare has a copy made anew on a spare and go home; one that does not come
// into sync there goes home too, and what is needed is not touched.
func TestSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.times = maintain.Fast()
		l.obeyVolumes()
		l.run("MBX2")
		defer l.end()
		o := Order{Exercise: ReseedSpare, Database: "DB01", Server: "MBX3", Volume: "Vol1", Spare: "Vol2"}
		p, r := l.drill(o)
		if p.State != org.PlanDone || !r.Passed || len(r.Steps) != 6 || r.Steps[3].Detail != "identical" {
			t.Errorf("%s (%s): %+v", p.State, p.Held, r)
		}
		l.clean("on the spare and back")
		// It comes into sync nowhere.
		l.st.Obey(func(*plantest.State) {})
		if p, r = l.drill(o); p.State != org.PlanUndone || r.Passed || len(r.Behind) != 1 {
			t.Errorf("%s (%s): %+v", p.State, p.Held, r)
		}
		l.clean("never in sync on the spare")
	})
}

// TestStray leaves a copy on the spare while it is needed there, though the drill
// has ended, and has it go home later; a volume that got other copies stays theirs.
func TestStray(t *testing.T) {
	for _, taken := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t)
			l.times = maintain.Fast()
			l.obeyVolumes()
			short := org.Mount{Database: "DB01", Active: "MBX1", InSync: []org.ServerName{"MBX1", "MBX3"}}
			l.st.Obey(func(s *plantest.State) {
				v := s.Snapshot()
				def, _ := v.Database("DB01")
				c, _ := def.Copy("MBX3")
				if mt, _ := v.Mount("DB01"); c.Volume == "Vol2" && !mt.IsInSync("MBX3") {
					s.Set("mounts/DB01", short) // MBX2 falls out of sync
				}
			})
			l.run("MBX2")
			defer l.end()
			p, _ := l.drill(Order{Exercise: ReseedSpare, Database: "DB01", Server: "MBX3", Volume: "Vol1", Spare: "Vol2"})
			ended := func(id string) bool { return id == p.ID }
			rows := Strays(l.st.View(), "MBX3", ended)
			if p.State != org.PlanFailed || len(rows) != 1 || len(Strays(l.st.View(), "MBX3", func(string) bool { return false })) != 0 {
				t.Fatalf("%s (%s): %+v", p.State, p.Held, rows)
			}
			_, k := l.member("MBX3")
			home := func() error {
				return k.Home(t.Context(), func(ctx context.Context, txn cluster.Txn) error {
					_, err := l.st.Server("MBX3").Commit(ctx, txn)
					return err
				}, rows[0])
			}
			if err := home(); !kind.Is(err, kind.Conflict) {
				t.Errorf("it is needed: %v", err)
			}
			if taken {
				l.st.Put("databases/DB02", org.Database{Name: "DB02", Copies: []org.Copy{{Server: "MBX3", Volume: "Vol2"}}})
			}
			l.st.Obey(func(*plantest.State) {})
			l.st.Put("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX1", InSync: []org.ServerName{"MBX1", "MBX2", "MBX3"}})
			if err := home(); err != nil {
				t.Error(err)
			}
			if left := Strays(l.st.View(), "MBX3", ended); len(left) > 0 {
				t.Errorf("not home: %+v", left)
			}
			it, _ := l.st.View().Get(org.VolumeKey("MBX3", "Vol2"))
			row, err := org.ParseVolume(it.Value)
			def, _ := l.st.View().Database("DB01")
			if c, _ := def.Copy("MBX3"); err != nil || c.Volume != "Vol1" || taken != (row.State == org.VolumeData) || taken != (row.Trial == "") {
				t.Errorf("taken %v: on %s, %+v, %v", taken, c.Volume, row, err)
			}
		})
	}
}

// TestNetwork does without a network for a while, and where a copy needs it all
// the same it is given back.
func TestNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.times = maintain.Fast()
		l.st.Put(cluster.NetworkKey("Replication01"), org.Network{Name: "Replication01", Replication: true})
		l.run("MBX2")
		defer l.end()
		o := Order{Exercise: Network, Network: "Replication01"}
		p, r := l.drill(o)
		if took := p.Steps[3].Ended.Sub(p.Steps[3].Begun); p.State != org.PlanDone || !r.Passed || took < withoutFor {
			t.Errorf("%s (%s), %s without it: %+v", p.State, p.Held, took, r)
		}
		l.clean("without it and back")
		once := false
		l.st.Obey(func(s *plantest.State) {
			it, _ := s.Snapshot().Get(cluster.NetworkKey("Replication01"))
			if strings.Contains(string(it.Value), `"ignore":true`) && !once {
				once = true
				s.Set("mounts/DB01", org.Mount{Database: "DB01", Active: "MBX1", InSync: []org.ServerName{"MBX1", "MBX2"}})
			}
		})
		if p, r = l.drill(o); p.State != org.PlanUndone || r.Passed || len(r.Behind) != 1 {
			t.Errorf("%s (%s): %+v", p.State, p.Held, r)
		}
		l.clean("a copy fell behind")
	})
}

// TestEquip is what exercises use, and why there may be nothing.
func TestEquip(t *testing.T) {
	client, one, two := Way{"Client", org.RoleClient, true, "Up"}, Way{"Replication01", org.RoleReplication, true, "Up"}, Way{"Replication02", org.RoleReplication, false, "Down"}
	for _, c := range []struct {
		o    Order
		m    Means
		got  string
		want string
	}{
		{Order{Exercise: Move}, Means{}, "", ""},
		{Order{Exercise: Restore, Database: "DB01"}, Means{}, "", "no copy of DB01 will show what is there now"},
		{Order{Exercise: Restore}, Means{Past: []org.ServerName{"MBX3"}}, "", ""},
		{Order{Exercise: ReseedSpare, Server: "MBX3"}, Means{}, "", "MBX3 has no spare volume"},
		{Order{Exercise: ReseedSpare, Server: "MBX3"}, Means{Spares: []Spare{{"Vol2", "it is too small"}}}, "", "Vol2 of MBX3 cannot be used: it is too small"},
		{Order{Exercise: ReseedSpare}, Means{Volume: "Vol1", Spares: []Spare{{"Vol2", "it is too small"}, {"Vol3", ""}}}, "Vol1Vol3", ""},
		{Order{Exercise: Network}, Means{Networks: []Way{client}}, "", "log needs another network to go by, and 1 work"},
		{Order{Exercise: Network}, Means{Networks: []Way{client, two}}, "", "and 1 work"},
		{Order{Exercise: Network}, Means{Networks: []Way{client, one, two}}, "Replication01", ""},
		{Order{Exercise: Network, Network: "Client"}, Means{Networks: []Way{client, one}}, "Client", "the network of the clients, the last resort"},
		{Order{Exercise: Network, Network: "Replication02"}, Means{Networks: []Way{client, one, two}}, "Replication02", "Replication02 is Down"},
		{Order{Exercise: Network, Network: "Other"}, Means{Networks: []Way{client, one}}, "Other", "there is no network Other"},
	} {
		o, no := Equip(c.o, c.m)
		if said := strings.Join(no, "; "); !strings.Contains(said, c.want) || c.want == "" && said != "" || string(o.Volume)+string(o.Spare)+o.Network != c.got {
			t.Errorf("%+v with %+v: %q, %+v", c.o, c.m, said, o)
		}
	}
	// Without a copy in sync there is nothing to make anew.
	f := group()
	f.Databases[0].InSync = f.Databases[0].InSync[:1]
	if _, err := Complete(f, Order{Exercise: ReseedSpare, Database: "DB01"}); !kind.Is(err, kind.Conflict) {
		t.Errorf("a reseed without another copy: %v", err)
	}
	if o, err := Complete(group(), Order{Exercise: Restore, Database: "DB01"}); err != nil || o.Server != "MBX1" || len(o.Meters) != 2 || len(Judge(group(), o, nil)) > 0 {
		t.Errorf("%+v: %v", o, err)
	}
	f = group()
	f.Databases[0].InSync = f.Databases[0].InSync[:2]
	o, err := Complete(f, Order{Exercise: ReseedSpare, Database: "DB01"})
	if no := strings.Join(Judge(f, o, nil), "; "); err != nil || !strings.Contains(no, "DB01 is in sync on 2 servers, a drill wants 3") {
		t.Errorf("%+v: %v, %s", o, err, no)
	}
	if o, err := Complete(group(), Order{Exercise: Network}); err != nil || len(o.Databases) != 2 || len(o.Meters) != 2 || len(Judge(group(), o, nil)) > 0 {
		t.Errorf("%+v: %v", o, err)
	}
	var none maintain.Facts
	if _, err := Complete(none, Order{Exercise: Restore, Database: "DB01"}); !kind.Is(err, kind.NotFound) {
		t.Errorf("no such database: %v", err)
	}
}
