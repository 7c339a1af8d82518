package mailbox

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// DatabaseRow is a database as commands show it.
type DatabaseRow struct {
	Name       org.DatabaseName `json:"name" col:"DATABASE"`
	Active     org.ServerName   `json:"active" col:"ACTIVE"`
	State      org.CopyState    `json:"state" col:"STATE"`
	Term       org.Term         `json:"term" col:"TERM"`
	InSync     []org.ServerName `json:"in_sync" col:"IN-SYNC"`
	Copies     []org.ServerName `json:"copies" col:"COPIES"`
	Redundancy org.Redundancy   `json:"redundancy" col:"-"`
	// MinimumCopies stay in sync when a server is taken out for maintenance.
	MinimumCopies int       `json:"minimum_copies" col:"-"`
	Alone         bool      `json:"alone" col:"ALONE"`
	Since         time.Time `json:"since" col:"-"`
	Why           string    `json:"why,omitempty" col:"-"`
}

// CopyRow is a copy as commands show it.
type CopyRow struct {
	Database   org.DatabaseName `json:"database" col:"DATABASE"`
	Server     org.ServerName   `json:"server" col:"SERVER"`
	Volume     org.VolumeName   `json:"volume" col:"VOLUME"`
	Preference int              `json:"activation_preference" col:"PREF"`
	State      org.CopyState    `json:"state" col:"STATE"`
	InSync     bool             `json:"in_sync" col:"IN-SYNC"`
	CopyQueue  uint64           `json:"copy_queue_length" col:"COPYQ"`
	ReplayQ    uint64           `json:"replay_queue_length" col:"REPLAYQ"`
	CopyBytes  int64            `json:"copy_queue_bytes" col:"-"`
	ReplayByte int64            `json:"replay_queue_bytes" col:"-"`
	Copied     org.Bytes        `json:"log_copied" col:"COPIED"`
	Replayed   org.LSN          `json:"log_replayed" col:"-"`
	Term       org.Term         `json:"term" col:"-"`
	Seed       string           `json:"seed,omitempty" col:"SEED"`
	DiskUsed   int64            `json:"disk_used" col:"-"`
	Repairs    uint64           `json:"repairs" col:"-"`
	Blocked    bool             `json:"activation_suspended" col:"-"`
	Network    string           `json:"network,omitempty" col:"-"`
	Lag        string           `json:"lag,omitempty" col:"LAG"`
	ReplayLag  time.Duration    `json:"replay_lag,omitempty" col:"-"`
	LagNow     time.Duration    `json:"replay_lag_now,omitempty" col:"-"`
	LagWhy     string           `json:"replay_lag_why,omitempty" col:"-"`
	Truncation time.Duration    `json:"truncation_lag,omitempty" col:"-"`
	Reason     string           `json:"reason,omitempty" col:"REASON"`
}

type databaseArg struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the database"`
}

type databaseFilter struct {
	Database org.DatabaseName `json:"database" arg:"1" doc:"name of the database; all when not given"`
}

type createDatabase struct {
	Database   org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the new database"`
	Servers    string           `json:"servers" required:"true" doc:"servers for its copies, comma separated, most preferred first"`
	Volume     org.VolumeName   `json:"volume" doc:"volume for the copies; the least used one of each server when not given"`
	Redundancy org.Redundancy   `json:"redundancy" default:"two-while-possible" enum:"two-while-possible,always-two" doc:"when changes are confirmed"`
}

type removeDatabase struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the database"`
	DryRun   bool             `json:"dry_run" doc:"only say what would be done"`
}

type copyArg struct {
	Database org.DatabaseName `json:"database" arg:"1" required:"true" doc:"name of the database"`
	Server   org.ServerName   `json:"server" arg:"2" required:"true" doc:"server of the copy"`
}

type addCopy struct {
	copyArg
	Volume     org.VolumeName `json:"volume" doc:"volume for the copy; the least used one when not given"`
	Preference int            `json:"preference" doc:"activation preference; last when not given"`
	SeedFrom   org.ServerName `json:"seed_from" doc:"copy to seed from; the active one when not given"`
	SeedRate   int64          `json:"seed_rate" doc:"bytes per second while seeding, 0 for no limit"`
}

