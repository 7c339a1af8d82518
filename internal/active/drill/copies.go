package drill

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// commit writes a transaction: of a plan its pen does.
type commit func(context.Context, cluster.Txn) error

// leave changes a copy that leaves the in-sync set in the same transaction, as
// for an administrator's order: a copy must not lose what it has while others
// count on it. more is written with it. v is the view that was decided in.
func leave(ctx context.Context, v *cluster.View, commit commit, o Order, s org.ServerName, more cluster.Txn, edit func(*org.Copy)) error {
	def, _ := v.Database(o.Database)
	mt, _ := v.Mount(o.Database)
	i := slices.IndexFunc(def.Copies, func(c org.Copy) bool { return c.Server == s })
	switch {
	case i < 0:
		return kind.Errorf(kind.Conflict, "%s has no copy on %s any more", o.Database, s)
	case mt.Active == s || mt.IsInSync(s) && len(mt.InSync) < 3:
		return kind.Errorf(kind.Conflict, "%s is active on %s and in sync on %d servers: its copy on %s is needed", o.Database, mt.Active, len(mt.InSync), s)
	}
	def.Copies = slices.Clone(def.Copies)
	edit(&def.Copies[i])
	mt.InSync = slices.DeleteFunc(slices.Clone(mt.InSync), func(x org.ServerName) bool { return x == s })
	db, err := json.Marshal(def)
	if err != nil {
		return err
	}
	row, err := json.Marshal(mt)
	if err != nil {
		return err
	}
	dbKey, mountKey := mailbox.DatabaseKey(o.Database), mailbox.MountKey(o.Database)
	return commit(ctx, cluster.Txn{If: append(more.If, cluster.Cond{Key: dbKey, Revision: v.DatabaseRevision(o.Database)}, cluster.Cond{Key: mountKey, Revision: mt.Revision}),
		Then: append(more.Then, cluster.Op{Key: dbKey, Value: db}, cluster.Op{Key: mountKey, Value: row})})
}

// copyIn is a copy as it is in v.
func copyIn(v *cluster.View, db org.DatabaseName, s org.ServerName) org.Copy {
	def, _ := v.Database(db)
	c, _ := def.Copy(s)
	return c
}

// copyOf is a copy, what its server says of it, and whether it is in sync.
func (k Kind) copyOf(db org.DatabaseName, s org.ServerName) (c org.Copy, st org.CopyStatus, inSync bool) {
	v := k.Library.World.View()
	mt, _ := v.Mount(db)
	c = copyIn(v, db, s)
	for _, x := range k.Library.World.Statuses(s) {
		if x.Database == db {
			st = x
		}
	}
	return c, st, mt.IsInSync(s)
}

// reseed empties a copy that is in sync and waits until it is whole again. It is
// not undone: a copy that is being seeded goes on.
func (k Kind) reseed(o Order, s org.PlanStep) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			c, st, inSync := k.copyOf(o.Database, s.Server)
			if c.SeedCount < o.Seed {
				return plan.Finding{Wait: "for the seed to be ordered"}
			}
			return plan.Finding{Done: st.SeedCount >= o.Seed && inSync, Note: fmt.Sprintf("%s is emptied and made anew", o.Database),
				Wait: fmt.Sprintf("for %s on %s to be in sync again", o.Database, s.Server)}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			v := k.Library.World.View()
			if copyIn(v, o.Database, s.Server).SeedCount >= o.Seed {
				return nil // ordered already
			}
			return leave(ctx, v, pen.Commit, o, s.Server, cluster.Txn{}, func(c *org.Copy) { c.SeedCount = o.Seed })
		}}
}

// spareRow is the row of the spare in v, and its revision.
func spareRow(v *cluster.View, o Order) (org.VolumeRow, int64) {
	it, ok := v.Get(org.VolumeKey(o.Server, o.Spare))
	if !ok {
		return org.VolumeRow{}, 0
	}
	row, err := org.ParseVolume(it.Value)
	if err != nil {
		return org.VolumeRow{}, it.Revision
	}
	return row, it.Revision
}

