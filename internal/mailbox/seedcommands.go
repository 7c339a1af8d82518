package mailbox

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// Seed is a seed that is under way, or waits, as commands show it.
type Seed struct {
	Database org.DatabaseName `json:"database" col:"DATABASE"`
	Server   org.ServerName   `json:"server" col:"SERVER"`
	Volume   org.VolumeName   `json:"volume" col:"VOLUME"`
	Source   org.ServerName   `json:"source,omitempty" col:"SOURCE"`
	Network  string           `json:"network,omitempty" col:"NETWORK"`
	Done     int64            `json:"done" col:"DONE"`   // bytes
	Total    int64            `json:"total" col:"TOTAL"` // bytes
	Percent  int64            `json:"percent" col:"%"`
	Rate     int64            `json:"rate" col:"BYTES/S"`
	Left     time.Duration    `json:"left,omitempty" col:"LEFT"` // at this rate; 0 while it is not known
	Reason   string           `json:"reason,omitempty" col:"STATE"`
}

// Seeds are the seeds of the group that are under way or wait, by database.
func (k *Keeper) Seeds() []Seed {
	var out []Seed
	for _, d := range k.group.View().Databases() {
		for _, c := range d.Copies {
			st, ok := k.peerStatus(c.Server, d.Name)
			if !ok || !k.heard(c.Server) || st.State != org.CopySeeding && st.SeedTotal == 0 {
				continue
			}
			out = append(out, seedOf(st))
		}
	}
	return out
}

// seedOf reads a seed from a status.
func seedOf(st org.CopyStatus) Seed {
	s := Seed{Database: st.Database, Server: st.Server, Volume: st.Volume, Source: st.SeedSource, Network: st.Network, Done: st.SeedDone, Total: st.SeedTotal, Rate: st.RateIn, Reason: st.Reason}
	if s.Total > 0 {
		s.Percent = s.Done * 100 / s.Total
	}
	if st.State != org.CopySeeding {
		s.Rate = 0 // it was stopped: what came in a moment ago says nothing about its end
	}
	if s.Rate > 0 && s.Total > s.Done {
		s.Left = time.Duration(float64(s.Total-s.Done) / float64(s.Rate) * float64(time.Second)).Round(time.Second)
	}
	return s
}

type updateCopy struct {
	Database     org.DatabaseName `json:"database" arg:"1" doc:"name of the database" complete:"database list"`
	Copy         org.ServerName   `json:"copy" arg:"2" doc:"server of the copy; its only passive one when not given" complete:"server list"`
	Server       org.ServerName   `json:"server" doc:"all passive copies of this server, instead of one database" complete:"server list"`
	Most         int              `json:"maximum_in_parallel" default:"10" doc:"how many copies are seeded at a time"`
	Source       org.ServerName   `json:"source" doc:"copy to seed from; the active one when not given"`
	Network      string           `json:"network" doc:"network to seed by while it works; the one preferred for replication when not given" complete:"network list"`
	Begin        bool             `json:"begin" doc:"return as soon as the seeds are ordered"`
	Cancel       bool             `json:"cancel" doc:"stop seeds that are under way; the copies stay suspended"`
	SafeDelete   bool             `json:"safe_delete" doc:"refuse where fewer than two other copies would hold everything"`
	ManualResume bool             `json:"manual_resume" doc:"leave the copies suspended when they are seeded"`
	Rate         int64            `json:"rate" doc:"bytes per second for each copy; 0 leaves its limit as it is"`
	NoThrottle   bool             `json:"no_throttle" doc:"lift the limit of each copy"`
	DryRun       bool             `json:"dry_run" doc:"only say what would be done"`
}

type setCopy struct {
	copyArg
	Preference int    `json:"preference" doc:"activation preference from 1 on; as it is when not given"`
	AutoReseed string `json:"auto_reseed" enum:"on,off" doc:"whether AutoReseed may empty and seed the copy; as it is when not given"`
	lagOrder
}

