package active

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active/site"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

type siteArg struct {
	Site org.SiteName `json:"site" arg:"1" required:"true" complete:"site list" doc:"name of the site"`
}

type siteStopArgs struct {
	Site   org.SiteName `json:"site" arg:"1" required:"true" complete:"site list" doc:"name of the site"`
	Why    string       `json:"why" doc:"reason, for the record"`
	DryRun bool         `json:"dry_run" doc:"only say what would be done"`
}

type siteStartArgs struct {
	Site    org.SiteName `json:"site" arg:"1" required:"true" complete:"site list" doc:"name of the site"`
	Confirm bool         `json:"confirm" doc:"also let its servers that run now lead without hearing from the others; only if nobody else has gone on with their databases"`
	Why     string       `json:"why" doc:"reason, for the record"`
	DryRun  bool         `json:"dry_run" doc:"only say what would be done"`
}

type siteActivateArgs struct {
	Site   org.SiteName     `json:"site" arg:"1" required:"true" complete:"site list" doc:"site that is to go on"`
	Force  bool             `json:"force" doc:"go on without a majority: the only way this command knows"`
	GiveUp []org.ServerName `json:"give_up" doc:"servers to give up besides those of other sites that are not heard"`
	Text   string           `json:"confirm" doc:"the sentence that the dry run shows, typed"`
	Why    string           `json:"why" doc:"reason, for the record"`
	DryRun bool             `json:"dry_run" doc:"only say what would be done"`
}

// SiteRow is a line of site list.
type SiteRow struct {
	Site    org.SiteName  `json:"site" col:"SITE"`
	State   org.SiteState `json:"state" col:"STATE"`
	Servers int           `json:"servers" col:"SERVERS"`
	Heard   int           `json:"heard" col:"HEARD"` // by the server that is asked
	Voters  int           `json:"voters" col:"VOTES"`
	Witness int           `json:"witnesses" col:"WITNESSES"`
	Lead    int           `json:"may_lead" col:"MAY-LEAD"` // servers that are heard and may have active databases
	Active  int           `json:"active_databases" col:"ACTIVE"`
	Why     string        `json:"why,omitempty" col:"WHY"`
}

// SiteDetails is what site show tells.
type SiteDetails struct {
	Site       org.SiteName   `json:"site"`
	State      org.SiteState  `json:"state"`
	Since      *time.Time     `json:"since,omitempty"`
	By         string         `json:"by,omitempty"`
	Why        string         `json:"why,omitempty"`
	Generation int64          `json:"generation"`
	Quorum     bool           `json:"quorum"` // the agreed state answers the server that is asked
	Servers    []SiteServer   `json:"servers"`
	Databases  []SiteDatabase `json:"databases"`
}

// SiteServer is a server of a site.
type SiteServer struct {
	Server  org.ServerName   `json:"server" col:"SERVER"`
	Witness bool             `json:"witness" col:"WITNESS"`
	Votes   bool             `json:"votes" col:"VOTES"`
	Heard   bool             `json:"heard" col:"HEARD"`
	GivenUp bool             `json:"given_up,omitempty" col:"GIVEN-UP"`
	Lead    bool             `json:"may_lead" col:"MAY-LEAD"`
	Why     string           `json:"why,omitempty" col:"WHY"`
	Hears   []org.ServerName `json:"hears,omitempty" col:"HEARS"`
}

// SiteDatabase is a database that is active at a site.
type SiteDatabase struct {
	Database org.DatabaseName `json:"database" col:"DATABASE"`
	Active   org.ServerName   `json:"active" col:"ACTIVE-ON"`
	InSync   []org.ServerName `json:"in_sync" col:"IN-SYNC"`
}

