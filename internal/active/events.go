package active

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// Operator events of the room (1300-1399).
var (
	evPrimary       = event.Define(1300, "primary_role", slog.LevelInfo, "This server took the primary Active Manager role.", "")
	evFailover      = event.Define(1301, "database_failover", slog.LevelWarn, "A database is being activated elsewhere since its active copy is gone.", "Look at the server that had it: postern active log.")
	evSwitchover    = event.Define(1302, "database_switchover", slog.LevelInfo, "A database was moved.", "")
	evNoTarget      = event.Define(1310, "no_target", slog.LevelError, "A database has no active copy, and none of its copies can be activated.", "postern database why DATABASE tells what keeps each copy from it.")
	evStorm         = event.Define(1325, "storm_damped", slog.LevelWarn, "Many servers were lost within a minute: databases that are served are not moved for 10 minutes.", "Look at the network between the servers: postern cluster status.")
	evReseed        = event.Define(1330, "reseed_stage", slog.LevelWarn, "AutoReseed went on with a volume whose copies failed.", "")
	evReseedBlocked = event.Define(1331, "reseed_blocked", slog.LevelError, "AutoReseed cannot go on by itself.", "Look at: postern reseed list; fit a spare (postern volume set SERVER VOLUME --spare) or mend the volume, then: postern reseed retry SERVER VOLUME.")
	evSpare         = event.Define(1332, "spare_assigned", slog.LevelWarn, "A spare volume took the place of one that failed; its copies are being seeded.", "Replace the disk of the failed volume, then: postern volume reset SERVER VOLUME --spare.")
	evReseedDone    = event.Define(1333, "reseed_done", slog.LevelInfo, "AutoReseed is done with a volume: its copies are healthy and in sync.", "", 1331)
	evPlan          = event.Define(1320, "plan", slog.LevelInfo, "A plan begins, goes on, or has ended.", "Look at its steps: postern plan show ID.")
	evPlanHeld      = event.Define(1321, "plan_held", slog.LevelWarn, "A plan waits: a step did not come about, or something is in doubt.", "Look at the reason, postern plan show ID; then postern plan resume ID or postern plan abort ID.")
	evDrill         = event.Define(1345, "drill", slog.LevelInfo, "A scheduled drill begins, or may not begin now.", "Look at the reason: postern drill schedule list.")
	evHolds         = event.Define(1340, "dac_holds", slog.LevelError, "This server mounts no database, because it does not know whether the others of the group went on without it.", "Start the servers it names, or mend the network. If they are lost: postern site stop SITE for theirs, or postern site start SITE --confirm for this one (docs/operating.md, Sites).")
	evMayLead       = event.Define(1343, "dac_allows", slog.LevelInfo, "This server may mount databases again.", "", 1340)
	evPlanFailed    = event.Define(1322, "plan_failed", slog.LevelError, "A plan failed, and what it did is taken back.", "Look at the reason: postern plan show ID.")
)
