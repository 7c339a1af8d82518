package active

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/active/site"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/org"
)

// MoveEach implements site.World.
func (w *works) MoveEach(ctx context.Context, to map[org.DatabaseName]org.ServerName, why string, holds func() error) error {
	if err := holds(); err != nil {
		return err
	}
	if err := w.m.group.Sync(ctx); err != nil {
		return err
	}
	var os []Order
	for _, db := range slices.Sorted(maps.Keys(to)) {
		os = append(os, Order{Database: db, To: to[db], Why: why})
	}
	_, err := w.m.moveAll(ctx, w.m.look(w.m.group.View()), os, movesAtOnce, false, false)
	return err
}

type siteSwitchoverArgs struct {
	Site   org.SiteName `json:"site" arg:"1" required:"true" complete:"site list" doc:"site that is left"`
	To     org.SiteName `json:"to" required:"true" complete:"site list" doc:"site that takes over"`
	Stop   bool         `json:"stop" doc:"then stop the site: nothing goes back there until postern site failback or start"`
	Why    string       `json:"why" doc:"reason, for the log"`
	Wait   bool         `json:"wait" doc:"wait until it is done, and tell each step"`
	DryRun bool         `json:"dry_run" doc:"only show the plan"`
}

type siteFailbackArgs struct {
	Site   org.SiteName  `json:"site" arg:"1" required:"true" complete:"site list" doc:"site that gets its databases back"`
	Calm   time.Duration `json:"calm" default:"10m" doc:"how long every copy there has to be healthy before"`
	Why    string        `json:"why" doc:"reason, for the log"`
	Wait   bool          `json:"wait" doc:"wait until it is done, and tell each step"`
	DryRun bool          `json:"dry_run" doc:"only show the plan"`
}

// sitePlanCommands move whole sites.
func sitePlanCommands(m *Manager) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "site", Verb: "switchover", Short: "Move everything that is active in a site to another, without loss", Changes: true, Dangerous: true, Stream: true,
			Long:    "Refused while a database has no complete copy in the other site. Databases move first, then the primary role; with --stop the site gets nothing back, and the agreed state is led elsewhere.",
			Example: "postern site switchover Berlin --to Hamburg --stop --wait"}, m.siteSwitchover),
		command.New(command.Command{Noun: "site", Verb: "failback", Short: "Give a site its databases back", Changes: true, Dangerous: true, Stream: true,
			Long:    "Starts the site, waits until every copy there has been healthy and in sync for a while, and moves the databases that prefer a copy there, without loss.",
			Example: "postern site failback Berlin --wait"}, m.siteFailback),
	}
}

func (m *Manager) siteKind(name string) site.Kind {
	for _, k := range site.Kinds(m.works, time.Now) {
		if sk, ok := k.(site.Kind); ok && sk.Name() == name {
			return sk
		}
	}
	return site.Kind{}
}

func (m *Manager) siteSwitchover(ctx context.Context, in siteSwitchoverArgs) (PlanDetails, error) {
	o := site.Order{Site: in.Site, To: in.To, Stop: in.Stop, By: command.CallerOf(ctx).Name, Why: in.Why}
	p, err := m.siteKind(site.KindSwitchover).Plan(o, site.DefaultTimes())
	return m.begin(ctx, p, err, in.DryRun, in.Wait)
}

func (m *Manager) siteFailback(ctx context.Context, in siteFailbackArgs) (PlanDetails, error) {
	o := site.Order{Site: in.Site, Calm: in.Calm, By: command.CallerOf(ctx).Name, Why: in.Why}
	p, err := m.siteKind(site.KindFailback).Plan(o, site.DefaultTimes())
	return m.begin(ctx, p, err, in.DryRun, in.Wait)
}
