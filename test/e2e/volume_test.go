package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// volumeRow is a row of `volume list`.
type volumeRow struct {
	Volume    string   `json:"volume"`
	State     string   `json:"state"`
	Databases []string `json:"databases"`
	Cause     string   `json:"cause"`
	Why       string   `json:"why"`
}

// reseedRow is a row of `reseed list`.
type reseedRow struct {
	Volume string `json:"volume"`
	Spare  string `json:"spare"`
	Stage  string `json:"stage"`
	Why    string `json:"why"`
	Error  string `json:"error"`
}

// TestVolumeLost takes the disk of one server away while clients work. Its
// databases go on elsewhere, its copies come back on the spare by themselves,
// nothing is lost, and the old disk is not used when it returns.
func TestVolumeLost(t *testing.T) {
	t.Parallel()
	g := startLab(t, 22000, "--users", "3", "--databases", "3", "--volumes", "1", "--spares", "1", "--volume-size", fmt.Sprint(2<<30))
	g.inSync(time.Minute)
	c := g.load()
	c.goesOn(20 * time.Second)

	victim := g.database("DB02").Active
	vol := filepath.Join(g.dir, victim, "volumes", "Vol1")
	lost := time.Now()
	must(t, os.Rename(vol, vol+".pulled"))
	g.servedWithout(victim, 30*time.Second)
	t.Logf("%s without its volume: all databases are active elsewhere after %s", victim, time.Since(lost).Round(10*time.Millisecond))
	c.goesOn(20 * time.Second)
	g.onSpare(victim, "gone", 2*time.Minute)
	t.Logf("all copies are in sync again on the spare after %s", time.Since(lost).Round(100*time.Millisecond))
	c.goesOn(20 * time.Second)

	// The disk returns: it stays out until somebody accepts it.
	must(t, os.Rename(vol+".pulled", vol))
	eventually(t, 20*time.Second, "the volume is seen again", func() error {
		v, err := g.volume(victim, "Vol1")
		if err == nil && (v.Cause != "" || v.State != "failed" || len(v.Databases) > 0) {
			err = fmt.Errorf("it is %+v", v)
		}
		return err
	})
	if err := g.command(t.Context(), nil, "volume", "set", victim, "Vol1", "--spare"); err == nil {
		t.Error("a volume that is not empty became a spare")
	} else {
		t.Logf("not a spare: %v", err)
	}
	g.finished(victim, "Vol1")
	c.nothingLost()
	g.identical()
}

// TestVolumeReadOnly has the file system of a volume turn read-only below a
// running server, as kernels do when a disk fails.
func TestVolumeReadOnly(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "lab")
	vol := filepath.Join(dir, "MBX1", "volumes", "Vol1")
	abort, err := mountDisk(t, vol)
	if err != nil {
		t.Logf("this machine mounts no disks for us (%v): the volume is a folder that goes away", err)
	}
	g := &group{t: t, dir: dir, copies: 3, done: make(chan struct{})}
	g.run("--fast", "--base-port", "23000", "--users", "3", "--databases", "3", "--volumes", "1", "--spares", "1", "--volume-size", fmt.Sprint(600<<20))
	g.inSync(time.Minute)
	c := g.load()
	c.goesOn(20 * time.Second)
	must(t, g.command(t.Context(), nil, "volume", "check", "MBX1"))

	began, cause := time.Now(), "read-only"
	if abort == nil {
		cause = "gone"
		must(t, os.Rename(vol, vol+".pulled"))
	} else {
		must(t, abort())
	}
	g.servedWithout("MBX1", 30*time.Second)
	t.Logf("%s: all databases are active elsewhere after %s", cause, time.Since(began).Round(10*time.Millisecond))
	g.onSpare("MBX1", cause, 2*time.Minute)
	t.Logf("all copies are in sync again on the spare after %s", time.Since(began).Round(100*time.Millisecond))
	c.goesOn(20 * time.Second)
	g.finished("MBX1", "Vol1")

	// By hand: all passive copies of a server are emptied and seeded, in parallel.
	must(t, g.command(t.Context(), nil, "copy", "update", "--server", "MBX1", "--safe-delete", "--maximum-in-parallel", "2"))
	g.inSync(time.Minute)
	if err := g.command(t.Context(), nil, "copy", "update", "DB01", g.database("DB01").Active); err == nil {
		t.Error("an active copy was emptied")
	}
	c.goesOn(20 * time.Second)
	c.nothingLost()
	g.identical()
}

// mountDisk mounts a small disk of its own at dir; abort has its file system
// turn read-only at once.
func mountDisk(t *testing.T, dir string) (abort func() error, err error) {
	t.Helper()
	must(t, os.MkdirAll(dir, 0o755))
	img := filepath.Join(t.TempDir(), "disk.img")
	run := func(name string, args ...string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if out, err := exec.CommandContext(ctx, name, args...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", name, err, out)
		}
		return nil
	}
	f, err := os.Create(img)
	must(t, err)
	must(t, f.Truncate(1<<30))
	must(t, f.Close())
	if err := run("mkfs.ext4", "-q", "-F", img); err != nil {
		return nil, err
	}
	if err := run("mount", "-o", "loop", img, dir); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		if err := run("umount", "-l", dir); err != nil {
			t.Error(err)
		}
	})
	return func() error { return run("mount", "-o", "remount,abort", dir) }, nil
}

// volume is a row of `volume list`.
func (g *group) volume(server, name string) (volumeRow, error) {
	var rows []volumeRow
	err := g.command(g.t.Context(), &rows, "volume", "list", server)
	i := slices.IndexFunc(rows, func(v volumeRow) bool { return v.Volume == name })
	if err != nil || i < 0 {
		return volumeRow{}, fmt.Errorf("volume %s of %s: %w", name, server, err)
	}
	return rows[i], nil
}

// onSpare waits until the copies of Vol1 of a server are in sync on Vol2.
func (g *group) onSpare(server, cause string, patience time.Duration) {
	g.t.Helper()
	eventually(g.t, patience, "the copies are on the spare", func() error {
		old, err := g.volume(server, "Vol1")
		if err != nil {
			return err
		}
		spare, err := g.volume(server, "Vol2")
		if err != nil {
			return err
		}
		if old.State != "failed" || old.Cause != cause || len(old.Databases) > 0 || spare.State != "data" || len(spare.Databases) != 3 {
			var rows []reseedRow
			err := g.command(g.t.Context(), &rows, "reseed", "list", server)
			return fmt.Errorf("%+v, %+v, %+v, %w", old, spare, rows, err)
		}
		return nil
	})
	g.inSync(patience)
}

// finished waits until AutoReseed is done with a volume.
func (g *group) finished(server, volume string) {
	g.t.Helper()
	eventually(g.t, time.Minute, "AutoReseed is done", func() error {
		var rows []reseedRow
		if err := g.command(g.t.Context(), &rows, "reseed", "list", server); err != nil {
			return err
		}
		if len(rows) != 1 || rows[0].Volume != volume || rows[0].Stage != "Done" || rows[0].Spare != "Vol2" {
			return fmt.Errorf("%+v", rows)
		}
		return nil
	})
}