type removeCopy struct {
	copyArg
	DryRun bool `json:"dry_run" doc:"only say what would be done"`
}

type suspendCopy struct {
	copyArg
	ActivationOnly bool   `json:"activation_only" doc:"go on copying; only do not activate it"`
	Comment        string `json:"comment" doc:"why, up to 512 characters"`
}

type resumeCopy struct {
	copyArg
	ReplicationOnly bool `json:"replication_only" doc:"copy again; the activation stays suspended if it is"`
}

type reseedCopy struct {
	copyArg
	SeedFrom org.ServerName `json:"seed_from" doc:"copy to seed from; the active one when not given"`
	SeedRate int64          `json:"seed_rate" doc:"bytes per second, 0 for no limit"`
	DryRun   bool           `json:"dry_run" doc:"only say what would be done"`
}

type verifyCopies struct {
	Database org.DatabaseName `json:"database" arg:"1" doc:"name of the database; all when not given"`
	Bodies   bool             `json:"bodies" default:"true" doc:"also read every byte of every copy"`
}

type scrubCopy struct {
	copyArg
	Rate int64 `json:"rate" doc:"bytes per second, 0 for as fast as it goes"`
}

// Commands are the room's entries of the command table. k may be nil for
// listing them.
func Commands(k *Keeper) []command.Command {
	return slices.Concat(databaseCommands(k), volumeCommands(k), seedCommands(k), []command.Command{recoverCommand(k)})
}

// databaseCommands are the entries about databases and their copies.
func databaseCommands(k *Keeper) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "database", Verb: "list", Short: "List databases, where they are active and which copies are in sync", Roles: readers},
			func(_ context.Context, _ command.None) ([]DatabaseRow, error) { return k.databaseRows(""), nil }),
		command.New(command.Command{Noun: "database", Verb: "show", Short: "Show one database", Roles: readers},
			func(_ context.Context, in databaseArg) (DatabaseRow, error) { return k.databaseRow(in.Database) }),
		command.New(command.Command{Noun: "database", Verb: "create", Short: "Create a mailbox database and its copies", Changes: true,
			Example: "postern database create DB04 --servers MBX1,MBX2,MBX3"}, k.createDatabase),
		command.New(command.Command{Noun: "database", Verb: "remove", Short: "Remove a database; its files are set aside on each server", Changes: true, Dangerous: true}, k.removeDatabase),
		command.New(command.Command{Noun: "copy", Verb: "status", Short: "Show the state and queue lengths of database copies", Roles: readers, Example: "postern copy status DB01"},
			func(_ context.Context, in databaseFilter) ([]CopyRow, error) { return k.copyRows(in.Database), nil }),
		command.New(command.Command{Noun: "copy", Verb: "add", Short: "Add a copy on a server; it is seeded while writes go on", Changes: true, Example: "postern copy add DB01 MBX3 --volume Vol2"}, k.addCopy),
		command.New(command.Command{Noun: "copy", Verb: "remove", Short: "Remove a passive copy; its files are set aside", Changes: true, Dangerous: true, Example: "postern copy remove DB01 MBX3 --dry-run"}, k.removeCopy),
		command.New(command.Command{Noun: "copy", Verb: "suspend", Short: "Stop copying to, or only activation of, a copy", Changes: true, Example: "postern copy suspend DB01 MBX3 --activation-only --comment 'slow disk'"}, k.suspendCopy),
		command.New(command.Command{Noun: "copy", Verb: "resume", Short: "Resume a suspended copy", Changes: true,
			Long:    "The copy takes log again and may be activated. With --replication-only it takes log, and what was suspended of its activation stays so until postern copy resume without it.",
			Example: "postern copy resume DB01 MBX3 --replication-only"}, k.resumeCopy),
		command.New(command.Command{Noun: "copy", Verb: "reseed", Short: "Empty a passive copy and seed it anew", Changes: true, Dangerous: true, Example: "postern copy reseed DB01 MBX3 --dry-run"}, k.reseedCopy),
		command.New(command.Command{Noun: "copy", Verb: "verify", Short: "Compare all copies of a database at one position of the log", Stream: true,
			Long: "Writes a marker into the log. Each copy that reaches it compares checksums of its log and a digest of its index; with --bodies every byte of every copy is read too.", Example: "postern copy verify DB01"}, k.verifyCommand),
		command.New(command.Command{Noun: "copy", Verb: "scrub", Short: "Read a whole copy and repair what is damaged", Changes: true, Stream: true, Example: "postern copy scrub DB01 MBX3 --rate 50000000"},
			func(ctx context.Context, in scrubCopy) (scrubResult, error) {
				return callPeer[scrubRequest, scrubResult](ctx, k, in.Server, "Scrub", in.Database, scrubRequest{Rate: in.Rate})
			}),
		command.New(command.Command{Noun: "database", Verb: "reclaim", Short: "Write the living part of the oldest log again and drop the rest", Changes: true}, k.reclaimCommand),
	}
}

