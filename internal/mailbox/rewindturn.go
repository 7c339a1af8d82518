package mailbox

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// A database is brought back by one run at a time, wherever it runs and whichever
// copy it asks: two would put back the same messages twice.

const (
	// rewindHeld is how long a run has its turn without saying so again.
	rewindHeld = 5 * time.Minute
	// rewindRenew is how often it says so.
	rewindRenew = 30 * time.Second
	// rewindSpare is how long before its turn ends it stops.
	rewindSpare = time.Minute
)

// rewindKey is the key of the turn of a database.
func rewindKey(db org.DatabaseName) string { return "rewind/" + string(db) }

// rewindRow is the turn of a run.
type rewindRow struct {
	ID     string         `json:"id"`     // of the run
	Server org.ServerName `json:"server"` // where it runs
	At     time.Time      `json:"at"`     // the moment
	Until  time.Time      `json:"until"`  // when it counts as dead
}

// rewindTurn is that of a run here.
type rewindTurn struct {
	k    *Keeper
	key  string
	end  context.CancelFunc
	done chan struct{}

	mu  sync.Mutex // guards the rest
	row rewindRow
	rev int64
	err error
}

// rewinding is Busy while a database is being brought back.
func (k *Keeper) rewinding(db org.DatabaseName) error {
	r, _ := k.rewindRow(db)
	return k.occupied(db, r)
}

// occupied is Busy while the run of a row has its turn. One of this server that is
// not under way here died with the process it was in.
func (k *Keeper) occupied(db org.DatabaseName, r rewindRow) error {
	_, runs := k.rewinds.Load(r.ID)
	if !r.Until.After(time.Now()) || r.Server == k.me && !runs {
		return nil
	}
	return kind.WithHint(kind.Errorf(kind.Busy, "%s is being brought back to %s already, by %s", db, r.At.UTC().Format(time.RFC3339), r.Server),
		"wait for it; when that was broken off, try again after "+r.Until.UTC().Format(time.RFC3339))
}

// rewindRow is the row of a database and its revision, 0 where there is none.
func (k *Keeper) rewindRow(db org.DatabaseName) (r rewindRow, rev int64) {
	it, ok := k.group.View().Get(rewindKey(db))
	if !ok {
		return r, 0
	}
	if json.Unmarshal(it.Value, &r) != nil {
		r = rewindRow{} // whoever wrote it does not hold it
	}
	return r, it.Revision
}

// takeRewind takes the turn of a database, and keeps it until it is left. The
// context ends when it is lost.
func (k *Keeper) takeRewind(ctx context.Context, o Rewind) (*rewindTurn, context.Context, error) {
	if err := k.group.Sync(ctx); err != nil {
		return nil, ctx, err
	}
	// What is judged here is what the claim depends on.
	last, rev := k.rewindRow(o.Database)
	if err := k.occupied(o.Database, last); err != nil {
		return nil, ctx, err
	}
	t := &rewindTurn{k: k, key: rewindKey(o.Database), done: make(chan struct{}), rev: rev, row: rewindRow{ID: rand.Text(), Server: k.me, At: o.At}}
	k.rewinds.Store(t.row.ID, true) // before anybody can read of it
	if err := t.claim(ctx); err != nil {
		k.rewinds.Delete(t.row.ID)
		if kind.Is(err, kind.Conflict) {
			err = kind.Errorf(kind.Busy, "another run on %s has just begun", o.Database)
		}
		return nil, ctx, err
	}
	ctx, t.end = context.WithCancel(ctx)
	go func() {
		defer close(t.done)
		for sleep(ctx, rewindRenew) {
			t.renew(ctx, o.Database)
			if t.lost() != nil {
				t.end()
			}
		}
	}()
	return t, ctx, nil
}

// claim writes the row with a new end.
func (t *rewindTurn) claim(ctx context.Context) error {
	t.mu.Lock()
	row, rev := t.row, t.rev
	t.mu.Unlock()
	row.Until = time.Now().Add(rewindHeld).Round(0)
	b, err := json.Marshal(row)
	if err != nil {
		return err
	}
	rev, err = t.k.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: t.key, Revision: rev}}, Then: []cluster.Op{{Key: t.key, Value: b}}})
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.row, t.rev = row, rev
	return nil
}

// renew says that the run lives. An attempt whose answer was lost may have counted.
func (t *rewindTurn) renew(ctx context.Context, db org.DatabaseName) {
	if err := t.claim(ctx); !kind.Is(err, kind.Conflict) {
		return // what fails is tried again until the turn ends
	}
	now, rev := t.k.rewindRow(db)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case now.ID == t.row.ID:
		t.row, t.rev = now, rev
	default:
		t.err = kind.Errorf(kind.Busy, "the run on %s was taken over by %s", db, now.Server)
	}
}

// lost tells why the run has no turn any more, nil while it has.
func (t *rewindTurn) lost() error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.err == nil && time.Until(t.row.Until) < rewindSpare {
		t.err = kind.Errorf(kind.Busy, "the run could not tell the others that it lives")
	}
	return t.err
}

// leave gives the turn up.
func (t *rewindTurn) leave() {
	t.end()
	<-t.done
	t.mu.Lock()
	id, rev, lost := t.row.ID, t.rev, t.err
	t.mu.Unlock()
	defer t.k.rewinds.Delete(id)
	if lost != nil {
		return
	}
	ctx, cancel := context.WithTimeout(t.k.life(), 5*time.Second)
	defer cancel()
	_, _ = t.k.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: t.key, Revision: rev}}, Then: []cluster.Op{{Key: t.key, Delete: true}}}) // else it ends by itself
}
