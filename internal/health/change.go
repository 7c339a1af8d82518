package health

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/probe"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// What the commands change.

// Limits of the commands.
const (
	mostRepair  = 7 * 24 * time.Hour
	mostTargets = 100
	mostByHand  = 5 * time.Minute
	addTries    = 5
)

// probeRun runs a probe about one target or about all.
func (d *Desk) probeRun(ctx context.Context, in probeRunArgs) ([]ProbeRow, error) {
	i := slices.IndexFunc(d.items.Probes, func(p Probe) bool { return p.Set+`\`+p.Name == in.Probe })
	if i < 0 {
		return nil, kind.WithHint(kind.Errorf(kind.NotFound, "there is no probe %s", in.Probe), "names are case-sensitive; see postern health definitions")
	}
	p := d.items.Probes[i]
	switch {
	case p.Kind == Notification:
		return nil, kind.Errorf(kind.Invalid, "probe %s is a notification: a part of the program tells by itself", in.Probe)
	case p.Run == nil:
		return nil, kind.Errorf(kind.Invalid, "probe %s cannot be run here", in.Probe)
	case in.Timeout < 0 || in.Timeout > mostByHand:
		return nil, kind.Errorf(kind.Invalid, "time-out %v is not from 0 to %v", in.Timeout, mostByHand)
	case in.Timeout > 0:
		p.Timeout = in.Timeout
	}
	targets := probe.TargetsOf(p)
	if in.Target != "" {
		if !slices.Contains(targets, in.Target) {
			return nil, kind.Errorf(kind.NotFound, "probe %s has no target %s here; it has %s", in.Probe, in.Target, strings.Join(targets[:min(len(targets), 10)], ", "))
		}
		targets = []string{in.Target}
	}
	rows := []ProbeRow{}
	for _, t := range targets[:min(len(targets), mostTargets)] {
		r, err := d.sched.Once(ctx, p, t)
		if err != nil {
			return rows, err
		}
		rows = append(rows, ProbeRow{Probe: in.Probe, Target: t, Result: r.Outcome.String(), Value: digits(r.Value), Unit: p.Unit, Took: r.Took.Round(time.Microsecond), Text: r.Text})
	}
	return rows, nil
}

// digits rounds to four of them: nobody reads more.
func digits(v float64) float64 {
	if v == 0 || math.IsInf(v, 0) || math.IsNaN(v) {
		return v
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// monitorSet writes or removes the row of a repair.
func (d *Desk) monitorSet(ctx context.Context, in monitorSetArgs) (command.None, error) {
	server := in.Server
	if server == "" {
		server = d.deps.Server
	}
	if err := d.member(server); err != nil {
		return command.None{}, err
	}
	parts := strings.SplitN(in.Monitor, `\`, 3)
	if len(parts) < 2 || !slices.ContainsFunc(d.items.Monitors, func(m Monitor) bool { return m.Set == parts[0] && m.Name == parts[1] }) {
		return command.None{}, kind.WithHint(kind.Errorf(kind.NotFound, "there is no monitor %s", in.Monitor), "names are case-sensitive; see postern health definitions")
	}
	if err := d.knownTarget(server, parts); err != nil && in.Repairing {
		return command.None{}, err
	}
	key := repairingPrefix + string(server) + "/" + in.Monitor
	if !in.Repairing {
		return command.None{}, d.deps.Rows.Commit(ctx, []Op{{Key: key}})
	}
	if in.For <= 0 || in.For > mostRepair || len(in.Why) > 500 || len(in.Monitor) > 300 {
		return command.None{}, kind.Errorf(kind.Invalid, "repair of %s for %v: want a time of at most %v and short words", in.Monitor, in.For, mostRepair)
	}
	raw, err := json.Marshal(repairing{Server: server, Monitor: in.Monitor, By: command.CallerOf(ctx).Name, Why: in.Why, Until: d.deps.Clock.Now().Add(in.For).UTC()})
	if err != nil {
		return command.None{}, fmt.Errorf("repair of %s: %w", in.Monitor, err)
	}
	return command.None{}, d.deps.Rows.Commit(ctx, []Op{{Key: key, Value: raw}})
}

// knownTarget refuses a monitor as Set, Name and Target where this server watches
// no such target: a slip of the pen would leave the automatic actions on. What
// another server watches is not known here.
func (d *Desk) knownTarget(server org.ServerName, parts []string) error {
	if len(parts) < 3 || server != d.deps.Server {
		return nil
	}
	var targets []string
	monitors, _ := d.monitors()
	for _, m := range monitors {
		switch {
		case m.Set != parts[0] || m.Name != parts[1]:
		case m.Target == parts[2]:
			return nil
		case m.Target != "":
			targets = append(targets, m.Target)
		}
	}
	if len(targets) == 0 {
		return nil // it may only not have been looked at yet
	}
	return kind.WithHint(kind.Errorf(kind.NotFound, "monitor %s\\%s of %s has no target %.60q, it has %s", parts[0], parts[1], server, parts[2], strings.Join(targets, ", ")),
		"postern health server "+string(server))
}

// overrideAdd checks and writes an override. It is judged anew where another one
// is added meanwhile: each may be allowed, and not both.
func (d *Desk) overrideAdd(ctx context.Context, in overrideAddArgs) (command.Plan, error) {
	if err := d.member(in.Server); err != nil {
		return command.Plan{}, err
	}
	var err error
	for range addTries {
		// Before the look at the others: one that is added after it changes this row.
		_, guard, _ := d.deps.Rows.Get(overrideGuard)
		o, err2 := d.newOverride(ctx, in)
		if err2 != nil {
			return command.Plan{}, err2
		}
		step := command.Step{Name: "override " + o.Item, Detail: fmt.Sprintf("%s %s = %s, ends %s", o.Type, o.Property, o.Value, endOf(o))}
		if in.DryRun {
			return command.Plan{DryRun: true, Steps: []command.Step{step}}, nil
		}
		raw, err2 := json.Marshal(o)
		if err2 != nil {
			return command.Plan{}, fmt.Errorf("override %s: %w", o.Item, err2)
		}
		err = d.deps.Rows.Commit(ctx, []Op{{Key: overrideKey(o), Value: raw, If: true}, {Key: overrideGuard, Value: []byte(o.ID), If: true, Revision: guard}})
		if err == nil {
			d.deps.Events.Emit(evOverride, "override %s of %s %s: %s = %s, ends %s", o.ID, o.Type, o.Item, o.Property, o.Value, endOf(o))
			step.Done = true
			return command.Plan{Steps: []command.Step{step}}, nil
		}
		if !kind.Is(err, kind.Conflict) {
			break
		}
	}
	return command.Plan{}, fmt.Errorf("override %s: %w", in.Item, err)
}

// newOverride makes an override and judges it together with those that hold.
func (d *Desk) newOverride(ctx context.Context, in overrideAddArgs) (org.Override, error) {
	now := d.deps.Clock.Now().UTC()
	o := org.Override{ID: now.Format("20060102T150405.000"), Item: in.Item, Type: in.Type, Property: in.Property, Value: in.Value, Server: in.Server,
		By: command.CallerOf(ctx).Name, Why: in.Why, Created: now, Version: in.Version, UntilRemoved: in.Forever}
	if in.For != 0 {
		o.Until = now.Add(in.For)
	}
	var same []org.Override // those that hold for some server that the new one holds for
	for _, x := range d.allOverrides() {
		if x.Server == "" || o.Server == "" || x.Server == o.Server {
			same = append(same, x)
		}
	}
	for _, x := range same {
		if x.Server == o.Server && x.Type == o.Type && x.Item == o.Item && x.Property == o.Property {
			return o, kind.WithHint(kind.Errorf(kind.Exists, "override %s: %s is %s already by %s", o.Item, o.Property, x.Value, x.ID), "postern health override remove "+x.ID)
		}
	}
	items := d.items
	if o.Server != "" && o.Server != d.deps.Server {
		items = items.anyTarget() // what another server watches is not known here
	}
	return o, checkOverride(items, same, o, in.Force, now)
}

func (d *Desk) overrideRemove(ctx context.Context, in overrideArg) (command.None, error) {
	for _, o := range d.allOverrides() {
		if o.ID != in.ID {
			continue
		}
		if err := d.deps.Rows.Commit(ctx, []Op{{Key: overrideKey(o)}}); err != nil {
			return command.None{}, fmt.Errorf("override %s: %w", o.ID, err)
		}
		d.deps.Events.Emit(evOverride, "override %s of %s was removed", o.ID, o.Item)
		return command.None{}, nil
	}
	return command.None{}, kind.WithHint(kind.Errorf(kind.NotFound, "there is no override %s", in.ID), "postern health override list")
}

// recoveryMode sets a recovery mode, or removes it.
func (d *Desk) recoveryMode(ctx context.Context, in modeArgs) (command.Plan, error) {
	if err := d.member(in.Server); err != nil {
		return command.Plan{}, err
	}
	if err := d.knownSet(in.Set); err != nil {
		return command.Plan{}, err
	}
	if in.For < 0 || in.For > 366*24*time.Hour || len(in.Why) > 500 {
		return command.Plan{}, kind.Errorf(kind.Invalid, "recovery mode for %v: want a time within a year and short words", in.For)
	}
	m := mode{Server: in.Server, Set: in.Set, Mode: respond.Mode(in.Mode), By: command.CallerOf(ctx).Name, Why: in.Why}
	if in.For > 0 {
		m.Until = d.deps.Clock.Now().Add(in.For).UTC()
	}
	step := command.Step{Name: "recovery mode", Detail: in.Mode + " for " + scopeText(in)}
	if in.DryRun {
		return command.Plan{DryRun: true, Steps: []command.Step{step}}, nil
	}
	op := Op{Key: m.key()}
	if in.Mode != "default" {
		raw, err := json.Marshal(m)
		if err != nil {
			return command.Plan{}, fmt.Errorf("recovery mode: %w", err)
		}
		op.Value = raw
	}
	if err := d.deps.Rows.Commit(ctx, []Op{op}); err != nil {
		return command.Plan{}, fmt.Errorf("recovery mode: %w", err)
	}
	d.deps.Events.Emit(evMode, "recovery mode of %s is %s", scopeText(in), in.Mode)
	step.Done = true
	return command.Plan{Steps: []command.Step{step}}, nil
}

// scopeText says what a recovery mode is set for.
func scopeText(in modeArgs) string {
	set, server := "all sets", "all servers"
	if in.Set != "" {
		set = "set " + in.Set
	}
	if in.Server != "" {
		server = string(in.Server)
	}
	return set + " of " + server
}