// setCopy changes what is kept of a copy.
func (k *Keeper) setCopy(ctx context.Context, in setCopy) ([]CopyRow, error) {
	if in.Preference < 0 || in.Preference > 16 {
		return nil, kind.Errorf(kind.Invalid, "--preference %d: want 1 to 16", in.Preference)
	}
	if in.Preference == 0 && in.AutoReseed == "" && in.lagOrder == (lagOrder{}) {
		return nil, kind.Errorf(kind.Invalid, "give --preference, --auto-reseed, --replay-lag or --truncation-lag")
	}
	if err := k.mayLag(in.copyArg, in.lagOrder); err != nil {
		return nil, err
	}
	err := k.editCopy(ctx, in.copyArg, func(c *org.Copy) error {
		c.Preference = cmpOr(in.Preference, c.Preference)
		if in.AutoReseed != "" {
			c.NoAutoReseed = in.AutoReseed == "off"
		}
		return in.lagOrder.apply(c)
	})
	return k.copyRows(in.Database), err
}

// seedCommands are the entries about seeding.
func seedCommands(k *Keeper) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "copy", Verb: "set", Short: "Change the activation preference of a copy, its replay lag, or keep AutoReseed off it", Changes: true,
			Long:    "A copy with a replay lag takes log at once, so it may be in sync, and replays it so much later: postern mailbox recover takes from it what was destroyed since. It is not activated by itself unless --activatable is given. A lag longer than hold_time of transport is refused: Safety Net could not make good what the copy has not replayed.",
			Example: "postern copy set DB01 MBX3 --auto-reseed off"}, k.setCopy),
		command.New(command.Command{Noun: "copy", Verb: "seeds", Short: "Show seeds with their rate and the time left", Roles: readers, Example: "postern copy seeds"},
			func(_ context.Context, _ command.None) ([]Seed, error) { return k.Seeds(), nil }),
		command.New(command.Command{Noun: "copy", Verb: "update", Short: "Empty passive copies and seed them anew", Changes: true, Dangerous: true, Stream: true,
			Long: "Seeds one copy, or with --server all passive copies of a server, and waits until they are healthy. Each server bounds how many of its seeds run at a time, and how many of them from one source. " +
				"Broken off by Ctrl-C, the seeds that were ordered go on (postern copy seeds); --cancel stops them.",
			Example: "postern copy update DB01 MBX3 --source MBX2 --safe-delete"}, k.updateCopies),
	}
}

func (k *Keeper) updateCopies(ctx context.Context, in updateCopy) (command.Plan, error) {
	if in.Rate < 0 || in.Most < 1 {
		return command.Plan{}, kind.Errorf(kind.Invalid, "--rate %d, --maximum-in-parallel %d: want 0 or more, and at least 1", in.Rate, in.Most)
	}
	if in.Network != "" && (k.deps.Paths == nil || !k.deps.Paths.Carries(in.Network)) {
		return command.Plan{}, kind.WithHint(kind.Errorf(kind.NotFound, "there is no network %.60q that carries log", in.Network), "postern network list")
	}
	targets, err := k.updateTargets(in)
	if err != nil {
		return command.Plan{}, err
	}
	if in.Cancel {
		return k.cancelSeeds(ctx, targets, in.DryRun)
	}
	p := command.Plan{DryRun: in.DryRun}
	for _, t := range targets {
		if err := k.mayUpdate(t, in); err != nil {
			return command.Plan{}, err
		}
		p.Steps = append(p.Steps, command.Step{Name: "empty and seed", Detail: fmt.Sprintf("%s on %s, from %s", t.Database, t.Server, cmpOr(string(in.Source), "the active copy"))})
	}
	if in.DryRun {
		return p, nil
	}
	return k.runUpdates(ctx, p, targets, in)
}

