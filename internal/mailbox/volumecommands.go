package mailbox

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox/layout"
	"github.com/postern-mail/postern/internal/org"
)

// VolumeInfo is a volume as commands show it.
type VolumeInfo struct {
	Server    org.ServerName     `json:"server" col:"SERVER"`
	Volume    org.VolumeName     `json:"volume" col:"VOLUME"`
	State     org.VolumeState    `json:"state" col:"STATE"`
	Databases []org.DatabaseName `json:"databases" col:"DATABASES"`
	Size      org.Bytes          `json:"size" col:"SIZE"`
	Free      org.Bytes          `json:"free" col:"FREE"`
	Latency   time.Duration      `json:"write_latency" col:"P99"`
	Identity  string             `json:"identity,omitempty" col:"-"`
	Path      string             `json:"path,omitempty" col:"-"`
	Since     time.Time          `json:"since,omitzero" col:"-"`
	Failed    int                `json:"failures_in_a_week" col:"-"`
	Cause     string             `json:"cause,omitempty" col:"FAILURE"`
	Why       string             `json:"why,omitempty" col:"WHY"`
}

type volumeFilter struct {
	Server org.ServerName `json:"server" arg:"1" doc:"server; all when not given" complete:"server list"`
}

type volumeArg struct {
	Server org.ServerName `json:"server" arg:"1" required:"true" doc:"server of the volume" complete:"server list"`
	Volume org.VolumeName `json:"volume" arg:"2" required:"true" doc:"name of the volume"`
}

type volumeSet struct {
	volumeArg
	Spare  bool   `json:"spare" doc:"it is empty and takes the place of a volume that fails"`
	Data   bool   `json:"data" doc:"it holds copies, or may get some"`
	Retire bool   `json:"retire" doc:"nothing new is put on it; copies that are there stay until they are moved"`
	Why    string `json:"why" doc:"why, for the record"`
}

type volumeReset struct {
	volumeArg
	Spare  bool `json:"spare" doc:"make it a spare, also where copies could be put on it"`
	DryRun bool `json:"dry_run" doc:"only say what would be done"`
}

// volumeCommands are the entries about volumes.
func volumeCommands(k *Keeper) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "volume", Verb: "list", Short: "List volumes, what they hold and how they are", Roles: readers, Example: "postern volume list MBX1"},
			func(_ context.Context, in volumeFilter) ([]VolumeInfo, error) {
				return k.volumeInfos(in.Server, ""), nil
			}),
		command.New(command.Command{Noun: "volume", Verb: "show", Short: "Show one volume", Roles: readers, Example: "postern volume show MBX1 Vol2"},
			func(_ context.Context, in volumeArg) (VolumeInfo, error) {
				all := k.volumeInfos(in.Server, in.Volume)
				if len(all) == 0 {
					return VolumeInfo{}, k.noVolume(in)
				}
				return all[0], nil
			}),
		command.New(command.Command{Noun: "volume", Verb: "check", Short: "Name every problem of volumes and their layout, with its remedy", Roles: readers,
			Long: "Looks at the mark and the identity of each disk, whether it is a disk of its own, what lies on it besides databases, how many copies share it and how these are spread. A spare is looked at as one.", Example: "postern volume check MBX1"},
			k.volumeCheck),
		command.New(command.Command{Noun: "volume", Verb: "set", Short: "Say what a volume is for: data, spare, or not to be used again", Changes: true,
			Example: "postern volume set MBX1 Vol3 --spare"}, k.volumeSet),
		command.New(command.Command{Noun: "volume", Verb: "reset", Short: "Accept the disk of a volume again, or another one in its place", Changes: true, Dangerous: true,
			Long: "For a volume that failed or was retired, after its disk was mended or replaced. The disk has to be empty, or be one of this server with this volume's mark; a mark of another server is never overwritten. Where no copy is on it, it becomes a spare.", Example: "postern volume reset MBX1 Vol2 --dry-run"},
			k.volumeReset),
	}
}

func (k *Keeper) noVolume(in volumeArg) error {
	return kind.WithHint(kind.Errorf(kind.NotFound, "server %s has no volume %s", in.Server, in.Volume), "postern volume list "+string(in.Server))
}