// SiteCommands are the entries of the command table that concern sites. x may be
// nil for listing them.
func SiteCommands(x *Sites) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "site", Verb: "list", Short: "List the sites of the group, as the server that is asked finds them", Roles: read, Example: "postern site list"},
			func(context.Context, command.None) ([]SiteRow, error) { return x.list(), nil }),
		command.New(command.Command{Noun: "site", Verb: "show", Short: "Show the servers of a site, whom they hear, whether they may lead, and what is active there", Roles: read,
			Example: "postern site show Hamburg"},
			func(_ context.Context, in siteArg) (SiteDetails, error) { return x.show(in.Site) }),
		command.New(command.Command{Noun: "site", Verb: "stop", Short: "Note that a site is out: its servers get no database, and nobody waits to hear from them", Changes: true, Dangerous: true,
			Long:    "For a site that is lost, or that is to be left alone. Refused while a database is active on a server there that is heard: move them first, with postern site switchover. After a power failure of the whole group the others start without hearing from a stopped site.",
			Example: "postern site stop Hamburg --why \"flood\" --dry-run"},
			func(ctx context.Context, in siteStopArgs) (command.Plan, error) { return x.stop(ctx, in) }),
		command.New(command.Command{Noun: "site", Verb: "start", Short: "Let servers of a site have databases again", Changes: true, Dangerous: true,
			Long:    "With --confirm the servers of the site that run now may lead even if they do not hear from the others. That is for a group that started in part, when it is known that nobody else went on: else changes made there are lost.",
			Example: "postern site start Hamburg"},
			func(ctx context.Context, in siteStartArgs) (command.Plan, error) { return x.start(ctx, in) }),
		command.New(command.Command{Noun: "site", Verb: "activate", Short: "Go on with one site when the majority of the votes is gone for good", Changes: true, Dangerous: true, WithoutQuorum: true,
			Long: "Only at a voting server of that site, through the socket on its machine, and only after no majority answered for a while. The servers of other sites that are not heard are given up: " +
				"nobody speaks with them any more, and when they return they serve nothing and end; each can be taken in again with postern join --replace. **Make sure that they are off, or cut off from clients.** " +
				"The dry run tells who is given up, what becomes of each database, and the sentence that --confirm wants.",
			Example: "postern site activate Hamburg --force --dry-run"},
			func(ctx context.Context, in siteActivateArgs) (command.Plan, error) { return x.activate(ctx, in) }),
	}
}

// exists refuses a site in which no server stands.
func (x *Sites) exists(v *cluster.View, name org.SiteName) error {
	for _, s := range v.Servers() {
		if s.Site == name {
			return nil
		}
	}
	return kind.WithHint(kind.Errorf(kind.NotFound, "no server stands in a site %s", name), "postern site list")
}

// row is what people decided about a site.
func siteRow(v *cluster.View, name org.SiteName) org.Site {
	for _, s := range sitesOf(v) {
		if s.Name == name {
			return s
		}
	}
	return org.Site{Name: name, State: org.SiteStarted}
}

// servers are those of a site, all for an empty name.
func (x *Sites) servers(v *cluster.View, name org.SiteName) []SiteServer {
	g := generationOf(v)
	heard := map[org.ServerName]bool{x.me: true}
	for _, p := range x.group.Peers() {
		heard[p.Server] = p.State == cluster.PeerUp
	}
	var out []SiteServer
	for _, s := range v.Servers() {
		if name != "" && s.Site != name {
			continue
		}
		row := SiteServer{Server: s.Name, Witness: s.Witness, Votes: s.Voter, Heard: heard[s.Name], GivenUp: g.Left(s), Why: "not heard"}
		if a, ok := x.said(s.Name); ok && row.Heard {
			row.Lead, row.Why, row.Hears = a.Bit, a.Why, a.Hears
		}
		out = append(out, row)
	}
	return out
}

func (x *Sites) list() []SiteRow {
	v := x.group.View()
	of := map[org.SiteName]*SiteRow{}
	at := map[org.ServerName]org.SiteName{}
	var order []org.SiteName
	for _, s := range v.Servers() {
		if of[s.Site] == nil {
			r := siteRow(v, s.Site)
			of[s.Site] = &SiteRow{Site: s.Site, State: r.State, Why: r.Why}
			order = append(order, s.Site)
		}
		at[s.Name] = s.Site
	}
	for _, s := range x.servers(v, "") {
		r := of[at[s.Server]]
		r.Servers++
		for _, c := range []struct {
			n  *int
			is bool
		}{{&r.Heard, s.Heard}, {&r.Voters, s.Votes}, {&r.Witness, s.Witness}, {&r.Lead, s.Lead && !s.Witness}} {
			if c.is {
				*c.n++
			}
		}
	}
	for _, mt := range v.Mounts() {
		if r := of[at[mt.Active]]; r != nil {
			r.Active++
		}
	}
	out := make([]SiteRow, len(order))
	for i, name := range order {
		out[i] = *of[name]
	}
	return out
}