var readers = []command.Role{command.ServerAdmin, command.Auditor}

func (k *Keeper) noDatabase(db org.DatabaseName) error {
	return kind.WithHint(kind.Errorf(kind.NotFound, "database %s does not exist", db), "postern database list")
}

func (k *Keeper) databaseRow(db org.DatabaseName) (DatabaseRow, error) {
	rows := k.databaseRows(db)
	if len(rows) == 0 {
		return DatabaseRow{}, k.noDatabase(db)
	}
	return rows[0], nil
}

func (k *Keeper) databaseRows(only org.DatabaseName) []DatabaseRow {
	v := k.group.View()
	var rows []DatabaseRow
	for _, def := range v.Databases() {
		if only != "" && def.Name != only {
			continue
		}
		m, _ := v.Mount(def.Name)
		r := DatabaseRow{Name: def.Name, Active: m.Active, Term: m.Term, InSync: m.InSync, Alone: m.AloneSince != nil,
			Redundancy: cmpOr(def.Redundancy, org.TwoWhilePossible), MinimumCopies: def.KeptInSync(), Since: m.Since, Why: m.Why, State: org.CopyDismounted}
		for _, c := range def.Copies {
			r.Copies = append(r.Copies, c.Server)
		}
		if m.Active != "" {
			r.State = org.CopyServiceDown
			if st, ok := k.peerStatus(m.Active, def.Name); ok && k.heard(m.Active) {
				r.State = st.State
			}
		}
		rows = append(rows, r)
	}
	return rows
}

// heard tells whether a server's reports can be trusted to be of now.
func (k *Keeper) heard(s org.ServerName) bool { return s == k.me || k.peerUp(s) }

func (k *Keeper) copyRows(only org.DatabaseName) []CopyRow {
	v := k.group.View()
	var rows []CopyRow
	for _, def := range v.Databases() {
		if only != "" && def.Name != only {
			continue
		}
		m, _ := v.Mount(def.Name)
		var generated org.LSN
		if st, ok := k.peerStatus(m.Active, def.Name); ok {
			generated = st.Generated
		}
		for _, c := range def.Copies {
			r := CopyRow{Database: def.Name, Server: c.Server, Volume: c.Volume, Preference: c.Preference, InSync: m.IsInSync(c.Server), Blocked: c.ActivationSuspended, State: org.CopyServiceDown,
				ReplayLag: c.ReplayLag, Truncation: c.TruncationLag}
			st, ok := k.peerStatus(c.Server, def.Name)
			if ok {
				st.Generated = max(st.Generated, generated)
				r.CopyQueue, r.ReplayQ = st.CopyQueueLength(), st.ReplayQueueLength()
				r.CopyBytes, r.ReplayByte = int64(st.Generated-st.Copied), int64(st.Copied-st.Replayed)
				r.Copied, r.Replayed, r.Term = org.Bytes(st.Copied), st.Replayed, st.Term
				r.DiskUsed, r.Repairs, r.Network = st.DiskUsed, st.Repairs, st.Network
				if st.SeedTotal > 0 {
					r.Seed = fmt.Sprintf("%d%% from %s", st.SeedDone*100/st.SeedTotal, st.SeedSource)
				}
			}
			if ok && k.heard(c.Server) {
				r.State, r.Reason = st.State, st.Reason
				r.Lag, r.LagNow, r.LagWhy = lagText(st), st.ReplayLagNow, st.ReplayLagWhy
				if r.Reason == "" {
					r.Reason = st.ReplayLagWhy
				}
			}
			if r.Blocked && r.State != org.CopySuspended && r.State != org.CopyFailedAndSuspended {
				r.Reason = strings.TrimPrefix(r.Reason+"; "+strings.TrimSuffix("activation is suspended: "+c.SuspendComment, ": "), "; ")
			}
			rows = append(rows, r)
		}
	}
	return rows
}

