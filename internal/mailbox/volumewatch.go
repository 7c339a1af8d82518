package mailbox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// probeBytes is what one write test of a volume writes.
const probeBytes = 4096

// How often something has to be seen before it counts.
const (
	goneLooks = 2 // a mount that is being changed may miss its mark for a moment
	goodLooks = 3 // a disk whose writes failed
)

// keptLatencies is how many write tests the shown latency is of.
const keptLatencies = 100

// finding is what one look at a volume found.
type finding struct {
	mark       volumeMark
	size, free int64
	wrote      bool          // a write test was done
	took       time.Duration // of it
	err        error
}

// watchVolume looks at a volume until ctx ends. Each look is done beside: one
// that does not come back is a hung disk, and holds up nothing but its own
// copies.
func (k *Keeper) watchVolume(ctx context.Context, v *volume) {
	var tested time.Time
	for {
		write := k.cfg.VolumeProbe > 0 && time.Since(tested) >= k.probePause(v)
		want := k.expectedIdentity(v.Name)
		done := make(chan finding, 1)
		go func() { done <- v.look(k.me, want, write) }()
		f, ok := k.awaitLook(ctx, v, done)
		if !ok {
			return
		}
		if f.wrote {
			tested = time.Now()
		}
		k.settle(v, f, write)
		if f.err == nil {
			k.noteVolume(ctx, v, f)
		}
		k.reportVolumes()
		t := time.NewTimer(k.lookPause())
		select {
		case <-t.C:
		case <-v.nudged:
			tested = time.Time{}
		case <-ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// lookPause is the time between two looks at a volume.
func (k *Keeper) lookPause() time.Duration {
	if k.deps.Fast {
		return 250 * time.Millisecond
	}
	return 2 * time.Second
}

// probePause is the time between two write tests. A volume that failed is
// tested at each look, to notice that it works again.
func (k *Keeper) probePause(v *volume) time.Duration {
	if v.failure() != nil {
		return 0
	}
	if k.deps.Fast {
		return min(k.cfg.VolumeProbe, time.Second)
	}
	return k.cfg.VolumeProbe
}

// awaitLook waits for a look, and tells the volume is hung meanwhile when
// that takes too long.
func (k *Keeper) awaitLook(ctx context.Context, v *volume, done chan finding) (finding, bool) {
	t := time.NewTimer(diskPatience)
	defer t.Stop()
	select {
	case f := <-done:
		return f, true
	case <-ctx.Done():
		select { // a disk that works lets the look end
		case <-done:
		case <-t.C:
		}
		return finding{}, false
	case <-t.C:
	}
	k.setCause(v, org.CauseHung, fmt.Sprintf("an access has not come back for %s", diskPatience))
	k.reportVolumes()
	select {
	case f := <-done:
		return f, true
	case <-ctx.Done():
		return finding{}, false
	}
}

// look reads the mark and the space and, where asked for, writes.
func (v *volume) look(me org.ServerName, want string, write bool) (f finding) {
	if f.mark, f.err = v.readMark(me, want); f.err != nil {
		return f
	}
	if f.free, f.size, f.err = v.fs.Free(v.Path); f.err != nil {
		return f
	}
	if !write {
		return f
	}
	began := time.Now()
	if err := v.writeTest(); !kind.Is(err, kind.Full) { // full is no failure
		f.err = err
	}
	f.wrote, f.took = true, time.Since(began)
	return f
}

// writeTest writes, syncs and reads back a small file.
func (v *volume) writeTest() (err error) {
	path := filepath.Join(v.Path, probeName)
	h, err := v.fs.OpenFile(path, fsx.Write)
	if kind.Is(err, kind.NotFound) {
		h, err = v.fs.Create(path)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	want := bytes.Repeat(fmt.Appendf(nil, "%016x", time.Now().UnixNano()), probeBytes/16)
	if _, err := h.WriteAt(want, 0); err != nil {
		return err
	}
	if err := h.Sync(); err != nil {
		return err
	}
	got := make([]byte, len(want))
	if _, err := h.ReadAt(got, 0); err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return kind.Errorf(kind.Corrupt, "read %s: not what was written", path)
	}
	return nil
}

// settle draws the conclusion of a look.
func (k *Keeper) settle(v *volume, f finding, write bool) {
	if f.err == nil {
		v.mu.Lock()
		v.mark, v.size, v.free = f.mark, f.size, f.free
		if f.wrote {
			now := time.Now()
			v.latency = lastOf(append(v.latency, f.took), keptLatencies)
			v.passed = lastOf(append(v.passed, now), goodLooks)
		}
		v.good, v.bad = v.good+1, 0
		ends := v.cause != "" && v.cause != org.CauseIO && v.cause != org.CauseReadOnly || v.cause != "" && (f.wrote || !write) && v.good >= goodLooks
		first := !v.looked
		v.mu.Unlock()
		if ends || first {
			k.setCause(v, "", "")
		}
		return
	}
	class := classOf(f.err)
	if class == "" || class == org.CauseLog {
		class = org.CauseIO
	}
	v.mu.Lock()
	v.good, v.bad = 0, v.bad+1
	v.passed = nil
	wait := class == org.CauseGone && v.bad < goneLooks && v.looked
	v.mu.Unlock()
	if wait {
		v.nudge()
		return
	}
	why := f.err.Error()
	var ve *volumeError
	if errors.As(f.err, &ve) {
		why = ve.why
	}
	k.setCause(v, class, why)
}

// lastOf keeps the newest n.
func lastOf[T any](s []T, n int) []T {
	if len(s) > n {
		return slices.Clone(s[len(s)-n:])
	}
	return s
}

// setCause notes that the volume failed, or works. The copies on it stop
// unless it hangs: what hangs cannot be ended.
func (k *Keeper) setCause(v *volume, cause, why string) {
	v.mu.Lock()
	was, first := v.cause, !v.looked
	stops := org.NeedsDisk(cause)
	if was == cause && !first {
		v.why = why
		v.mu.Unlock()
		return
	}
	v.cause, v.why, v.since, v.looked = cause, why, time.Now(), true
	switch {
	case stops && !org.NeedsDisk(was):
		close(v.lost)
	case !stops && org.NeedsDisk(was):
		v.lost = make(chan struct{})
	}
	close(v.moved)
	v.moved = make(chan struct{})
	v.mu.Unlock()
	switch {
	case cause != "":
		k.note(org.Note{Action: actCloseVolume, Target: string(v.Name), Responder: "VolumeWatch", Cause: why,
			Evidence: proof("VolumeWatch", v.Name, cause, "%s", why), Result: closedText(stops)})
		k.deps.Events.Emit(evVolumeFailed, "volume %s of %s failed (%s): %s", v.Name, k.me, cause, why)
	case was != "":
		k.note(org.Note{Action: actOpenVolume, Target: string(v.Name), Responder: "VolumeWatch", Cause: "it works again",
			Evidence: proof("VolumeWatch", v.Name, "passed", "it had failed (%s)", was), Result: "its copies are opened again"})
		k.deps.Events.Emit(evVolumeBack, "volume %s of %s works again", v.Name, k.me)
	}
	k.reportSoon()
}

// volumeRow is the group's row of a volume of this server.
func (k *Keeper) volumeRow(name org.VolumeName) (row org.VolumeRow, rev int64, ok bool) {
	v := k.group.View()
	it, ok := v.Get(org.VolumeKey(k.me, name))
	if !ok {
		return row, 0, false
	}
	row, err := org.ParseVolume(it.Value)
	if err != nil {
		k.deps.Log.Error("row of a volume", "volume", name, "err", err)
	}
	me, _ := v.Server(k.me)
	if err != nil || row.Member != me.Identity {
		// Of a server that had this name before: its disks are not these.
		return org.VolumeRow{}, it.Revision, false
	}
	return row, it.Revision, true
}

// expectedIdentity is the identity the volume's disk has to have, empty for
// any disk of this server and for an empty one.
func (k *Keeper) expectedIdentity(name org.VolumeName) string {
	row, _, _ := k.volumeRow(name)
	return row.Identity
}

// noteVolume tells the group which disk the volume is. Until that is done any
// disk of this server counts.
func (k *Keeper) noteVolume(ctx context.Context, v *volume, f finding) {
	row, rev, ok := k.volumeRow(v.Name)
	if ok && row.Identity == f.mark.Identity && row.Size == f.size {
		return
	}
	view := k.group.View()
	me, _ := view.Server(k.me)
	if !ok {
		row = org.VolumeRow{State: org.VolumeData, Since: time.Now().UTC()}
		if v.Spare && !k.holdsCopies(v.Name) {
			row.State = org.VolumeSpare
		}
	}
	row.Server, row.Volume, row.Member, row.Identity, row.Size = k.me, v.Name, me.Identity, f.mark.Identity, f.size
	b, err := json.Marshal(row)
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	key := org.VolumeKey(k.me, v.Name)
	_, err = k.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: rev}}, Then: []cluster.Op{{Key: key, Value: b}}})
	if err != nil && ctx.Err() == nil {
		k.deps.Log.Debug("row of a volume", "volume", v.Name, "err", err) // the next look tries again
	}
}

// holdsCopies tells whether a database of the group has its copy here on the volume.
func (k *Keeper) holdsCopies(name org.VolumeName) bool {
	return slices.ContainsFunc(k.group.View().Databases(), func(d org.Database) bool {
		c, ok := d.Copy(k.me)
		return ok && c.Volume == name
	})
}
