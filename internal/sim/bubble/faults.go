package bubble

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// play lets the schedule happen and returns when its last fault has begun and
// the time is over.
func (w *world) play() {
	begin := time.Now()
	for _, f := range w.plan.Faults {
		if !rest(w.ctx, time.Until(begin.Add(f.At))) {
			return
		}
		w.note("%s", f)
		w.faults.Go(func() { w.happen(f) })
	}
	rest(w.ctx, time.Until(begin.Add(w.plan.Length)))
}

// lasts waits as long as a fault does; false: everything is being mended.
func (w *world) lasts(f Fault) bool {
	return rest(w.faulty, f.For)
}

// happen does a fault, and undoes it when its time is over.
func (w *world) happen(f Fault) {
	s := w.servers[f.A]
	w.stir()
	defer w.stir()
	switch f.Kind {
	case "kill", "power":
		w.down(f, s)
	case "all down":
		for _, s := range w.order {
			s.kill(true)
		}
		w.lasts(f)
		for _, s := range w.order {
			w.up(s)
		}
	case "restart":
		s.stop()
		w.lasts(f)
		w.up(s)
	case "cut", "one-way cut", "isolate":
		w.cut(f)
	case "slow link":
		w.links.change(func() { w.links.slow[way{f.A, f.B}], w.links.slow[way{f.B, f.A}] = f.Size, f.Size })
		w.lasts(f)
		w.links.change(func() { delete(w.links.slow, way{f.A, f.B}); delete(w.links.slow, way{f.B, f.A}) })
	case "freeze":
		w.links.change(func() { w.links.hosts[f.A].frozen++ })
		w.lasts(f)
		w.links.change(func() { w.links.hosts[f.A].frozen = max(0, w.links.hosts[f.A].frozen-1) })
		if p := w.links.answers(f.A); p != nil {
			p.group.heldUp(time.Now())
		}
	case "late view":
		w.setLate(f.A, f.Size)
		w.lasts(f)
		w.setLate(f.A, 0)
	case "slow disk", "hung disk", "full disk", "failing disk":
		w.harm(f, s.disk)
	case "wiped disk":
		w.replace(s)
	case "maintenance":
		w.maintain(f)
	case "sick":
		w.sicken(f, s)
	default:
		w.operate(f)
	}
}

func (w *world) up(s *server) {
	if err := s.start(); err != nil {
		w.violate("%s does not start: %v", s.name, err)
	}
}

// down kills a server, or takes its power.
func (w *world) down(f Fault, s *server) {
	power := f.Kind == "power"
	if power {
		w.links.change(func() { w.links.hosts[f.A].dark++ })
	}
	s.kill(power)
	w.lasts(f)
	if power {
		w.links.change(func() { w.links.hosts[f.A].dark = max(0, w.links.hosts[f.A].dark-1) })
	}
	w.up(s)
}

func (w *world) cut(f Fault) {
	var ways []way
	switch f.Kind {
	case "cut":
		ways = []way{{f.A, f.B}, {f.B, f.A}}
	case "one-way cut":
		ways = []way{{f.A, f.B}}
	default:
		for _, o := range w.order {
			if o.name != f.A {
				ways = append(ways, way{f.A, o.name}, way{o.name, f.A})
			}
		}
	}
	for _, x := range ways {
		w.links.hold(x.from, x.to, 1)
	}
	w.lasts(f)
	for _, x := range ways {
		w.links.hold(x.from, x.to, -1)
	}
}

func (w *world) setLate(s org.ServerName, d time.Duration) {
	if p := w.links.running(s); p != nil {
		p.group.mu.Lock()
		p.group.late = d
		p.group.mu.Unlock()
	}
}

// harm makes a disk slow, hang, full or fail.
func (w *world) harm(f Fault, d *disk) {
	switch f.Kind {
	case "slow disk":
		d.set(func(d *disk) { d.slow = f.Size })
	case "hung disk":
		d.set(func(d *disk) {
			if d.hung == nil {
				d.hung = make(chan struct{})
			}
		})
	case "full disk":
		d.fill()
	case "failing disk":
		cause := []error{syscall.EIO, syscall.EROFS}[w.rnd.intN(2)]
		w.mu.Lock()
		young := w.wiped && time.Since(w.wipedAt) < wipeKnown
		w.mu.Unlock()
		if young { // two disks at once: with two copies that is all there is
			w.note("  not done: a disk was lost a moment ago")
			return
		}
		d.set(func(d *disk) { d.bad = cause })
		return
	}
	w.lasts(f)
	switch f.Kind {
	case "slow disk":
		d.set(func(d *disk) { d.slow = 0 })
	case "hung disk":
		d.set((*disk).release)
	case "full disk":
		d.set(func(d *disk) { d.fs.SetLimit(diskSize) })
	}
}

// wipeKnown is how long after a disk was lost the group may count on it still.
const wipeKnown = 5 * time.Second

// replace kills a server and gives it an empty disk, where the copies on it
// are not the only ones that are in sync on a disk that works: no promise covers
// that loss.
func (w *world) replace(s *server) {
	w.mu.Lock()
	again := w.wiped
	w.wiped, w.wipedAt = true, time.Now()
	w.mu.Unlock()
	if again {
		w.note("  not done: a disk was replaced before")
		return
	}
	for i := range w.plan.Databases {
		m := w.agreed.mount(databaseName(i))
		others := slices.DeleteFunc(slices.Clone(m.InSync), func(o org.ServerName) bool { return o == s.name || w.servers[o].disk.fails() })
		if m.IsInSync(s.name) && len(others) == 0 || m.Lossy != nil {
			w.note("  not done: %s has the only copy of %s", s.name, m.Database)
			return
		}
	}
	s.kill(true)
	if err := s.disk.wipe(); err != nil {
		w.violate("wipe the disk of %s: %v", s.name, err)
	}
	rest(w.faulty, w.rnd.between(0, 3*time.Second))
	w.up(s)
}

// operate is an administrator's command, given at a server that answers.
func (w *world) operate(f Fault) {
	switch f.Kind {
	case "move":
		w.give("database move", fmt.Sprintf(`{"database":%q,"to":%q}`, f.DB, f.B), f.A)
	case "evacuate":
		w.give("server evacuate", fmt.Sprintf(`{"server":%q}`, f.A), f.A)
	case "balance":
		w.give("database balance", `{"deviation":-1}`, f.A)
	case "dismount":
		w.give("database dismount", fmt.Sprintf(`{"database":%q}`, f.DB), f.A)
		w.lasts(f)
		w.give("database mount", fmt.Sprintf(`{"database":%q}`, f.DB), f.A)
	case "suspend", "suspend activation":
		w.give("copy suspend", fmt.Sprintf(`{"database":%q,"server":%q,"activation_only":%v}`, f.DB, f.A, f.Kind != "suspend"), f.A)
		w.lasts(f)
		w.give("copy resume", fmt.Sprintf(`{"database":%q,"server":%q}`, f.DB, f.A), f.A)
	}
}

// give gives a command at a server.
func (w *world) give(name, params string, at org.ServerName) {
	p := w.links.answers(at)
	if p == nil {
		return
	}
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	if _, err := p.command(ctx, name, params); err != nil {
		w.note("  %s %s: %v", name, params, err)
	}
}
