package mailbox

import (
	"context"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox/layout"
	"github.com/postern-mail/postern/internal/org"
)

// volumeSection is the name under which a server publishes its volumes.
const volumeSection = "volumes"

// calmFor is how recent the write tests that passed have to be.
const calmFor = 5 * time.Minute

// VolumeStatus is how a server finds one of its volumes.
type VolumeStatus struct {
	Volume   org.VolumeName `json:"volume" cbor:"1,keyasint"`
	Path     string         `json:"path" cbor:"2,keyasint"`
	Identity string         `json:"identity,omitempty" cbor:"3,keyasint,omitempty"`
	Cause    string         `json:"cause,omitempty" cbor:"4,keyasint,omitempty"` // class of the failure, empty while it works
	Why      string         `json:"why,omitempty" cbor:"5,keyasint,omitempty"`
	Since    time.Time      `json:"since,omitzero" cbor:"6,keyasint,omitempty"` // of the failure
	Size     int64          `json:"size" cbor:"7,keyasint"`                     // bytes
	Free     int64          `json:"free" cbor:"8,keyasint"`                     // bytes
	// Latency is what 99 of 100 write tests took at most.
	Latency time.Duration `json:"latency" cbor:"9,keyasint"`
	// Calm tells that the last three write tests passed, all in the last five minutes.
	Calm   bool `json:"calm" cbor:"10,keyasint"`
	Looked bool `json:"looked" cbor:"11,keyasint"` // at least once
	// Recent is what the middle one of the newest write tests took, 0 before there
	// are that many: one slow test says nothing of a disk.
	Recent time.Duration `json:"recent" cbor:"12,keyasint,omitempty"`
}

// recentTests is of how many write tests Recent is.
const recentTests = 5

func (v *volume) status() VolumeStatus {
	v.mu.Lock()
	defer v.mu.Unlock()
	s := VolumeStatus{Volume: v.Name, Path: v.Path, Identity: v.mark.Identity, Cause: v.cause, Why: v.why, Size: v.size, Free: v.free, Looked: v.looked,
		Calm: v.cause == "" && len(v.passed) == goodLooks && time.Since(v.passed[0]) < calmFor}
	if v.cause != "" {
		s.Since = v.since
	}
	if n := len(v.latency); n > 0 {
		sorted := slices.Sorted(slices.Values(v.latency))
		s.Latency = sorted[n*99/100]
	}
	if n := len(v.latency); n >= recentTests {
		s.Recent = slices.Sorted(slices.Values(v.latency[n-recentTests:]))[recentTests/2]
	}
	return s
}

// Volumes are this server's volumes as it finds them, by name. It asks no disk.
func (k *Keeper) Volumes() []VolumeStatus {
	var all []VolumeStatus
	for _, name := range slices.Sorted(maps.Keys(k.volumes)) {
		all = append(all, k.volumes[name].status())
	}
	return all
}

func (k *Keeper) reportVolumes() {
	k.group.Publish(volumeSection, codec.MustMarshal(k.Volumes()))
}

// PeerVolumes is what a server, this one included, last said of its volumes.
func (k *Keeper) PeerVolumes(s org.ServerName) []VolumeStatus {
	if s == k.me {
		return k.Volumes()
	}
	raw, _, ok := k.group.Published(s, volumeSection)
	if !ok {
		return nil
	}
	var all []VolumeStatus
	if err := codec.Unmarshal(raw, &all); err != nil {
		k.deps.Log.Warn("volumes of another server", "server", s, "err", err)
		return nil
	}
	return all
}

// found gathers what layout judges. It reads the disk, where that works.
func (k *Keeper) found(name org.VolumeName) layout.Found {
	view := k.group.View()
	row, _, _ := k.volumeRow(name)
	f := layout.Found{Server: k.me, Volume: name, State: cmpOr(row.State, org.VolumeData), Reserve: k.cfg.Reserve, Most: k.cfg.CopiesPerVolume,
		Failed: row.Failures(time.Now().Add(-layout.Week))}
	for _, d := range view.Databases() {
		c, ok := d.Copy(k.me)
		if !ok || c.Volume != name {
			continue
		}
		placed := layout.Copy{Database: d.Name, Identity: d.Identity}
		for _, other := range d.Copies {
			placed.Preferences = append(placed.Preferences, other.Preference)
			placed.Servers = append(placed.Servers, other.Server)
		}
		f.Copies = append(f.Copies, placed)
	}
	v := k.volumes[name]
	if v == nil {
		f.Missing = true
		return f
	}
	st := v.status()
	f.Path, f.Cause, f.Why, f.Size, f.Free, f.Limited = st.Path, st.Cause, st.Why, st.Size, st.Free, v.MaxSize > 0
	if f.Cause != "" {
		return f
	}
	f.Entries = k.entries(v)
	k.neighbours(v, &f)
	return f
}