// spareTxn is the change of the spare's row, if it is still what it was in v.
func (k Kind) spareTxn(v *cluster.View, o Order, edit func(*org.VolumeRow)) (t cluster.Txn, err error) {
	row, rev := spareRow(v, o)
	edit(&row)
	row.Since = k.Library.Now().UTC()
	b, err := json.Marshal(row)
	key := org.VolumeKey(o.Server, o.Spare)
	return cluster.Txn{If: []cluster.Cond{{Key: key, Revision: rev}}, Then: []cluster.Op{{Key: key, Value: b}}}, err
}

// onSpare gives a copy the spare volume, where it is made anew, as AutoReseed
// does when a disk is lost. What is on the old volume is set aside whole, and
// taken up again when the copy comes back.
func (k Kind) onSpare(o Order, s org.PlanStep) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			c, st, inSync := k.copyOf(o.Database, s.Server)
			if c.Volume != o.Spare {
				return plan.Finding{Wait: fmt.Sprintf("for %s to be given to %s", o.Spare, o.Database)}
			}
			f := plan.Finding{Done: inSync && st.Volume == o.Spare && st.State == org.CopyHealthy,
				Wait: fmt.Sprintf("for %s on %s of %s to be in sync, it is %s", o.Database, o.Spare, s.Server, st.State)}
			if f.Done {
				f.Note = fmt.Sprintf("%s is made anew on %s, its log goes to %d", o.Database, o.Spare, st.Copied)
			}
			return f
		},
		Do:   func(ctx context.Context, pen *plan.Pen) error { return k.toSpare(ctx, pen.Commit, o, pen.Plan.ID) },
		Undo: func(ctx context.Context, pen *plan.Pen) error { return k.goHome(ctx, pen.Commit, o, pen.Plan.ID) }}
}

// toSpare gives a copy the spare volume, where it is not there already. It looks
// once: AutoReseed may take or condemn the spare any moment.
func (k Kind) toSpare(ctx context.Context, commit commit, o Order, drill string) error {
	v := k.Library.World.View()
	c := copyIn(v, o.Database, o.Server)
	row, _ := spareRow(v, o)
	switch {
	case c.Volume == o.Spare:
		return nil // ordered already
	case c.Volume != o.Volume:
		return kind.Errorf(kind.Conflict, "%s on %s is on %s, it was on %s", o.Database, o.Server, c.Volume, o.Volume)
	case row.State != org.VolumeSpare:
		return kind.Errorf(kind.Conflict, "%s of %s is no spare any more", o.Spare, o.Server)
	}
	def, _ := v.Database(o.Database)
	t, err := k.spareTxn(v, o, func(r *org.VolumeRow) {
		r.State, r.Trial, r.Why = org.VolumeData, drill, "drill "+drill
		r.TrialOf = org.VolumeTrial{Database: o.Database, Identity: def.Identity, Home: o.Volume, Begun: k.Library.Now().UTC()}
	})
	if err != nil {
		return err
	}
	return leave(ctx, v, commit, o, o.Server, t, func(c *org.Copy) { c.Volume = o.Spare })
}

