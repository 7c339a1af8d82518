package mailbox

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox/layout"
	"github.com/postern-mail/postern/internal/org"
)

// leftover is what Postern set aside on a volume.
type leftover struct {
	layout.Leftover
	path     string
	database org.DatabaseName
}

// leftoversEvery is the pause between two looks for leftovers on a volume,
// and leftoverTry the one between two tries to remove the same.
const (
	leftoversEvery = time.Hour
	leftoverTry    = 24 * time.Hour
)

// reclaimVolume removes what was set aside on a volume long enough ago, until
// ctx ends. The disk is used beside: one that hangs holds up nobody.
func (k *Keeper) reclaimVolume(ctx context.Context, v *volume) {
	tried := map[string]time.Time{}
	for sleep(ctx, leftoversEvery) {
		if k.cfg.KeepLeftovers || v.failure() != nil || !k.group.Quorum() {
			continue
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			k.removeLeftovers(ctx, v, tried, time.Now())
		}()
		select {
		case <-done:
		case <-ctx.Done():
			return
		}
	}
}

// removeLeftovers looks at a volume once.
func (k *Keeper) removeLeftovers(ctx context.Context, v *volume, tried map[string]time.Time, now time.Time) {
	for _, l := range k.leftovers(v, now) {
		if !layout.Removable(l.Leftover) || now.Sub(tried[l.path]) < leftoverTry || ctx.Err() != nil || v.failure() != nil {
			continue
		}
		tried[l.path] = now
		if err := k.noteRemoval(ctx, v, l, now); err != nil {
			k.deps.Log.Warn("remove what was set aside", "path", l.path, "err", err)
			continue
		}
		if err := fsx.RemoveAll(k.fs, l.path); err != nil {
			k.deps.Log.Warn("remove what was set aside", "path", l.path, "err", err)
			continue
		}
		k.deps.Events.Emit(evLeftover, "%s on volume %s of %s was removed: set aside %s ago (%s)", filepath.Base(l.path), v.Name, k.me, l.Age.Round(time.Hour), l.Kind)
	}
}

// noteRemoval writes the entry of the recovery log before anything goes.
func (k *Keeper) noteRemoval(ctx context.Context, v *volume, l leftover, now time.Time) error {
	at := now.UTC()
	rec := org.Recovery{ID: org.RecoveryID(at, k.me, rand.Text()[:6]), Server: k.me, Action: "reclaim", Target: string(v.Name), Responder: "Reclaimer",
		Begun: at, Ended: at, Allowed: true, Cause: "space", Result: fmt.Sprintf("%s is removed: %s, set aside %s ago", l.path, l.Kind, l.Age.Round(time.Hour))}
	b, err := json.Marshal(rec)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	key := org.RecoveryPrefix + rec.ID
	_, err = k.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key}}, Then: []cluster.Op{{Key: key, Value: b}}})
	return err
}

// leftovers lists what Postern set aside on a volume.
func (k *Keeper) leftovers(v *volume, now time.Time) []leftover {
	entries := k.entries(v)
	view := k.group.View()
	strangers := slices.ContainsFunc(entries, func(e layout.Entry) bool { return k.stranger(view, e) })
	var out []leftover
	for _, e := range entries {
		l := leftover{path: filepath.Join(v.Path, e.Name)}
		if l.Kind, l.database, l.Age = k.kindOf(view, v, e, now); l.Kind == "" {
			if e.Database != "" {
				out = append(out, k.offeredLogs(view, v, e, now, strangers)...)
			}
			continue
		}
		l.Strangers = strangers
		out = append(out, k.judged(view, l, now))
	}
	return out
}

// judged adds what is known of the database, and when the leftover changed.
func (k *Keeper) judged(view *cluster.View, l leftover, now time.Time) leftover {
	l.Untouched = now.Sub(k.newest(l.path))
	if l.Kind == layout.Left || l.Kind == layout.Offered {
		l.Age = l.Untouched
	}
	def, ok := view.Database(l.database)
	l.Known = ok
	mt, _ := view.Mount(l.database)
	me, _ := view.Server(k.me)
	for _, c := range def.Copies {
		st, heard := k.peerStatus(c.Server, def.Name)
		if !heard || !mt.IsInSync(c.Server) || st.State != org.CopyHealthy && st.State != org.CopyMounted {
			continue
		}
		if srv, _ := view.Server(c.Server); srv.Site == me.Site {
			l.InSite = true
		} else {
			l.Elsewhere = true
		}
	}
	return l
}

// kindOf tells how an entry at the top of a volume came to be, empty when it is
// no leftover: of a copy in use, or of somebody else.
func (k *Keeper) kindOf(view *cluster.View, v *volume, e layout.Entry, now time.Time) (layout.Kind, org.DatabaseName, time.Duration) {
	for prefix, kind := range map[string]layout.Kind{removedPrefix: layout.Removed, movedPrefix: layout.Moved} {
		rest, ok := strings.CutPrefix(e.Name, prefix)
		i := strings.LastIndexByte(rest, '-')
		if !ok || i < 1 || !e.Dir {
			continue
		}
		at, err := strconv.ParseInt(rest[i+1:], 10, 64)
		if err != nil {
			continue
		}
		return kind, org.DatabaseName(rest[:i]), now.Sub(time.Unix(at, 0))
	}
	name := org.DatabaseName(e.Name)
	def, ok := view.Database(name)
	if e.Database == "" || !ok || def.Identity != e.Database {
		return "", "", 0 // nobody knows whose it is, or it was removed while the server was away: a person decides
	}
	if c, here := def.Copy(k.me); !here || c.Volume == v.Name {
		return "", "", 0
	}
	return layout.Left, name, 0
}

// stranger tells whether an entry is not Postern's.
func (k *Keeper) stranger(view *cluster.View, e layout.Entry) bool {
	if e.Database != "" || strings.HasPrefix(e.Name, removedPrefix) || strings.HasPrefix(e.Name, movedPrefix) {
		return false
	}
	_, ok := view.Database(org.DatabaseName(e.Name))
	return !ok
}

// offeredLogs lists the parts of a copy's log that were cut off and whose
// messages were delivered again.
func (k *Keeper) offeredLogs(view *cluster.View, v *volume, e layout.Entry, now time.Time, strangers bool) []leftover {
	dir := filepath.Join(v.Path, e.Name, divergedName)
	names, err := v.fs.List(dir)
	if err != nil {
		return nil
	}
	var out []leftover
	for _, n := range names {
		if strings.HasSuffix(n, offered("")) {
			l := leftover{path: filepath.Join(dir, n), database: org.DatabaseName(e.Name)}
			l.Kind, l.Strangers = layout.Offered, strangers
			out = append(out, k.judged(view, l, now))
		}
	}
	return out
}

// newestMost bounds how many entries are looked at to find the newest.
const newestMost = 100_000

// newest is when anything below path changed last; now where that cannot be
// told.
func (k *Keeper) newest(path string) time.Time {
	var last time.Time
	n := 0
	var walk func(path string, depth int) bool
	walk = func(path string, depth int) bool {
		in, err := k.fs.Stat(path)
		if n++; err != nil || n > newestMost || depth > 8 {
			return false
		}
		if in.ModTime.After(last) {
			last = in.ModTime
		}
		if !in.Dir {
			return true
		}
		names, err := k.fs.List(path)
		if err != nil {
			return false
		}
		for _, name := range names {
			if !walk(filepath.Join(path, name), depth+1) {
				return false
			}
		}
		return true
	}
	if !walk(path, 0) {
		return time.Now()
	}
	return last
}