func (x *Sites) show(name org.SiteName) (SiteDetails, error) {
	v := x.group.View()
	if err := x.exists(v, name); err != nil {
		return SiteDetails{}, err
	}
	r := siteRow(v, name)
	d := SiteDetails{Site: name, State: r.State, By: r.By, Why: r.Why, Generation: generationOf(v).Generation, Quorum: x.group.Quorum(), Servers: x.servers(v, name)}
	if !r.Since.IsZero() {
		d.Since = &r.Since
	}
	for _, mt := range v.Mounts() {
		if s, ok := v.Server(mt.Active); ok && s.Site == name {
			d.Databases = append(d.Databases, SiteDatabase{mt.Database, mt.Active, mt.InSync})
		}
	}
	return d, nil
}

// put writes what was decided about a site in view v, unless somebody else did
// meanwhile, or one of the conditions does not hold any more.
func (x *Sites) put(ctx context.Context, v *cluster.View, r org.Site, conds ...cluster.Cond) error {
	key := org.SitePrefix + string(r.Name)
	it, _ := v.Get(key)
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = x.group.Commit(ctx, cluster.Txn{If: append(conds, cluster.Cond{Key: key, Revision: it.Revision}), Then: []cluster.Op{{Key: key, Value: b}}})
	return err
}

// stop looks again, a few times, where what it looked at changed before it wrote.
func (x *Sites) stop(ctx context.Context, in siteStopArgs) (p command.Plan, err error) {
	for range 3 {
		if err = x.group.Sync(ctx); err != nil {
			return command.Plan{DryRun: in.DryRun}, err
		}
		v := x.group.View()
		var conds []cluster.Cond
		if p, conds, err = x.mayStop(v, in); err != nil || in.DryRun {
			return p, err
		}
		r := org.Site{Name: in.Site, State: org.SiteStopped, Since: time.Now().UTC(), Why: in.Why, By: command.CallerOf(ctx).Name}
		if err = x.put(ctx, v, r, conds...); !kind.Is(err, kind.Conflict) {
			break
		}
	}
	if err != nil {
		return p, err
	}
	return done(p), nil
}

// mayStop says what becomes of the servers of a site that is stopped, or why it
// may not be, by v alone. It holds while the rows of the conditions are the same:
// nothing became active there.
func (x *Sites) mayStop(v *cluster.View, in siteStopArgs) (command.Plan, []cluster.Cond, error) {
	p := command.Plan{DryRun: in.DryRun}
	if err := x.exists(v, in.Site); err != nil {
		return p, nil, err
	}
	heard := map[org.ServerName]bool{}
	for _, s := range x.servers(v, in.Site) {
		heard[s.Server] = s.Heard
		p.Steps = append(p.Steps, command.Step{Name: "leave out " + string(s.Server), Detail: "it gets no database, and a start of the group does not wait to hear from it"})
	}
	for _, mt := range v.Mounts() {
		if heard[mt.Active] {
			return p, nil, kind.WithHint(kind.Errorf(kind.Conflict, "%s is active on %s, which is heard", mt.Database, mt.Active), "move what is active there first: postern site switchover "+string(in.Site)+" --to SITE")
		}
	}
	var conds []cluster.Cond
	for _, def := range v.Databases() {
		if slices.ContainsFunc(def.Copies, func(c org.Copy) bool { return heard[c.Server] }) {
			mt, _ := v.Mount(def.Name)
			conds = append(conds, cluster.Cond{Key: mailbox.MountKey(def.Name), Revision: mt.Revision})
		}
	}
	return p, conds, nil
}

func (x *Sites) start(ctx context.Context, in siteStartArgs) (command.Plan, error) {
	p := command.Plan{DryRun: in.DryRun}
	if err := x.group.Sync(ctx); err != nil {
		return p, err
	}
	v := x.group.View()
	if err := x.exists(v, in.Site); err != nil {
		return p, err
	}
	r := org.Site{Name: in.Site, State: org.SiteStarted, Since: time.Now().UTC(), Why: in.Why, By: command.CallerOf(ctx).Name, Allowed: map[org.ServerName]string{}}
	for _, s := range x.servers(v, in.Site) {
		boot, _ := x.group.Boot(s.Server)
		switch {
		case s.GivenUp:
			p.Steps = append(p.Steps, command.Step{Name: "wait for " + string(s.Server), Detail: "it was given up and has to be taken in again: postern join --replace"})
		case in.Confirm && s.Heard && boot != "":
			r.Allowed[s.Server] = boot
			p.Steps = append(p.Steps, command.Step{Name: "allow " + string(s.Server), Detail: "it may lead until it is started anew, whomever it hears"})
		default:
			p.Steps = append(p.Steps, command.Step{Name: "start " + string(s.Server), Detail: "it may have databases as soon as it hears from a server that may"})
		}
	}
	if in.DryRun {
		return p, nil
	}
	return done(p), x.put(ctx, v, r)
}