// goHome gives a copy its own volume back, and the spare what it was for. The
// server empties the spare then. A volume that others put copies on meanwhile
// stays theirs.
func (k Kind) goHome(ctx context.Context, commit commit, o Order, drill string) error {
	v := k.Library.World.View()
	c := copyIn(v, o.Database, o.Server)
	row, _ := spareRow(v, o)
	if row.Trial != drill || row.State != org.VolumeData {
		return nil // never ordered, home already, or somebody else decides about it
	}
	mt, _ := v.Mount(o.Database)
	if c.Volume == o.Spare && mt.Active == o.Server {
		// It failed over to this copy meanwhile.
		if err := k.World.MoveTo(ctx, o.Database, o.Active[o.Database], "a drill"); err != nil {
			return err
		}
		return kind.Errorf(kind.Busy, "%s was active on %s, it has moved", o.Database, o.Server)
	}
	others := slices.ContainsFunc(v.Databases(), func(def org.Database) bool {
		x, _ := def.Copy(o.Server)
		return def.Name != o.Database && x.Volume == o.Spare
	})
	t, err := k.spareTxn(v, o, func(r *org.VolumeRow) {
		r.State, r.Why = org.VolumeSpare, ""
		if others {
			r.Take()
			r.State, r.Why = org.VolumeData, "it holds other copies since drill "+drill
		}
	})
	if err != nil {
		return err
	}
	if c.Volume != o.Spare {
		t.If = append(t.If, cluster.Cond{Key: mailbox.DatabaseKey(o.Database), Revision: v.DatabaseRevision(o.Database)})
		return commit(ctx, t)
	}
	return leave(ctx, v, commit, o, o.Server, t, func(c *org.Copy) { c.Volume = o.Volume })
}

// Strays are the copies of a server that are on a spare though their drill has
// ended: it could not take them home, as they were needed. ended tells of a drill.
func Strays(v *cluster.View, s org.ServerName, ended func(id string) bool) (out []org.VolumeRow) {
	for _, it := range v.Prefix(org.VolumePrefix + string(s) + "/") {
		row, err := org.ParseVolume(it.Value)
		if err == nil && row.State == org.VolumeData && row.Trial != "" && row.TrialOf.Home != "" && ended(row.Trial) {
			out = append(out, row)
		}
	}
	return out
}

// Home takes such a copy home. The error is Conflict while it is needed where it is.
func (k Kind) Home(ctx context.Context, write func(context.Context, cluster.Txn) error, row org.VolumeRow) error {
	o := Order{Server: row.Server, Database: row.TrialOf.Database, Spare: row.Volume, Volume: row.TrialOf.Home}
	return k.goHome(ctx, write, o, row.Trial)
}

// home waits until the copy on its own volume is in sync, and the spare empty.
func (k Kind) home(o Order, s org.PlanStep) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			c, st, inSync := k.copyOf(o.Database, s.Server)
			row, _ := spareRow(k.Library.World.View(), o)
			switch {
			case c.Volume == o.Spare || row.State == org.VolumeData && row.Trial != "":
				return plan.Finding{Wait: "for the copy to be given its own volume"}
			case !inSync || st.Volume != c.Volume || st.State != org.CopyHealthy:
				return plan.Finding{Wait: fmt.Sprintf("for %s on %s of %s to catch up, it is %s", o.Database, c.Volume, s.Server, st.State)}
			}
			return plan.Finding{Done: row.Trial == "", Note: fmt.Sprintf("%s is on %s, %s is a spare", o.Database, c.Volume, o.Spare), Wait: fmt.Sprintf("for %s to be emptied", o.Spare)}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error { return k.goHome(ctx, pen.Commit, o, pen.Plan.ID) }}
}

// verifiedPrefix is what the rows of comparisons begin with.
const verifiedPrefix = "drills/verified/"

// verify compares the new copy with the others.
func (k Kind) verify(o Order, p org.Plan, s org.PlanStep) plan.Step {
	return plan.Step{
		Check: func(context.Context) plan.Finding {
			it, ok := k.Library.World.View().Get(verifiedPrefix + p.ID)
			return plan.Finding{Done: ok, Note: string(it.Value), Wait: "for the copies to be compared"}
		},
		Do: func(ctx context.Context, pen *plan.Pen) error {
			ctx, cancel := context.WithTimeout(ctx, s.Deadline/2+time.Second)
			defer cancel()
			said, err := k.World.Verify(ctx, o.Database, s.Server)
			if err != nil {
				return err
			}
			return pen.Commit(ctx, cluster.Txn{Then: []cluster.Op{{Key: verifiedPrefix + p.ID, Value: []byte(said)}}})
		}}
}
