package active

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/reseed"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// change gathers the rows of one transaction.
type change struct {
	v   *cluster.View
	me  org.ServerName
	now time.Time
	txn cluster.Txn
	err error
}

// put writes a row that has to be of revision rev still.
func (t *change) put(key string, rev int64, row any) {
	b, err := json.Marshal(row)
	if err != nil {
		t.err = err
		return
	}
	t.txn.If = append(t.txn.If, cluster.Cond{Key: key, Revision: rev})
	t.txn.Then = append(t.txn.Then, cluster.Op{Key: key, Value: b})
}

// deed adds the rows of a step.
func (r *reseeder) deed(t *change, f reseed.Facts, next *org.Reseed, step reseed.Step) error {
	switch step.Do {
	case reseed.Suspend:
		t.copies(step.Databases, func(c *org.Copy) {
			c.Suspended, c.SuspendedBy, c.SuspendComment = true, org.ByAutoReseed, "suspended by AutoReseed: "+step.Say
		})
	case reseed.Resume:
		t.copies(step.Databases, func(c *org.Copy) {
			if c.SuspendedBy == org.ByAutoReseed {
				c.Suspended, c.SuspendedBy, c.SuspendComment = false, "", ""
			}
		})
	case reseed.Assign:
		next.Sources = r.choose(t.v, step.Databases)
		t.volume(next.Volume, func(row *org.VolumeRow) { fail(row, t.now, org.VolumeFailed, "its copies went to "+string(step.Spare)) })
		t.volume(step.Spare, func(row *org.VolumeRow) {
			row.Take()
			row.State, row.Since, row.Why = org.VolumeData, t.now, "took the place of "+string(next.Volume)
		})
		t.seeds(step.Databases, next.Sources, step.Spare)
	case reseed.InPlace:
		next.Sources = r.choose(t.v, step.Databases)
		t.seeds(step.Databases, next.Sources, "")
	case reseed.Condemn:
		t.volume(step.Spare, func(row *org.VolumeRow) { fail(row, t.now, org.VolumeSuspect, step.Say) })
	}
	return t.err
}

// fail notes a failure of a volume; the second in a week retires it.
func fail(row *org.VolumeRow, now time.Time, to org.VolumeState, why string) {
	row.FailedAt = append(row.FailedAt, now)
	if n := len(row.FailedAt); n > 8 {
		row.FailedAt = row.FailedAt[n-8:]
	}
	if row.Failures(now.Add(-volumeMemory)) > 1 {
		to, why = org.VolumeRetired, "it failed twice within a week; "+why
	}
	row.Take()
	row.State, row.Since, row.Why = to, now, why
}

func (t *change) volume(name org.VolumeName, f func(*org.VolumeRow)) {
	row, rev := volumeRow(t.v, t.me, name)
	srv, _ := t.v.Server(t.me)
	row.Server, row.Volume, row.Member = t.me, name, srv.Identity
	f(&row)
	t.put(org.VolumeKey(t.me, name), rev, row)
}

// copies changes this server's copies of databases.
func (t *change) copies(dbs []org.DatabaseName, f func(*org.Copy)) {
	for _, db := range dbs {
		def, ok := t.v.Database(db)
		i := slices.IndexFunc(def.Copies, func(c org.Copy) bool { return c.Server == t.me })
		if !ok || i < 0 {
			t.err = kind.Errorf(kind.Conflict, "%s has no copy here any more", db)
			return
		}
		def.Copies = slices.Clone(def.Copies)
		f(&def.Copies[i])
		t.put(mailbox.DatabaseKey(db), t.v.DatabaseRevision(db), def)
	}
}

// seeds orders copies emptied and seeded, on another volume where one is
// given: a copy must not empty itself while the in-sync set names it.
func (t *change) seeds(dbs []org.DatabaseName, from map[org.DatabaseName]org.ServerName, to org.VolumeName) {
	for _, db := range dbs {
		mt, ok := t.v.Mount(db)
		if !ok || mt.Active == t.me {
			t.err = kind.Errorf(kind.Conflict, "%s is active here", db)
			return
		}
		t.copies([]org.DatabaseName{db}, func(c *org.Copy) {
			c.SeedCount++
			c.Volume = cmp.Or(to, c.Volume)
			if c.SuspendedBy != "" {
				c.Suspended, c.SuspendedBy, c.SuspendComment = false, "", ""
			}
			if c.SeedFrom = from[db]; c.SeedFrom == mt.Active {
				c.SeedFrom = ""
			}
		})
		mt.InSync = slices.DeleteFunc(slices.Clone(mt.InSync), func(s org.ServerName) bool { return s == t.me })
		t.put(mailbox.MountKey(db), mt.Revision, mt)
	}
}

// choose chooses the sources of seeds.
func (r *reseeder) choose(v *cluster.View, dbs []org.DatabaseName) map[org.DatabaseName]org.ServerName {
	busy := map[org.ServerName]int{}
	for _, srv := range v.Servers() {
		for _, st := range r.m.copies.PeerStatuses(srv.Name) {
			if st.SeedTotal > 0 {
				busy[st.SeedSource]++
			}
		}
	}
	var needs []reseed.Need
	for _, db := range dbs {
		def, _ := v.Database(db)
		mt, _ := v.Mount(db)
		n := reseed.Need{Database: db, Sources: r.sources(v, def, mt)}
		for i := range n.Sources {
			n.Sources[i].Busy = busy[n.Sources[i].Server]
		}
		needs = append(needs, n)
	}
	return reseed.Sources(needs)
}

// record adds the entry of the recovery log; of a dry run, what would be done.
func (t *change) record(row org.Reseed, step reseed.Step, dry bool) {
	rec := org.Recovery{
		ID: org.RecoveryID(t.now, t.me, rand.Text()[:6]), Server: t.me, Action: "reseed-" + string(step.Do), Target: string(row.Volume),
		Responder: "AutoReseed", Begun: t.now, Ended: t.now, Cause: cmp.Or(row.Cause, step.Say), Allowed: true, DryRun: dry, Result: step.Say,
	}
	for _, n := range row.Steps[max(0, len(row.Steps)-5):] {
		rec.Evidence = append(rec.Evidence, org.RecoveryEvidence{At: n.At, Item: "AutoReseed", Target: string(row.Volume), Result: string(n.Stage), Text: cut(n.Text, 256)})
	}
	t.put(org.RecoveryPrefix+rec.ID, 0, rec)
}

// cut keeps the first n bytes of a text.
func cut(s string, n int) string {
	if len(s) > n {
		return s[:n]
	}
	return s
}