func done(p command.Plan) command.Plan {
	for i := range p.Steps {
		p.Steps[i].Done = true
	}
	return p
}

// Patience before a forced activation.
const (
	forcePatience = 5 * time.Minute
	forceFast     = 10 * time.Second
)

// loss is what a forced activation is judged by.
func (x *Sites) loss() site.Loss {
	v, now := x.group.View(), time.Now()
	l := site.Loss{Me: x.me, Voting: x.group.Voting(), Quorum: x.group.Quorum(), Patience: forcePatience, Revision: v.Revision()}
	if x.deps.Fast {
		l.Patience = forceFast
	}
	x.mu.Lock()
	if !x.lost.IsZero() {
		l.LostFor = now.Sub(x.lost)
	}
	x.mu.Unlock()
	for _, s := range x.servers(v, "") {
		row, _ := v.Server(s.Server)
		a, _ := x.said(s.Server)
		l.Servers = append(l.Servers, site.Server{Name: s.Server, Site: row.Site, Witness: s.Witness, Voter: s.Votes, Left: s.GivenUp, Heard: s.Heard && s.Server != x.me,
			Hears: a.Hears, Quorum: a.Quorum, Revision: a.Revision})
	}
	for _, def := range v.Databases() {
		mt, _ := v.Mount(def.Name)
		d := site.Database{Name: def.Name, Active: mt.Active, InSync: mt.InSync}
		for _, c := range def.Copies {
			d.Copies = append(d.Copies, c.Server)
		}
		l.Bases = append(l.Bases, d)
	}
	return l
}

func (x *Sites) activate(ctx context.Context, in siteActivateArgs) (command.Plan, error) {
	p := command.Plan{DryRun: in.DryRun}
	if c := command.CallerOf(ctx); c.Remote != "local" {
		return p, kind.WithHint(kind.Errorf(kind.Denied, "a site is activated by force only on the machine of one of its servers"), "log in there and run the command, which then uses the socket in the data folder")
	}
	if !in.Force {
		return p, kind.WithHint(kind.Errorf(kind.Invalid, "postern site activate goes on without a majority, and gives servers up: it wants --force"), "to move a site that works: postern site switchover")
	}
	if err := x.exists(x.group.View(), in.Site); err != nil {
		return p, err
	}
	l := x.loss()
	giveUp := site.GiveUp(l, in.Site, in.GiveUp)
	if no := site.Refused(l, in.Site, giveUp, in.GiveUp); len(no) > 0 {
		return p, kind.WithHint(kind.Errorf(kind.Conflict, "site %s cannot be activated here now: %s", in.Site, strings.Join(no, "; ")), "postern site list; postern cluster status")
	}
	for _, s := range giveUp {
		p.Steps = append(p.Steps, command.Step{Name: "give up " + string(s), Detail: "its vote and its certificate end; it has to be off until it is taken in again with postern join --replace"})
	}
	p.Steps = append(p.Steps, command.Step{Name: "new generation", Detail: "with the agreed state of " + string(x.me) + " as its only vote at first"})
	for _, o := range site.Outlook(l, giveUp) {
		p.Steps = append(p.Steps, command.Step{Name: "database " + string(o.Database), Detail: o.Text})
	}
	text := site.Text(in.Site, giveUp)
	if in.DryRun {
		p.Steps = append(p.Steps, command.Step{Name: "to do it", Detail: "--confirm \"" + text + "\""})
		return p, nil
	}
	if in.Text != text {
		return p, kind.WithHint(kind.Errorf(kind.Invalid, "--confirm %q: want %q", in.Text, text), "look at --dry-run first")
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	err := x.group.Activate(ctx, cluster.Activation{Site: in.Site, GiveUp: giveUp, By: command.CallerOf(ctx).Name, Why: cmp.Or(in.Why, "the majority is lost")})
	if err != nil {
		return p, err
	}
	return done(p), nil
}