// updateTargets are the copies an order names.
func (k *Keeper) updateTargets(in updateCopy) ([]copyArg, error) {
	view := k.group.View()
	var out []copyArg
	switch {
	case in.Server != "" && in.Database != "":
		return nil, kind.Errorf(kind.Invalid, "give a database, or --server for all copies of a server")
	case in.Server != "":
		for _, d := range view.Databases() {
			m, _ := view.Mount(d.Name)
			if _, ok := d.Copy(in.Server); ok && m.Active != in.Server {
				out = append(out, copyArg{d.Name, in.Server})
			}
		}
		if len(out) == 0 {
			return nil, kind.WithHint(kind.Errorf(kind.NotFound, "server %s has no passive copies", in.Server), "postern copy status")
		}
		return out, nil
	case in.Database == "":
		return nil, kind.Errorf(kind.Invalid, "give a database, or --server for all copies of a server")
	}
	def, ok := view.Database(in.Database)
	if !ok {
		return nil, k.noDatabase(in.Database)
	}
	m, _ := view.Mount(in.Database)
	for _, c := range def.Copies {
		if c.Server == in.Copy || in.Copy == "" && c.Server != m.Active {
			out = append(out, copyArg{in.Database, c.Server})
		}
	}
	switch hint := "postern copy status " + string(in.Database); {
	case len(out) == 0 && in.Copy != "":
		return nil, kind.WithHint(kind.Errorf(kind.NotFound, "%s has no copy on %s", in.Database, in.Copy), hint)
	case len(out) == 0:
		return nil, kind.WithHint(kind.Errorf(kind.NotFound, "%s has no passive copy", in.Database), hint)
	case len(out) > 1:
		return nil, kind.WithHint(kind.Errorf(kind.Invalid, "%s has %d passive copies: say which of them", in.Database, len(out)), hint)
	}
	return out, nil
}

// mayUpdate refuses what would cost the last copy, or cannot be seeded. Hours may
// pass until the seed's turn comes: orderReseed judges again.
func (k *Keeper) mayUpdate(t copyArg, in updateCopy) error {
	view := k.group.View()
	def, _ := view.Database(t.Database)
	m, _ := view.Mount(t.Database)
	if err := passive(m, t, "seeded"); err != nil {
		return err
	}
	if _, ok := k.peerStatus(t.Server, t.Database); !ok || !k.heard(t.Server) {
		return kind.WithHint(kind.Errorf(kind.Busy, "%s is not heard: its copy of %s cannot be seeded now", t.Server, t.Database), "postern server list")
	}
	if in.Source != "" {
		st, ok := k.peerStatus(in.Source, t.Database)
		if _, has := def.Copy(in.Source); !has || in.Source == t.Server || !ok || !k.heard(in.Source) || st.State != org.CopyHealthy && st.State != org.CopyMounted {
			return kind.WithHint(kind.Errorf(kind.Conflict, "%s has no healthy copy of %s to seed from", in.Source, t.Database), "postern copy status "+string(t.Database))
		}
	}
	if in.SafeDelete {
		return mayEmpty(m, t)
	}
	m.InSync = slices.Clone(m.InSync)
	return leaveSet(&m, t.Server)
}

// mayEmpty refuses where fewer than two other copies would hold everything.
func mayEmpty(m org.Mount, t copyArg) error {
	others := len(slices.DeleteFunc(slices.Clone(m.InSync), func(s org.ServerName) bool { return s == t.Server }))
	if others < 2 && m.IsInSync(t.Server) {
		return kind.WithHint(kind.Errorf(kind.Conflict, "%s: without the copy on %s only %d would hold everything", t.Database, t.Server, others), "postern copy status "+string(t.Database))
	}
	return nil
}

// runUpdates orders the seeds, so many at a time, and waits for them.
func (k *Keeper) runUpdates(ctx context.Context, p command.Plan, targets []copyArg, in updateCopy) (command.Plan, error) {
	orders := make([]int, len(targets))
	next, running, said := 0, []int{}, make([]string, len(targets))
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for next < len(targets) || len(running) > 0 {
		for next < len(targets) && (in.Begin || len(running) < in.Most) {
			n, err := k.orderUpdate(ctx, targets[next], in)
			if err != nil {
				return p, err
			}
			orders[next] = n
			running = append(running, next)
			next++
		}
		if in.Begin {
			break
		}
		select {
		case <-ctx.Done():
			return p, ctx.Err()
		case <-tick.C:
		}
		running = slices.DeleteFunc(running, func(i int) bool {
			line, over, err := k.updateOver(targets[i], orders[i])
			if line != "" && line != said[i] {
				command.Progress(ctx, "%s on %s%s", targets[i].Database, targets[i].Server, line)
				said[i] = line
			}
			p.Steps[i].Done = over && err == nil
			if err != nil {
				p.Steps[i].Error = err.Error()
			}
			return over
		})
	}
	if in.Begin {
		return done(p), nil
	}
	return p, nil
}