// pickVolume chooses the volume of a server with the fewest copies.
func (k *Keeper) pickVolume(v *cluster.View, s org.ServerName, want org.VolumeName) (org.VolumeName, error) {
	srv, ok := v.Server(s)
	if !ok {
		return "", kind.WithHint(kind.Errorf(kind.NotFound, "server %s does not exist", s), "postern server list")
	}
	if srv.Witness || len(srv.Volumes) == 0 {
		return "", kind.Errorf(kind.Invalid, "server %s has no volumes for databases", s)
	}
	if want != "" {
		if !slices.Contains(srv.Volumes, want) {
			return "", kind.Errorf(kind.NotFound, "server %s has no volume %s, it has %v", s, want, srv.Volumes)
		}
		if !usableVolume(v, s, want) {
			return "", kind.WithHint(kind.Errorf(kind.Conflict, "volume %s of %s is not for copies", want, s), "postern volume list "+string(s))
		}
		return want, nil
	}
	usable := slices.DeleteFunc(slices.Clone(srv.Volumes), func(name org.VolumeName) bool { return !usableVolume(v, s, name) })
	if len(usable) == 0 {
		return "", kind.WithHint(kind.Errorf(kind.Conflict, "no volume of server %s is for copies: all are spares or failed", s), "postern volume list "+string(s))
	}
	used := map[org.VolumeName]int{}
	for _, d := range v.Databases() {
		if c, ok := d.Copy(s); ok {
			used[c.Volume]++
		}
	}
	best := usable[0]
	for _, vol := range usable {
		if used[vol] < used[best] {
			best = vol
		}
	}
	return best, nil
}

func (k *Keeper) createDatabase(ctx context.Context, in createDatabase) (DatabaseRow, error) {
	if err := org.ValidName(string(in.Database)); err != nil {
		return DatabaseRow{}, kind.Errorf(kind.Invalid, "database %w", err)
	}
	for range 5 {
		t, err := k.newDatabase(k.group.View(), in)
		if err != nil {
			return DatabaseRow{}, err
		}
		if _, err = k.group.Commit(ctx, t); err == nil {
			return k.databaseRow(in.Database)
		}
		if !kind.Is(err, kind.Conflict) {
			return DatabaseRow{}, err
		}
		if err := k.group.Sync(ctx); err != nil {
			return DatabaseRow{}, err
		}
	}
	return DatabaseRow{}, kind.Errorf(kind.Conflict, "the servers of database %s are being changed by somebody else", in.Database)
}

