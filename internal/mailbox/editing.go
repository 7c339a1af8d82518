package mailbox

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// edit changes a database's definition by compare and swap.
func (k *Keeper) edit(ctx context.Context, db org.DatabaseName, f func(*org.Database) error) error {
	return k.editRows(ctx, db, func(_ *cluster.View, d *org.Database, _ *cluster.Txn) error { return f(d) })
}

// editRows changes a database's definition on the view that f judges, again where
// somebody else changed it meanwhile. f may add to the transaction.
func (k *Keeper) editRows(ctx context.Context, db org.DatabaseName, f func(*cluster.View, *org.Database, *cluster.Txn) error) error {
	for range 5 {
		v := k.group.View()
		def, ok := v.Database(db)
		if !ok {
			return k.noDatabase(db)
		}
		key := DatabaseKey(db)
		t := cluster.Txn{If: []cluster.Cond{{Key: key, Revision: v.DatabaseRevision(db)}}}
		def.Copies = slices.Clone(def.Copies)
		if err := f(v, &def, &t); err != nil {
			return err
		}
		b, err := json.Marshal(def)
		if err != nil {
			return err
		}
		t.Then = append(t.Then, cluster.Op{Key: key, Value: b})
		_, err = k.group.Commit(ctx, t)
		if !kind.Is(err, kind.Conflict) {
			return err
		}
		if err := k.group.Sync(ctx); err != nil {
			return err
		}
	}
	return kind.Errorf(kind.Conflict, "database %s is being changed by somebody else", db)
}

// editCopy changes one copy of a definition.
func (k *Keeper) editCopy(ctx context.Context, in copyArg, f func(*org.Copy) error) error {
	return k.edit(ctx, in.Database, func(d *org.Database) error {
		i, err := indexOf(d, in)
		if err != nil {
			return err
		}
		return f(&d.Copies[i])
	})
}

// editPassive changes the copy at an index of a definition, and the mount row,
// in one step and only while the copy is passive. The mount row is written in any
// case: a move to the copy that was decided before loses its compare and swap.
func (k *Keeper) editPassive(ctx context.Context, in copyArg, what string, f func(*org.Database, int, *org.Mount) error) error {
	return k.editRows(ctx, in.Database, func(v *cluster.View, d *org.Database, t *cluster.Txn) error {
		m, ok := v.Mount(in.Database)
		if !ok {
			return k.noDatabase(in.Database)
		}
		if err := passive(m, in, what); err != nil {
			return err
		}
		i, err := indexOf(d, in)
		if err != nil {
			return err
		}
		m.InSync = slices.Clone(m.InSync)
		if err := f(d, i, &m); err != nil {
			return err
		}
		b, err := json.Marshal(m)
		if err != nil {
			return err
		}
		key := MountKey(in.Database)
		t.If = append(t.If, cluster.Cond{Key: key, Revision: m.Revision})
		t.Then = append(t.Then, cluster.Op{Key: key, Value: b})
		return nil
	})
}

// indexOf is where a definition has a copy.
func indexOf(d *org.Database, in copyArg) (int, error) {
	i := slices.IndexFunc(d.Copies, func(c org.Copy) bool { return c.Server == in.Server })
	if i < 0 {
		return i, kind.WithHint(kind.Errorf(kind.NotFound, "%s has no copy on %s", in.Database, in.Server), "postern copy status "+string(in.Database))
	}
	return i, nil
}

// passive refuses what must not be done to the active copy.
func passive(m org.Mount, in copyArg, what string) error {
	if m.Active == in.Server {
		return kind.WithHint(kind.Errorf(kind.Conflict, "%s is active on %s: an active copy cannot be %s", in.Database, in.Server, what), "postern database move "+string(in.Database))
	}
	return nil
}

// leaveSet takes a server out of the in-sync set; Conflict where it is the last
// one there: a dismounted database has no active copy that would be.
func leaveSet(m *org.Mount, s org.ServerName) error {
	if m.IsInSync(s) && len(m.InSync) == 1 {
		return kind.WithHint(kind.Errorf(kind.Conflict, "the copy of %s on %s is the only one in sync: without it there would be none", m.Database, s), "postern database mount "+string(m.Database))
	}
	m.InSync = slices.DeleteFunc(m.InSync, func(x org.ServerName) bool { return x == s })
	return nil
}