// entriesMost bounds what is listed of a volume.
const entriesMost = 1000

// entries lists the top of a volume without Postern's own files.
func (k *Keeper) entries(v *volume) []layout.Entry {
	names, err := v.fs.List(v.Path)
	if err != nil {
		k.deps.Log.Warn("list volume", "volume", v.Name, "err", err)
		return nil
	}
	var out []layout.Entry
	for _, n := range names[:min(len(names), entriesMost)] {
		if n == lostFound || n == probeName || strings.HasPrefix(n, markName) {
			continue
		}
		e := layout.Entry{Name: n}
		path := filepath.Join(v.Path, n)
		if in, err := v.fs.Stat(path); err == nil {
			e.Dir = in.Dir
		}
		if m, err := readCopyMark(v.fs, path); e.Dir && err == nil {
			e.Database = m.Identity
		}
		out = append(out, e)
	}
	return out
}

// neighbours finds out what else is on the volume's file system.
func (k *Keeper) neighbours(v *volume, f *layout.Found) {
	disk, ok := k.fs.(interface{ Device(string) (uint64, error) })
	if !ok {
		return
	}
	mine, err := disk.Device(v.Path)
	if err != nil {
		return
	}
	if root, err := disk.Device("/"); err == nil {
		f.Root = root == mine
	}
	for name, other := range k.volumes {
		if name == v.Name || other.failure() != nil {
			continue
		}
		if d, err := disk.Device(other.Path); err == nil && d == mine {
			f.Shares = append(f.Shares, name)
		}
	}
	slices.Sort(f.Shares)
}

// volumeCheckMost bounds how long a check of a volume may take: the disk may
// begin to hang at any moment.
const volumeCheckMost = 10 * time.Second

// checkVolume judges a volume of this server, as a spare for need bytes where
// that is asked.
func (k *Keeper) checkVolume(ctx context.Context, q volumeRequest) ([]layout.Problem, error) {
	done := make(chan []layout.Problem, 1)
	go func() {
		f := k.found(q.Volume)
		if q.Spare {
			f.State = org.VolumeSpare // what it is now is the caller's business
			done <- layout.Spare(f, q.Need)
			return
		}
		done <- layout.Check(f)
	}()
	t := time.NewTimer(volumeCheckMost)
	defer t.Stop()
	select {
	case p := <-done:
		return p, nil
	case <-t.C:
		return nil, kind.Errorf(kind.Busy, "volume %s: its disk has not answered for %s", q.Volume, volumeCheckMost)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// CheckSpare says what keeps a volume of this server from taking copies of
// need bytes, nil for nothing.
func (k *Keeper) CheckSpare(ctx context.Context, name org.VolumeName, need int64) ([]string, error) {
	found, err := k.checkVolume(ctx, volumeRequest{Volume: name, Spare: true, Need: need})
	var out []string
	for _, p := range found {
		if p.Level == layout.Error {
			out = append(out, p.Problem)
		}
	}
	return out, err
}

// volumeRequest asks a server about one of its volumes.
type volumeRequest struct {
	Volume org.VolumeName `cbor:"1,keyasint"`
	Spare  bool           `cbor:"2,keyasint,omitempty"` // judge it as a spare
	Need   int64          `cbor:"3,keyasint,omitempty"` // for copies of so many bytes
}

// volumeMethod serves checkVolume to other servers.
func volumeMethod() grpc.MethodDesc {
	return grpc.MethodDesc{MethodName: "CheckVolume", Handler: func(srv any, ctx context.Context, dec func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var in volumeRequest
		if err := dec(&in); err != nil {
			return nil, err
		}
		p, err := srv.(*Keeper).checkVolume(ctx, in)
		if err != nil {
			return nil, toStatus(err)
		}
		return &answer[[]layout.Problem]{p}, nil
	}}
}

// checkVolumeAt judges a volume of any server.
func (k *Keeper) checkVolumeAt(ctx context.Context, s org.ServerName, q volumeRequest) ([]layout.Problem, error) {
	if s == k.me {
		return k.checkVolume(ctx, q)
	}
	conn, err := k.group.Conn(s)
	if err != nil {
		return nil, kind.Errorf(kind.Busy, "connect to %s: %w", s, err)
	}
	var a answer[[]layout.Problem]
	err = conn.Invoke(ctx, "/"+serviceName+"/CheckVolume", &q, &a)
	return a.Value, fromStatus(err)
}

// usableVolume tells whether new copies may be put on a volume of a server.
func usableVolume(v *cluster.View, s org.ServerName, name org.VolumeName) bool {
	it, ok := v.Get(org.VolumeKey(s, name))
	if !ok {
		return true // a server of a version that writes no rows
	}
	row, err := org.ParseVolume(it.Value)
	srv, _ := v.Server(s)
	return err != nil || row.Member != srv.Identity || cmpOr(row.State, org.VolumeData) == org.VolumeData
}