// newDatabase are the rows of a new database, if its servers stay as they are in a
// view.
func (k *Keeper) newDatabase(v *cluster.View, in createDatabase) (t cluster.Txn, err error) {
	_, defined := v.Database(in.Database)
	if _, mounted := v.Mount(in.Database); defined || mounted {
		return t, kind.Errorf(kind.Exists, "database %s exists", in.Database)
	}
	t.If = []cluster.Cond{{Key: DatabaseKey(in.Database)}, {Key: MountKey(in.Database)}}
	def := org.Database{Name: in.Database, Identity: uuid.NewString(), Redundancy: in.Redundancy, SegmentSize: k.cfg.SegmentSize, Created: time.Now().UTC()}
	for i, s := range strings.Split(in.Servers, ",") {
		name := org.ServerName(strings.TrimSpace(s))
		vol, err := k.pickVolume(v, name, in.Volume)
		if err != nil {
			return t, err
		}
		if _, twice := def.Copy(name); twice {
			return t, kind.Errorf(kind.Invalid, "server %s is named twice", name)
		}
		def.Copies = append(def.Copies, org.Copy{Server: name, Volume: vol, Preference: i + 1})
		t.If = append(t.If, asItIs(v, name, vol)...)
	}
	first := def.Copies[0].Server
	m := org.Mount{Database: def.Name, Term: 1, Active: first, InSync: []org.ServerName{first}, Since: time.Now().UTC(), Why: "created"}
	db, err := json.Marshal(def)
	if err != nil {
		return t, err
	}
	mb, err := json.Marshal(m)
	if err != nil {
		return t, err
	}
	t.Then = []cluster.Op{{Key: DatabaseKey(def.Name), Value: db}, {Key: MountKey(def.Name), Value: mb}}
	return t, nil
}

// asItIs are the conditions that a server and a volume of it are still those of a
// view: a server that was removed or replaced meanwhile gets no copy, nor does a
// volume that became a spare or failed.
func asItIs(v *cluster.View, s org.ServerName, vol org.VolumeName) []cluster.Cond {
	row, _ := v.Get(org.VolumeKey(s, vol))
	return []cluster.Cond{{Key: "servers/" + string(s), Revision: v.ServerRevision(s)}, {Key: org.VolumeKey(s, vol), Revision: row.Revision}}
}

// removeDatabase marks the database first: whoever creates a mailbox there then
// depends on the row as it was, and so fails; whoever was before is seen by the
// look on the marked row, which is what is removed. A mark that a removal left which
// was broken off is gone on with, or taken back where there are mailboxes.
func (k *Keeper) removeDatabase(ctx context.Context, in removeDatabase) (command.Plan, error) {
	for range 5 {
		v := k.group.View()
		def, ok := v.Database(in.Database)
		if !ok {
			return command.Plan{}, k.noDatabase(in.Database)
		}
		used := hasMailboxes(v, in.Database)
		if used && def.Removing && !in.DryRun {
			if err := k.markRemoval(ctx, in.Database, false); err != nil {
				return command.Plan{}, fmt.Errorf("take back the removal of %s, which has mailboxes: %w", in.Database, err)
			}
		}
		if used {
			return command.Plan{}, kind.WithHint(kind.Errorf(kind.Conflict, "database %s has mailboxes", in.Database), "remove or move them first: postern mailbox list")
		}
		p := command.Plan{DryRun: in.DryRun, Steps: []command.Step{{Name: "remove definition", Detail: string(in.Database)}}}
		for _, c := range def.Copies {
			p.Steps = append(p.Steps, command.Step{Name: "set files aside", Detail: fmt.Sprintf("on %s, volume %s", c.Server, c.Volume)})
		}
		if in.DryRun {
			return p, nil
		}
		if !def.Removing {
			if err := k.markRemoval(ctx, in.Database, true); err != nil {
				return command.Plan{}, err
			}
			continue // with a look at the marked row
		}
		_, err := k.group.Commit(ctx, cluster.Txn{
			If:   []cluster.Cond{{Key: DatabaseKey(in.Database), Revision: v.DatabaseRevision(in.Database)}},
			Then: []cluster.Op{{Key: DatabaseKey(in.Database), Delete: true}, {Key: MountKey(in.Database), Delete: true}},
		})
		if !kind.Is(err, kind.Conflict) {
			return done(p), err
		}
		if err := k.group.Sync(ctx); err != nil {
			return command.Plan{}, err
		}
	}
	return command.Plan{}, kind.Errorf(kind.Conflict, "database %s is being changed by somebody else", in.Database)
}

