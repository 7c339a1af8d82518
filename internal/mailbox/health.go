package mailbox

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
)

// Health are the room's health items. k may be nil for listing them.
func Health(k *Keeper) health.Items {
	return health.Join(copyHealth(k), volumeHealth(k), storeHealth(k))
}

func copyHealth(k *Keeper) health.Items {
	seen := &recent{k: k}
	look := func(f func(org.CopyStatus) (health.Reading, error)) health.Look {
		return func(_ context.Context, db string) (health.Reading, error) {
			all := seen.statuses()
			i := slices.IndexFunc(all, func(s org.CopyStatus) bool { return s.Database == org.DatabaseName(db) })
			if i < 0 {
				return health.Reading{}, nil // removed meanwhile
			}
			return f(all[i])
		}
	}
	return health.CopyItems(health.Copies{
		All: func() []string {
			var out []string
			if k != nil {
				for _, s := range seen.statuses() {
					out = append(out, string(s.Database))
				}
			}
			return out
		},
		State: look(func(s org.CopyStatus) (health.Reading, error) {
			r := health.Reading{Text: string(s.State)}
			// A person or AutoReseed looks after one that is suspended.
			if s.State == org.CopyFailed {
				return r, kind.Errorf(kind.Internal, "%s: %s", s.State, s.Reason)
			}
			return r, nil
		}),
		CopyQueue: look(func(s org.CopyStatus) (health.Reading, error) {
			return health.Reading{Value: float64(s.CopyQueueLength()), Text: string(s.State)}, nil
		}),
		ReplayQueue: look(func(s org.CopyStatus) (health.Reading, error) {
			if late := k.copy(s.Database); s.ReplayLag > 0 && late != nil && late.overdue() < lagTolerance {
				return health.Reading{Text: fmt.Sprintf("%s, %d generations wait for their lag", s.State, s.ReplayQueueLength())}, nil
			}
			return health.Reading{Value: float64(s.ReplayQueueLength()), Text: string(s.State)}, nil
		}),
		Single: func(context.Context, string) (health.Reading, error) {
			var alone []string
			if k != nil {
				alone = k.singleCopies()
			}
			if len(alone) > 0 {
				return health.Reading{Value: float64(len(alone))}, kind.Errorf(kind.Conflict, "one copy in sync only: %s", strings.Join(alone, " "))
			}
			return health.Reading{}, nil
		},
		Index: look(func(s org.CopyStatus) (health.Reading, error) {
			r := health.Reading{Text: string(s.ContentIndex)}
			// One that is made anew from the log is Crawling: that takes its time.
			if s.ContentIndex == org.IndexFailed && s.State != org.CopyFailed && s.State != org.CopyFailedAndSuspended {
				return r, kind.Errorf(kind.Internal, "the index is %s", s.ContentIndex)
			}
			return r, nil
		}),
	})
}

// recent keeps the statuses of the copies for a moment: many probes ask for each
// of them.
type recent struct {
	k *Keeper

	mu  sync.Mutex // guards the rest
	at  time.Time
	all []org.CopyStatus
}

// recentFor is how old what probes see may be.
const recentFor = 900 * time.Millisecond

func (r *recent) statuses() []org.CopyStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.at.IsZero() || now.Sub(r.at) >= recentFor {
		r.all, r.at = r.k.Statuses(), now
	}
	return r.all
}

// singleCopies are the databases active here whose mount row knows one copy in
// sync only, though they have several.
func (k *Keeper) singleCopies() []string {
	v := k.group.View()
	var out []string
	for _, mt := range v.Mounts() {
		def, ok := v.Database(mt.Database)
		if ok && mt.Active == k.me && len(def.Copies) > 1 && len(mt.InSync) < 2 {
			out = append(out, string(mt.Database))
		}
	}
	return out
}