// orderUpdate orders one seed and returns its number.
func (k *Keeper) orderUpdate(ctx context.Context, t copyArg, in updateCopy) (int, error) {
	n := 0
	order := func(c *org.Copy) error {
		c.SeedFrom, c.SeedNetwork, c.SeedManual = in.Source, in.Network, in.ManualResume
		if in.Rate > 0 {
			c.SeedRate = in.Rate
		}
		if in.NoThrottle {
			c.SeedRate = 0
		}
		n = c.SeedCount
		return nil
	}
	err := k.orderReseed(ctx, t, "seeded", in.SafeDelete, order) // sets n
	return n, err
}

// updateOver tells in words how far an ordered seed is, and whether it is over.
func (k *Keeper) updateOver(t copyArg, order int) (line string, over bool, err error) {
	def, _ := k.group.View().Database(t.Database)
	c, ok := def.Copy(t.Server)
	if !ok || c.SeedCount > order {
		return "", true, kind.Errorf(kind.Conflict, "%s on %s: somebody else changed the copy", t.Database, t.Server)
	}
	if c.Suspended {
		if c.SuspendComment == seededComment {
			return " is seeded and suspended", true, nil
		}
		return "", true, kind.Errorf(kind.Conflict, "%s on %s was suspended: %s", t.Database, t.Server, c.SuspendComment)
	}
	st, ok := k.peerStatus(t.Server, t.Database)
	if !ok || !k.heard(t.Server) {
		return ": its server is not heard; the seed goes on when it is", false, nil
	}
	line, over = seedSentence(st, order, c.SeedManual)
	return line, over, nil
}

// seedSentence says how far the seed of an order is, after the name of the copy,
// and whether it is over. held is for one that is suspended at its end.
func seedSentence(st org.CopyStatus, order int, held bool) (line string, over bool) {
	switch {
	case st.SeedCount < order:
		return "", false // it has not heard of the order
	case st.State == org.CopyHealthy || st.State == org.CopyMounted:
		return " is healthy", !held
	case st.SeedTotal == 0 && st.Reason == "":
		return ": " + string(st.State), false
	case st.SeedTotal == 0:
		return fmt.Sprintf(": %s, %s", st.State, st.Reason), false
	}
	s := seedOf(st)
	left := "time left not known"
	if s.Left > 0 {
		left = s.Left.String() + " left"
	}
	return fmt.Sprintf(": %d%% from %s, %.1f MB/s, %s", s.Percent, s.Source, float64(s.Rate)/1e6, left), false
}

// Comments of suspensions by seeds.
const (
	seededComment    = "seeded; resume it when you like"
	cancelledComment = "its seed was cancelled"
)

// cancelSeeds stops seeds; the copies stay suspended.
func (k *Keeper) cancelSeeds(ctx context.Context, targets []copyArg, dry bool) (command.Plan, error) {
	p := command.Plan{DryRun: dry}
	for _, t := range targets {
		st, ok := k.peerStatus(t.Server, t.Database)
		if !ok || st.State != org.CopySeeding && st.SeedTotal == 0 {
			continue
		}
		p.Steps = append(p.Steps, command.Step{Name: "suspend", Detail: fmt.Sprintf("%s on %s at %d of %d bytes", t.Database, t.Server, st.SeedDone, st.SeedTotal)})
		if dry {
			continue
		}
		err := k.editCopy(ctx, t, func(c *org.Copy) error {
			c.Suspended, c.ActivationSuspended, c.SuspendedBy, c.SuspendComment = true, true, "", cancelledComment
			return nil
		})
		if err != nil {
			return p, err
		}
		p.Steps[len(p.Steps)-1].Done = true
	}
	if len(p.Steps) == 0 {
		return p, kind.WithHint(kind.Errorf(kind.NotFound, "no seed is under way there"), "postern copy seeds")
	}
	return p, nil
}

// holdSeeded suspends a copy that was seeded and is to be resumed by hand.
func (c *dbCopy) holdSeeded(ctx context.Context) {
	c.mu.Lock()
	mine, _ := c.def.Copy(c.k.me)
	due := mine.SeedManual && c.state == org.CopyHealthy
	c.mu.Unlock()
	if !due {
		return
	}
	err := c.k.editCopy(ctx, copyArg{c.name, c.k.me}, func(r *org.Copy) error {
		r.Suspended, r.ActivationSuspended, r.SuspendComment, r.SeedManual = true, true, seededComment, false
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.log.Warn("suspend a seeded copy", "err", err) // the next turn tries again
	}
}