// markRemoval writes whether a database is being removed.
func (k *Keeper) markRemoval(ctx context.Context, db org.DatabaseName, on bool) error {
	return k.edit(ctx, db, func(d *org.Database) error {
		d.Removing = on
		return nil
	})
}

// hasMailboxes tells whether a recipient is kept in a database.
func hasMailboxes(v *cluster.View, db org.DatabaseName) bool {
	for key := range v.Prefix("recipients/") {
		it, _ := v.Get(key)
		if strings.Contains(string(it.Value), `"database":"`+string(db)+`"`) {
			return true
		}
	}
	return false
}

// done marks every step of a plan as carried out.
func done(p command.Plan) command.Plan {
	for i := range p.Steps {
		p.Steps[i].Done = true
	}
	return p
}

func (k *Keeper) addCopy(ctx context.Context, in addCopy) ([]CopyRow, error) {
	err := k.editRows(ctx, in.Database, func(v *cluster.View, d *org.Database, t *cluster.Txn) error {
		vol, err := k.pickVolume(v, in.Server, in.Volume)
		if err != nil {
			return err
		}
		t.If = append(t.If, asItIs(v, in.Server, vol)...)
		if _, ok := d.Copy(in.Server); ok {
			return kind.Errorf(kind.Exists, "%s has a copy on %s", in.Database, in.Server)
		}
		if len(d.Copies) >= 16 {
			return kind.Errorf(kind.Invalid, "%s has 16 copies, the most there can be", in.Database)
		}
		d.Copies = append(d.Copies, org.Copy{Server: in.Server, Volume: vol, Preference: cmpOr(in.Preference, len(d.Copies)+1), SeedFrom: in.SeedFrom, SeedRate: in.SeedRate})
		return nil
	})
	return k.copyRows(in.Database), err
}

func (k *Keeper) removeCopy(ctx context.Context, in removeCopy) (command.Plan, error) {
	p := command.Plan{DryRun: in.DryRun, Steps: []command.Step{
		{Name: "remove copy"},
		{Name: "set files aside", Detail: "on " + string(in.Server)},
	}}
	err := k.editPassive(ctx, in.copyArg, "removed", func(d *org.Database, i int, m *org.Mount) error {
		if len(d.Copies) == 1 {
			return kind.Errorf(kind.Conflict, "the copy on %s is the last one of %s", in.Server, in.Database)
		}
		p.Steps[0].Detail = fmt.Sprintf("%s on %s", in.Database, in.Server)
		if m.IsInSync(in.Server) && len(m.InSync) == 2 {
			p.Steps[0].Detail += "; the active copy will be the only one in sync"
		}
		if err := leaveSet(m, in.Server); err != nil {
			return err
		}
		if in.DryRun {
			return errDry
		}
		d.Copies = slices.Delete(d.Copies, i, i+1)
		return nil
	})
	return finish(p, err)
}

// errDry stops an edit after its checks.
var errDry = kind.Errorf(kind.Internal, "dry run")

// finish returns a plan as it was carried out, or as it would have been.
func finish(p command.Plan, err error) (command.Plan, error) {
	switch {
	case err == errDry:
		return p, nil
	case err != nil:
		return command.Plan{}, err
	}
	return done(p), nil
}

func (k *Keeper) suspendCopy(ctx context.Context, in suspendCopy) ([]CopyRow, error) {
	if len(in.Comment) > 512 {
		return nil, kind.Errorf(kind.Invalid, "comment of %d bytes, at most 512", len(in.Comment))
	}
	suspend := func(c *org.Copy) {
		c.ActivationSuspended = true
		c.Suspended = c.Suspended || !in.ActivationOnly
		c.SuspendedBy = ""
		c.SuspendComment = in.Comment
	}
	var err error
	if in.ActivationOnly {
		err = k.editCopy(ctx, in.copyArg, func(c *org.Copy) error { suspend(c); return nil })
	} else {
		err = k.editPassive(ctx, in.copyArg, "suspended", func(d *org.Database, i int, _ *org.Mount) error { suspend(&d.Copies[i]); return nil })
	}
	return k.copyRows(in.Database), err
}

