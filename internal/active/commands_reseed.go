package active

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// ReseedInfo is AutoReseed's work on a volume as commands show it.
type ReseedInfo struct {
	Server    org.ServerName                      `json:"server" col:"SERVER"`
	Volume    org.VolumeName                      `json:"volume" col:"VOLUME"`
	Stage     org.ReseedStage                     `json:"stage" col:"STAGE"`
	Databases []org.DatabaseName                  `json:"databases" col:"DATABASES"`
	Spare     org.VolumeName                      `json:"spare,omitempty" col:"SPARE"`
	Cause     string                              `json:"cause,omitempty" col:"CAUSE"`
	Since     time.Time                           `json:"since" col:"SINCE"`
	Next      *time.Time                          `json:"next,omitempty" col:"NEXT"`
	Why       string                              `json:"why,omitempty" col:"WAITS FOR"`
	Error     string                              `json:"error,omitempty" col:"ERROR"`
	Begun     time.Time                           `json:"begun" col:"-"`
	Tries     map[org.ReseedStage]int             `json:"tries,omitempty" col:"-"`
	Sources   map[org.DatabaseName]org.ServerName `json:"sources,omitempty" col:"-"`
}

type reseedFilter struct {
	Server org.ServerName `json:"server" arg:"1" doc:"server; all when not given" complete:"server list"`
}

type reseedArg struct {
	Server org.ServerName `json:"server" arg:"1" required:"true" doc:"server of the volume" complete:"server list"`
	Volume org.VolumeName `json:"volume" arg:"2" required:"true" doc:"name of the volume that failed"`
}

type reseedCancel struct {
	reseedArg
	Why string `json:"why" doc:"why, for the record"`
}

// StepInfo is one step of AutoReseed's work.
type StepInfo struct {
	At    time.Time       `json:"at" col:"TIME"`
	Stage org.ReseedStage `json:"stage" col:"STAGE"`
	Text  string          `json:"text" col:"STEP"`
}

func reseedCommands(m *Manager) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "reseed", Verb: "list", Short: "List what AutoReseed does with volumes whose copies failed", Roles: read, Example: "postern reseed list MBX1"},
			func(_ context.Context, in reseedFilter) ([]ReseedInfo, error) { return m.reseeds(in.Server), nil }),
		command.New(command.Command{Noun: "reseed", Verb: "show", Short: "Show each step of AutoReseed's work on a volume", Roles: read, Example: "postern reseed show MBX1 Vol2"},
			func(_ context.Context, in reseedArg) ([]StepInfo, error) {
				row, _, err := m.reseedRow(in)
				if err != nil {
					return nil, err
				}
				out := []StepInfo{}
				for _, s := range row.Steps {
					out = append(out, StepInfo(s))
				}
				return out, nil
			}),
		command.New(command.Command{Noun: "reseed", Verb: "retry", Short: "Have AutoReseed act on a volume at once, also after its tries were used up or it was cancelled", Changes: true, Example: "postern reseed retry MBX1 Vol2"},
			func(ctx context.Context, in reseedArg) ([]ReseedInfo, error) {
				err := m.editReseed(ctx, in, func(r *org.Reseed) { r.Retry, r.Cancelled = true, "" })
				return m.reseeds(in.Server), err
			}),
		command.New(command.Command{Noun: "reseed", Verb: "cancel", Short: "Hold AutoReseed back from a volume until it is retried; seeds that run go on", Changes: true, Example: "postern reseed cancel MBX1 Vol2 --why 'the disk is replaced today'"},
			func(ctx context.Context, in reseedCancel) ([]ReseedInfo, error) {
				why := in.Why
				if why == "" {
					why = "cancelled by an administrator"
				}
				err := m.editReseed(ctx, in.reseedArg, func(r *org.Reseed) { r.Cancelled, r.Retry = why, false })
				return m.reseeds(in.Server), err
			}),
	}
}

// reseeds lists the rows of AutoReseed.
func (m *Manager) reseeds(server org.ServerName) []ReseedInfo {
	v := m.group.View()
	out := []ReseedInfo{}
	for key := range v.Prefix(org.ReseedPrefix) {
		it, _ := v.Get(key)
		r, err := org.ParseReseed(it.Value)
		if err != nil || server != "" && r.Server != server {
			continue
		}
		info := ReseedInfo{Server: r.Server, Volume: r.Volume, Stage: r.Stage, Databases: r.Databases, Spare: r.Spare, Cause: r.Cause,
			Since: r.Since, Why: r.Why, Error: r.Error, Begun: r.Begun, Tries: r.Tries, Sources: r.Sources}
		if !r.Next.IsZero() {
			info.Next = &r.Next
		}
		if r.Cancelled != "" {
			info.Why = "cancelled: " + r.Cancelled
		}
		out = append(out, info)
	}
	slices.SortFunc(out, func(a, b ReseedInfo) int { return b.Since.Compare(a.Since) })
	return out
}

func (m *Manager) reseedRow(in reseedArg) (org.Reseed, int64, error) {
	it, ok := m.group.View().Get(org.ReseedKey(in.Server, in.Volume))
	if !ok {
		return org.Reseed{}, 0, kind.WithHint(kind.Errorf(kind.NotFound, "AutoReseed has no work on volume %s of %s", in.Volume, in.Server), "postern reseed list")
	}
	row, err := org.ParseReseed(it.Value)
	return row, it.Revision, err
}

// editReseed changes a row of AutoReseed by compare and swap.
func (m *Manager) editReseed(ctx context.Context, in reseedArg, f func(*org.Reseed)) error {
	for range 5 {
		row, rev, err := m.reseedRow(in)
		if err != nil {
			return err
		}
		f(&row)
		b, err := json.Marshal(row)
		if err != nil {
			return err
		}
		key := org.ReseedKey(in.Server, in.Volume)
		_, err = m.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: key, Revision: rev}}, Then: []cluster.Op{{Key: key, Value: b}}})
		if !kind.Is(err, kind.Conflict) {
			return err
		}
		if err := m.group.Sync(ctx); err != nil {
			return err
		}
	}
	return kind.Errorf(kind.Conflict, "AutoReseed of volume %s of %s is being changed by somebody else", in.Volume, in.Server)
}
