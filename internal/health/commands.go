package health

import (
	"context"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/org"
)

type serverArgs struct {
	Server org.ServerName `json:"server" arg:"1" doc:"server to show; the one that answers when not given" complete:"server list"`
	Set    string         `json:"set" doc:"only this health set"`
	HA     bool           `json:"ha_impacting" doc:"only what bears on where databases may be active"`
}

type reportArgs struct {
	Server  org.ServerName `json:"server" arg:"1" doc:"server to show; all when not given" complete:"server list"`
	RollUp  bool           `json:"roll_up" doc:"show groups of servers instead of health sets"`
	Size    int            `json:"group_size" default:"12" doc:"servers in a group, with --roll-up"`
	Minimum int            `json:"minimum_online" default:"70" doc:"percent of a group that has to work for it to be no worse than Degraded"`
	HA      bool           `json:"ha_impacting" doc:"only what bears on where databases may be active"`
}

type definitionArgs struct {
	Set string `json:"set" doc:"only this health set"`
}

type probeRunArgs struct {
	Probe   string        `json:"probe" arg:"1" required:"true" doc:"probe as Set\\Name"`
	Target  string        `json:"target" arg:"2" doc:"what to look at; every target when not given"`
	Timeout time.Duration `json:"timeout" doc:"time for each; the probe's own when not given"`
}

type monitorSetArgs struct {
	Monitor   string         `json:"monitor" arg:"1" required:"true" doc:"monitor as Set\\Name or Set\\Name\\Target"`
	Server    org.ServerName `json:"server" doc:"server it is on; the one that answers when not given" complete:"server list"`
	Repairing bool           `json:"repairing" default:"true" doc:"somebody works on it: no automatic action; false ends it"`
	For       time.Duration  `json:"for" default:"4h" doc:"how long, at most 7 days"`
	Why       string         `json:"why" doc:"reason, for the report"`
}

type overrideAddArgs struct {
	Item     string         `json:"item" arg:"1" required:"true" doc:"Set\\Item or Set\\Item\\Target; of a responder Set\\Monitor.Responder"`
	Property string         `json:"property" arg:"2" required:"true" doc:"Enabled, IntervalSeconds, TimeoutSeconds, Threshold, WindowSeconds, Samples, TransitionSeconds.STATE, AfterSeconds"`
	Value    string         `json:"value" arg:"3" required:"true" doc:"its value"`
	Type     string         `json:"type" default:"monitor" enum:"probe,monitor,responder" doc:"what the item is"`
	Server   org.ServerName `json:"server" doc:"server it holds for; all when not given" complete:"server list"`
	For      time.Duration  `json:"for" doc:"how long it holds"`
	Version  string         `json:"version" doc:"version of the program it holds for"`
	Forever  bool           `json:"until_removed" doc:"it holds until it is removed"`
	Why      string         `json:"why" doc:"reason, for the report"`
	Force    bool           `json:"force" doc:"also where too little would watch; for at most one hour"`
	DryRun   bool           `json:"dry_run" doc:"only say what would be done"`
}

type overrideArg struct {
	ID string `json:"id" arg:"1" required:"true" doc:"identity of the override" complete:"health override list"`
}

type recoveryLogArgs struct {
	ID     string         `json:"id" arg:"1" doc:"one action with its evidence"`
	Server org.ServerName `json:"server" doc:"only of this server" complete:"server list"`
	Since  time.Duration  `json:"since" default:"24h" doc:"how far back"`
	Action string         `json:"action" doc:"only this action"`
	Dry    bool           `json:"dry_run_only" doc:"only what would have been done"`
}

type modeArgs struct {
	Mode   string         `json:"mode" arg:"1" required:"true" enum:"act,dry-run,off,default" doc:"act, dry-run, off, or default to remove the setting"`
	Server org.ServerName `json:"server" doc:"server it holds for; all when not given" complete:"server list"`
	Set    string         `json:"set" doc:"health set it holds for; all when not given"`
	For    time.Duration  `json:"for" doc:"how long; until changed when not given"`
	Why    string         `json:"why" doc:"reason, for the report"`
	DryRun bool           `json:"dry_run" doc:"only say what would be done"`
}

// MonitorRow is a monitor as commands show it (Exchange: Get-ServerHealth).
type MonitorRow struct {
	Server    org.ServerName  `json:"server" col:"SERVER"`
	Set       string          `json:"set" col:"SET"`
	Name      string          `json:"name" col:"MONITOR"`
	Target    string          `json:"target,omitempty" col:"TARGET"`
	State     org.HealthState `json:"state" col:"STATE"`
	Component string          `json:"component" col:"COMPONENT"`
	HA        bool            `json:"ha_impacting" col:"-"`
	Since     time.Time       `json:"since" col:"SINCE"`
	Why       string          `json:"why,omitempty" col:"WHY"`
}