// volumeInfos joins rows, configurations and reports.
func (k *Keeper) volumeInfos(server org.ServerName, volume org.VolumeName) []VolumeInfo {
	view := k.group.View()
	var out []VolumeInfo
	for _, srv := range view.Servers() {
		if server != "" && srv.Name != server {
			continue
		}
		for _, name := range volumeNames(view, srv) {
			if volume != "" && name != volume {
				continue
			}
			out = append(out, k.volumeInfo(view, srv, name))
		}
	}
	return out
}

// volumeNames are the volumes of a server: those it has, and those that only
// its copies name.
func volumeNames(view *cluster.View, srv org.Server) []org.VolumeName {
	names := slices.Clone(srv.Volumes)
	for _, d := range view.Databases() {
		if c, ok := d.Copy(srv.Name); ok && c.Volume != "" && !slices.Contains(names, c.Volume) {
			names = append(names, c.Volume)
		}
	}
	return names
}

func (k *Keeper) volumeInfo(view *cluster.View, srv org.Server, name org.VolumeName) VolumeInfo {
	info := VolumeInfo{Server: srv.Name, Volume: name, State: org.VolumeData}
	if row, _, ok := rowOf(view, srv, name); ok {
		info.State, info.Identity, info.Since, info.Size = cmpOr(row.State, org.VolumeData), row.Identity, row.Since, org.Bytes(row.Size)
		info.Failed, info.Why = row.Failures(time.Now().Add(-layout.Week)), row.Why
	}
	for _, d := range view.Databases() {
		if c, ok := d.Copy(srv.Name); ok && c.Volume == name {
			info.Databases = append(info.Databases, d.Name)
		}
	}
	if !k.heard(srv.Name) {
		info.Why = cmpOr(info.Why, "the server is not heard")
		return info
	}
	for _, st := range k.PeerVolumes(srv.Name) {
		if st.Volume == name {
			info.Path, info.Size, info.Free, info.Latency, info.Cause = st.Path, org.Bytes(st.Size), org.Bytes(st.Free), st.Latency, st.Cause
			info.Why = cmpOr(st.Why, info.Why)
		}
	}
	return info
}

// rowOf is the group's row of a volume of any server.
func rowOf(view *cluster.View, srv org.Server, name org.VolumeName) (row org.VolumeRow, rev int64, ok bool) {
	it, ok := view.Get(org.VolumeKey(srv.Name, name))
	if !ok {
		return row, 0, false
	}
	row, err := org.ParseVolume(it.Value)
	if err != nil || row.Member != srv.Identity {
		return org.VolumeRow{}, it.Revision, false
	}
	return row, it.Revision, true
}

func (k *Keeper) volumeCheck(ctx context.Context, in volumeFilter) ([]layout.Problem, error) {
	out := []layout.Problem{}
	view := k.group.View()
	for _, srv := range view.Servers() {
		switch names := volumeNames(view, srv); {
		case in.Server != "" && srv.Name != in.Server || len(names) == 0:
			continue
		case k.heard(srv.Name):
		case in.Server != "":
			return nil, kind.WithHint(kind.Errorf(kind.Busy, "volume check: server %s is not heard, so nobody can look at its %d volumes", srv.Name, len(names)), "postern server list")
		default:
			out = append(out, layout.Problem{Server: srv.Name, Level: layout.Error, Problem: fmt.Sprintf("the server is not heard, so nobody can look at its %d volumes", len(names)), Remedy: "postern server list"})
			continue
		}
		for _, name := range volumeNames(view, srv) {
			row, _, _ := rowOf(view, srv, name)
			found, err := k.checkVolumeAt(ctx, srv.Name, volumeRequest{Volume: name, Spare: row.State == org.VolumeSpare})
			if kind.Is(err, kind.Busy) && srv.Name != k.me {
				// It went away a moment ago: its other volumes would say the same.
				if in.Server != "" {
					return nil, kind.WithHint(kind.Errorf(kind.Busy, "volume check: server %s does not answer", srv.Name), "postern server list")
				}
				out = append(out, layout.Problem{Server: srv.Name, Level: layout.Error, Problem: "the server does not answer, so nobody can look at its volumes", Remedy: "postern server list"})
				break
			}
			if err != nil {
				found = []layout.Problem{{Server: srv.Name, Volume: name, Level: layout.Error, Problem: err.Error(), Remedy: "postern server list"}}
			}
			out = append(out, found...)
		}
	}
	if in.Server != "" && len(out) == 0 {
		if _, ok := view.Server(in.Server); !ok {
			return nil, kind.WithHint(kind.Errorf(kind.NotFound, "server %s does not exist", in.Server), "postern server list")
		}
	}
	return out, nil
}