func volumeHealth(k *Keeper) health.Items {
	look := func(f func(VolumeStatus) (health.Reading, error)) health.Look {
		return func(_ context.Context, name string) (health.Reading, error) {
			all := k.Volumes()
			i := slices.IndexFunc(all, func(s VolumeStatus) bool { return s.Volume == org.VolumeName(name) })
			if i < 0 || !all[i].Looked {
				return health.Reading{}, nil
			}
			return f(all[i])
		}
	}
	return health.VolumeItems(health.Volumes{
		All: func() []string {
			var out []string
			if k != nil {
				for _, s := range k.Volumes() {
					out = append(out, string(s.Volume))
				}
			}
			return out
		},
		Usable: look(func(s VolumeStatus) (health.Reading, error) {
			if s.Cause != "" {
				return health.Reading{}, kind.Errorf(kind.Internal, "%s: %s", s.Cause, s.Why)
			}
			return health.Reading{}, nil
		}),
		Latency: look(func(s VolumeStatus) (health.Reading, error) {
			return health.Reading{Value: s.Recent.Seconds(), Text: s.Recent.Round(time.Millisecond).String()}, nil
		}),
		Relative: look(func(s VolumeStatus) (health.Reading, error) {
			return relative(s, k.otherVolumes(s.Volume)), nil
		}),
		Space: look(space),
	})
}

// space tells of a volume with less than a tenth free, or lowSpace on a large one.
func space(s VolumeStatus) (health.Reading, error) {
	r := health.Reading{Value: 100 * float64(s.Free) / float64(max(s.Size, 1))}
	if limit := min(lowSpace, s.Size/10); s.Free < limit {
		return r, kind.Errorf(kind.Full, "%d MiB are free, less than %d MiB", s.Free>>20, limit>>20)
	}
	return r, nil
}

// unnoticed is how slow a disk may be, however fast others are, until anybody
// notices.
const unnoticed = 50 * time.Millisecond

// relative is how many times as long a volume's write tests take as the middle
// one of the others, 0 where it is fast or has none to be compared with.
func relative(s VolumeStatus, others []time.Duration) health.Reading {
	if s.Recent < unnoticed || len(others) == 0 {
		return health.Reading{}
	}
	slices.Sort(others)
	middle := max(others[(len(others)-1)/2], time.Microsecond)
	return health.Reading{Value: float64(s.Recent) / float64(middle),
		Text: fmt.Sprintf("%s beside %s of the others", s.Recent.Round(time.Millisecond), middle.Round(10*time.Microsecond))}
}

// otherVolumes are the recent latencies of all volumes of the group that work,
// but one of this server.
func (k *Keeper) otherVolumes(but org.VolumeName) []time.Duration {
	var out []time.Duration
	for _, s := range k.group.View().Servers() {
		for _, v := range k.PeerVolumes(s.Name) {
			if v.Recent > 0 && v.Cause == "" && (s.Name != k.me || v.Volume != but) {
				out = append(out, v.Recent)
			}
		}
	}
	return out
}

// lowSpace is how many free bytes a volume should have, at most.
const lowSpace = 180 << 30

// Suspend suspends the passive copy of a database on this server in the name of a
// part of the system. Errors: NotFound, Conflict for the active copy.
func (k *Keeper) Suspend(ctx context.Context, db org.DatabaseName, by, why string) error {
	at := copyArg{Database: db, Server: k.me}
	return k.editPassive(ctx, at, "suspended", func(d *org.Database, i int, _ *org.Mount) error {
		c := &d.Copies[i]
		if c.Suspended {
			return kind.Errorf(kind.Conflict, "the copy of %s is suspended already", db)
		}
		c.Suspended, c.SuspendedBy, c.SuspendComment = true, by, why
		return nil
	})
}

// ResumeFrom ends what Suspend of the same part of the system began, when the copy
// has left its role.
func (k *Keeper) ResumeFrom(ctx context.Context, db org.DatabaseName, by string) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for at := true; at; {
		at = slices.ContainsFunc(k.Statuses(), func(s org.CopyStatus) bool {
			return s.Database == db && s.State != org.CopySuspended && s.State != org.CopyFailedAndSuspended
		})
		select {
		case <-tick.C:
		case <-ctx.Done():
			at = false // it is resumed in any case
		}
	}
	return k.editCopy(context.WithoutCancel(ctx), copyArg{Database: db, Server: k.me}, func(c *org.Copy) error {
		if c.SuspendedBy != by {
			return kind.Errorf(kind.Conflict, "somebody else has suspended the copy of %s meanwhile", db)
		}
		c.Suspended, c.SuspendedBy, c.SuspendComment = false, "", ""
		return nil
	})
}