// SetRow is a health set of a server (Exchange: Get-HealthReport).
type SetRow struct {
	Server    org.ServerName     `json:"server" col:"SERVER"`
	Set       string             `json:"set" col:"SET"`
	Group     Group              `json:"group" col:"-"`
	Priority  org.HealthPriority `json:"priority" col:"PRIORITY"`
	State     org.HealthState    `json:"state" col:"STATE"`
	Component string             `json:"component" col:"COMPONENT"` // Active, Draining, Inactive or NotApplicable
	Monitors  int                `json:"monitors" col:"MONITORS"`
	HA        bool               `json:"ha_impacting" col:"-"`
	Since     time.Time          `json:"since" col:"SINCE"`
	Worst     string             `json:"worst,omitempty" col:"WORST"`
}

// GroupRow is a group of servers.
type GroupRow struct {
	Servers []org.ServerName `json:"servers" col:"SERVERS"`
	State   org.HealthState  `json:"state" col:"STATE"`
	Working int              `json:"working" col:"WORKING"`
	Of      int              `json:"of" col:"OF"`
}

// OverrideRow is an override as commands show it.
type OverrideRow struct {
	ID       string         `json:"id" col:"ID"`
	Type     string         `json:"type" col:"TYPE"`
	Item     string         `json:"item" col:"ITEM"`
	Property string         `json:"property" col:"PROPERTY"`
	Value    string         `json:"value" col:"VALUE"`
	Server   org.ServerName `json:"server" col:"SERVER"`
	Ends     string         `json:"ends" col:"ENDS"`
	By       string         `json:"by,omitempty" col:"BY"`
	Why      string         `json:"why,omitempty" col:"WHY"`
}

// Report is the answer of "health report". It always ends with what people have
// set, so that nothing that was switched off is forgotten.
type Report struct {
	Sets      []SetRow      `json:"sets,omitempty" col:"SETS"`
	Groups    []GroupRow    `json:"groups,omitempty" col:"GROUPS"`
	Silent    []string      `json:"silent,omitempty" col:"NO NEWS OF"`
	Overrides []OverrideRow `json:"overrides" col:"OVERRIDES"`
	Modes     []ModeRow     `json:"recovery_modes" col:"RECOVERY MODES"`
}

// ModeRow is a recovery mode that somebody has set.
type ModeRow struct {
	Server org.ServerName `json:"server,omitempty" col:"SERVER"`
	Set    string         `json:"set,omitempty" col:"SET"`
	Mode   string         `json:"mode" col:"MODE"`
	Ends   string         `json:"ends" col:"ENDS"`
	By     string         `json:"by,omitempty" col:"BY"`
	Why    string         `json:"why,omitempty" col:"WHY"`
}

// DefinitionRow is an item with all that can be overridden.
type DefinitionRow struct {
	Set     string `json:"set" col:"SET"`
	Type    string `json:"type" col:"TYPE"`
	Item    string `json:"item" col:"ITEM"`
	Where   string `json:"where,omitempty" col:"WHERE"`
	Every   string `json:"every,omitempty" col:"EVERY"`
	Timeout string `json:"timeout,omitempty" col:"TIMEOUT"`
	Rule    string `json:"rule,omitempty" col:"RULE"`
	Chain   string `json:"chain,omitempty" col:"CHAIN"`
	Doc     string `json:"doc" col:"MEANS"`
}

// ProbeRow is the result of a probe that was run by hand. A result that passed
// means that what was wrong has passed too.
type ProbeRow struct {
	Probe  string        `json:"probe" col:"PROBE"`
	Target string        `json:"target,omitempty" col:"TARGET"`
	Result string        `json:"result" col:"RESULT"`
	Value  float64       `json:"value" col:"VALUE"`
	Unit   string        `json:"unit,omitempty" col:"UNIT"`
	Took   time.Duration `json:"took" col:"TOOK"`
	Text   string        `json:"text,omitempty" col:"SAID"`
}