func (k *Keeper) volumeSet(ctx context.Context, in volumeSet) (VolumeInfo, error) {
	to := map[org.VolumeState]bool{org.VolumeSpare: in.Spare, org.VolumeData: in.Data, org.VolumeRetired: in.Retire}
	var want []org.VolumeState
	for s, on := range to {
		if on {
			want = append(want, s)
		}
	}
	if len(want) != 1 {
		return VolumeInfo{}, kind.Errorf(kind.Invalid, "give one of --spare, --data and --retire")
	}
	if err := k.maySet(ctx, in.volumeArg, want[0]); err != nil {
		return VolumeInfo{}, err
	}
	err := k.editVolume(ctx, in.volumeArg, func(r *org.VolumeRow) error {
		r.Take()
		r.State, r.Since, r.Why = want[0], time.Now().UTC(), in.Why
		return nil
	})
	if err != nil {
		return VolumeInfo{}, err
	}
	return k.volumeInfos(in.Server, in.Volume)[0], nil
}

// maySet refuses what a volume cannot be.
func (k *Keeper) maySet(ctx context.Context, in volumeArg, to org.VolumeState) error {
	infos := k.volumeInfos(in.Server, in.Volume)
	if len(infos) == 0 {
		return k.noVolume(in)
	}
	if to != org.VolumeSpare {
		return nil
	}
	problems, err := k.checkVolumeAt(ctx, in.Server, volumeRequest{Volume: in.Volume, Spare: true})
	if err != nil {
		return err
	}
	for _, p := range problems {
		if p.Level == layout.Error {
			return kind.WithHint(kind.Errorf(kind.Conflict, "volume %s of %s cannot be a spare: %s", in.Volume, in.Server, p.Problem), p.Remedy)
		}
	}
	return nil
}

// editVolume changes a volume's row by compare and swap.
func (k *Keeper) editVolume(ctx context.Context, in volumeArg, f func(*org.VolumeRow) error) error {
	for range 5 {
		view := k.group.View()
		srv, ok := view.Server(in.Server)
		if !ok {
			return k.noVolume(in)
		}
		row, rev, _ := rowOf(view, srv, in.Volume)
		row.Server, row.Volume, row.Member = in.Server, in.Volume, srv.Identity
		if err := f(&row); err != nil {
			return err
		}
		b, err := json.Marshal(row)
		if err != nil {
			return err
		}
		key := org.VolumeKey(in.Server, in.Volume)
		_, err = k.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: rev}}, Then: []cluster.Op{{Key: key, Value: b}}})
		if !kind.Is(err, kind.Conflict) {
			return err
		}
		if err := k.group.Sync(ctx); err != nil {
			return err
		}
	}
	return kind.Errorf(kind.Conflict, "volume %s of %s is being changed by somebody else", in.Volume, in.Server)
}

func (k *Keeper) volumeReset(ctx context.Context, in volumeReset) (command.Plan, error) {
	infos := k.volumeInfos(in.Server, in.Volume)
	if len(infos) == 0 {
		return command.Plan{}, k.noVolume(in.volumeArg)
	}
	to := org.VolumeSpare
	if n := len(infos[0].Databases); n > 0 && in.Spare {
		return command.Plan{}, kind.WithHint(kind.Errorf(kind.Conflict, "volume %s of %s holds %d copies: it cannot be a spare", in.Volume, in.Server, n), "postern copy status")
	} else if n > 0 || infos[0].State == org.VolumeData && !in.Spare {
		to = org.VolumeData
	}
	p := command.Plan{DryRun: in.DryRun, Steps: []command.Step{
		{Name: "forget identity", Detail: cmpOr(infos[0].Identity, "none is known")},
		{Name: "accept the disk", Detail: fmt.Sprintf("at %s of %s, if it is empty or has a mark of this volume and server", cmpOr(infos[0].Path, "its folder"), in.Server)},
		{Name: "use as", Detail: string(to)},
	}}
	if in.DryRun {
		return p, nil
	}
	err := k.editVolume(ctx, in.volumeArg, func(r *org.VolumeRow) error {
		r.Take()
		r.Identity, r.State, r.Since, r.Why, r.FailedAt = "", to, time.Now().UTC(), "", nil
		return nil
	})
	return finish(p, err)
}
