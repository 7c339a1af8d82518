package drill

import (
	"context"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/active/maintain"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// turning is a world in which others change something right after the n-th look.
type turning struct {
	*world
	n      int
	others func()
}

func (w *turning) View() *cluster.View {
	v := w.world.View()
	if w.n--; w.n == 0 {
		w.others()
	}
	return v
}

// TestSpareTakenMeanwhile: AutoReseed takes or condemns the spare of a drill, or
// moves its copy, at any moment between looks and the write: its word stands.
func TestSpareTakenMeanwhile(t *testing.T) {
	o := Order{Database: "DB01", Server: "MBX3", Volume: "Vol1", Spare: "Vol2"}
	key := org.VolumeKey(o.Server, o.Spare)
	takes := func(st org.VolumeState) func(*lab) {
		return func(l *lab) {
			l.st.Put(key, org.VolumeRow{Server: o.Server, Volume: o.Spare, State: st, Why: "AutoReseed"})
		}
	}
	on := func(vol org.VolumeName) func(*lab) {
		return func(l *lab) {
			def, _ := l.st.View().Database(o.Database)
			def.Copies = append([]org.Copy(nil), def.Copies...)
			def.Copies[2].Volume = vol
			l.st.Put("databases/DB01", def)
		}
	}
	for _, c := range []struct {
		name   string
		home   bool // the copy is on the spare, or was, and the spare is set free
		before org.VolumeName
		change func(*lab)
	}{
		{"the spare is taken", false, "Vol1", takes(org.VolumeData)},
		{"the spare is condemned", false, "Vol1", takes(org.VolumeSuspect)},
		{"the copy goes elsewhere", false, "Vol1", on("Vol3")},
		{"the spare in use is taken", true, "Vol2", takes(org.VolumeData)},
		{"the spare in use is condemned", true, "Vol2", takes(org.VolumeSuspect)},
		{"the copy goes from the spare", true, "Vol2", on("Vol3")},
		{"the copy goes back to the spare", true, "Vol1", on("Vol2")},
	} {
		for n := 1; ; n++ {
			l := newLab(t)
			l.st.Put(key, org.VolumeRow{Server: o.Server, Volume: o.Spare, State: org.VolumeSpare})
			if c.home {
				l.st.Put(key, org.VolumeRow{Server: o.Server, Volume: o.Spare, State: org.VolumeData, Trial: "d1"})
			}
			on(c.before)(l)
			w := &turning{world: &world{Server: l.st.Server("MBX2"), past: l.past, id: l.id, slow: &l.slow, stuck: &l.stuck}, n: n}
			var rev int64
			w.others = func() { c.change(l); rev = l.st.View().Revision() }
			k := Kind{World: w, Library: &maintain.Library{World: w, Times: l.times, Now: time.Now}}
			do := k.toSpare
			if c.home {
				do = k.goHome
			}
			err := do(t.Context(), func(ctx context.Context, txn cluster.Txn) error {
				_, err := w.Commit(ctx, txn)
				return err
			}, o, "d1")
			if w.n > 0 {
				break // so often nobody looks
			}
			if !kind.Is(err, kind.Conflict) || l.st.View().Revision() != rev {
				t.Errorf("%s, after look %d: %v; written over: %v", c.name, n, err, l.st.View().Revision() != rev)
			}
		}
	}
}