// RecoveryRow is an entry of the recovery log.
type RecoveryRow struct {
	ID        string                 `json:"id" col:"ID"`
	Begun     time.Time              `json:"begun" col:"TIME"`
	Server    org.ServerName         `json:"server" col:"SERVER"`
	Action    string                 `json:"action" col:"ACTION"`
	Target    string                 `json:"target,omitempty" col:"TARGET"`
	Monitor   string                 `json:"monitor,omitempty" col:"MONITOR"`
	State     org.HealthState        `json:"state,omitempty" col:"-"`
	Result    string                 `json:"result" col:"RESULT"`
	DryRun    bool                   `json:"dry_run,omitempty" col:"DRY-RUN"`
	Ended     time.Time              `json:"ended,omitzero" col:"-"`
	Cause     string                 `json:"cause,omitempty" col:"CAUSE"`
	Responder string                 `json:"responder,omitempty" col:"-"`
	Second    string                 `json:"second,omitempty" col:"-"`
	Plan      string                 `json:"plan,omitempty" col:"-"`
	Decision  string                 `json:"decision,omitempty" col:"-"`
	Evidence  []org.RecoveryEvidence `json:"evidence,omitempty" col:"-"`
}

// Commands are the room's entries of the command table. d may be nil for listing
// them.
func Commands(d *Desk) []command.Command {
	return slices.Concat(readCommands(d), changeCommands(d))
}

func readCommands(d *Desk) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "health", Verb: "server", Short: "Show the monitors of a server", Roles: read,
			Long: "Every monitor of the server that answers with its state and the reason (Exchange: Get-ServerHealth). Of another server its health sets with " +
				"their least healthy monitor are shown; its own answer has the rest.",
			Example: "postern health server --set IMAP.Protocol"}, func(_ context.Context, in serverArgs) ([]MonitorRow, error) { return d.serverRows(in) }),
		command.New(command.Command{Noun: "health", Verb: "report", Short: "Show the health sets of all servers, or roll servers up in groups", Roles: read,
			Long:    "A set is as its least healthy monitor. The report ends with every override and recovery mode and when it ends (Exchange: Get-HealthReport).",
			Example: "postern health report --roll-up --group-size 4"}, func(_ context.Context, in reportArgs) (Report, error) { return d.reportOf(in) }),
		command.New(command.Command{Noun: "health", Verb: "definitions", Short: "List probes, monitors and responders with their values", Roles: read,
			Example: "postern health definitions --set Store"}, func(_ context.Context, in definitionArgs) ([]DefinitionRow, error) { return d.definitions(in) }),
		command.New(command.Command{Noun: "health", Verb: "override list", Short: "List overrides and when they end", Roles: read},
			func(context.Context, command.None) ([]OverrideRow, error) { return d.overrideRows(), nil }),
		command.New(command.Command{Noun: "health", Verb: "recovery log", Short: "List what was repaired automatically, what was refused, and why", Roles: read,
			Long:    "Every automatic action of every server with its cause and its result. With an identity the results that led to it are shown too.",
			Example: "postern health recovery log --since 1h"}, func(_ context.Context, in recoveryLogArgs) ([]RecoveryRow, error) { return d.recoveryRows(in) }),
	}
}

func changeCommands(d *Desk) []command.Command {
	return []command.Command{
		command.New(command.Command{Noun: "health", Verb: "probe run", Short: "Run a probe now on the server that answers", Changes: true,
			Long:    "The result is shown and does not count for any monitor. If it passes, what was wrong has passed too.",
			Example: `postern health probe run 'IMAP.Protocol\SelfTest'`}, d.probeRun),
		command.New(command.Command{Noun: "health", Verb: "monitor set", Short: "Say that somebody works on what a monitor watches, or no longer does", Changes: true,
			Long:    "A monitor in repair is shown as Repairing, so that other faults stand out, and nothing is done by itself (Exchange: Set-ServerMonitor).",
			Example: `postern health monitor set 'Volume\Latency\Vol2' --for 2h --why "disk is being replaced"`}, d.monitorSet),
		command.New(command.Command{Noun: "health", Verb: "override add", Short: "Change a property of a probe, a monitor or a responder for a time", Changes: true, Dangerous: true,
			Long: "It takes effect at once. One bound is wanted: --for, --version or --until-removed. What would switch off every monitor of the critical health sets, " +
				"or more than half of all items, is refused (Exchange: Add-ServerMonitoringOverride, Add-GlobalMonitoringOverride).",
			Example: `postern health override add 'CPU\StealHigh' Threshold 10 --for 48h --why "the host is being moved"`}, d.overrideAdd),
		command.New(command.Command{Noun: "health", Verb: "override remove", Short: "End an override", Changes: true}, d.overrideRemove),
		command.New(command.Command{Noun: "health", Verb: "recovery mode", Short: "Set whether repairs are done, only written down, or off", Changes: true, Dangerous: true,
			Long: "In dry-run mode the same judgement is made and written to the recovery log, and nothing else is done. A mode for a health set goes before one for a server, " +
				"and that before one for all. postern health report shows which are set.",
			Example: "postern health recovery mode dry-run --for 24h"}, d.recoveryMode),
	}
}