func (k *Keeper) resumeCopy(ctx context.Context, in resumeCopy) ([]CopyRow, error) {
	err := k.editCopy(ctx, in.copyArg, func(c *org.Copy) error {
		if c.LagBeyondHold && c.ActivationSuspended && !in.ReplicationOnly {
			return kind.WithHint(kind.Errorf(kind.Conflict, "activation of %s on %s stays suspended: its lag is longer than Safety Net keeps mail", in.Database, in.Server),
				fmt.Sprintf("postern copy resume %s %s --replication-only", in.Database, in.Server))
		}
		c.Suspended, c.SuspendedBy = false, ""
		c.ActivationSuspended = c.ActivationSuspended && in.ReplicationOnly
		if !c.ActivationSuspended {
			c.SuspendComment = ""
		}
		return nil
	})
	return k.copyRows(in.Database), err
}

func (k *Keeper) reseedCopy(ctx context.Context, in reseedCopy) (command.Plan, error) {
	p := command.Plan{DryRun: in.DryRun, Steps: []command.Step{
		{Name: "take out of the in-sync set", Detail: string(in.Server)},
		{Name: "empty copy", Detail: fmt.Sprintf("%s on %s", in.Database, in.Server)},
		{Name: "seed", Detail: "from " + cmpOr(string(in.SeedFrom), "the active copy")},
	}}
	return finish(p, k.orderReseed(ctx, in.copyArg, "reseeded", false, func(c *org.Copy) error {
		if in.DryRun {
			return errDry
		}
		c.SeedFrom, c.SeedNetwork, c.SeedRate = in.SeedFrom, "", in.SeedRate
		return nil
	}))
}

// orderReseed takes a passive copy out of the in-sync set and orders it emptied
// in one step: a copy must not empty itself while the set names it. With safe it
// is refused where mayEmpty says so.
func (k *Keeper) orderReseed(ctx context.Context, in copyArg, what string, safe bool, with func(*org.Copy) error) error {
	return k.editPassive(ctx, in, what, func(d *org.Database, i int, m *org.Mount) error {
		if safe {
			if err := mayEmpty(*m, in); err != nil {
				return err
			}
		}
		c := &d.Copies[i]
		c.SeedCount++
		c.Suspended, c.SuspendedBy, c.SeedManual = false, "", false
		if c.SuspendComment == seededComment || c.SuspendComment == cancelledComment {
			c.ActivationSuspended, c.SuspendComment = false, ""
		}
		if err := leaveSet(m, in.Server); err != nil {
			return err
		}
		return with(c)
	})
}

func (k *Keeper) verifyCommand(ctx context.Context, in verifyCopies) ([]Verified, error) {
	var out []Verified
	for _, def := range k.group.View().Databases() {
		if in.Database != "" && def.Name != in.Database {
			continue
		}
		command.Progress(ctx, "comparing the copies of %s", def.Name)
		vs, err := k.Verify(ctx, def.Name, in.Bodies)
		if err != nil {
			return out, err
		}
		out = append(out, vs...)
	}
	if len(out) == 0 && in.Database != "" {
		return nil, k.noDatabase(in.Database)
	}
	for _, v := range out {
		if !v.Compared() {
			return out, kind.Errorf(kind.Corrupt, "copies are not identical: %s on %s: %s", v.Database, v.Server, v.Result)
		}
	}
	return out, nil
}

func (k *Keeper) reclaimCommand(ctx context.Context, in databaseArg) (reclaimed, error) {
	m, ok := k.group.View().Mount(in.Database)
	if !ok {
		return reclaimed{}, k.noDatabase(in.Database)
	}
	return callPeer[none, reclaimed](ctx, k, m.Active, "Reclaim", in.Database, none{})
}
