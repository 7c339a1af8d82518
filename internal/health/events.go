package health

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/org"
)

// Operator events of the room (1800-1869).
var (
	evChanged = event.Define(1800, "monitor_changed", slog.LevelInfo, "A monitor came into another state.", "")
	evTell    = event.Define(1801, "health_escalation", slog.LevelError, "Something is wrong that the system could not repair by itself.",
		"Look at postern health server, and at postern health recovery log for what was tried.")
	evWell       = event.Define(1802, "healthy_again", slog.LevelInfo, "What was reported before is healthy again.", "", 1801)
	evSilent     = event.Define(1803, "health_worker_silent", slog.LevelError, "The health worker of this server does not report; it is restarted.", "If it stays so, look at the log of the server.")
	evBack       = event.Define(1805, "health_worker_back", slog.LevelInfo, "The health worker reports again.", "", 1803)
	evRemote     = event.Define(1804, "remote_health_silent", slog.LevelWarn, "Two servers do not hear how a third one is.", "Look at that server: postern server list.")
	evDeed       = event.Define(1820, "recovery_action", slog.LevelWarn, "The system repaired something by itself.", "See postern health recovery log.")
	evRefused    = event.Define(1821, "recovery_refused", slog.LevelWarn, "The system did not repair something, since a limit or a missing spare forbids it.", "See postern health recovery log for the reason.")
	evDeedFailed = event.Define(1822, "recovery_failed", slog.LevelError, "An automatic repair failed.", "See postern health recovery log.")
	evWould      = event.Define(1823, "recovery_would", slog.LevelInfo, "The system would have repaired something; it is in dry-run mode.", "See postern health recovery log --dry-run-only.")
	evOverride   = event.Define(1830, "override_changed", slog.LevelInfo, "An override of a health item was added or removed.", "")
	evMode       = event.Define(1831, "recovery_mode_changed", slog.LevelWarn, "The recovery mode was changed.", "")
	evHung       = event.Define(1840, "probe_hung", slog.LevelWarn, "A probe does not come back; it is not started again until it does.", "See postern health server --set Monitoring.")
)

// emitRecovery tells of a row of the recovery log, at its begin and at its end.
func emitRecovery(events *event.Log, r org.Recovery) {
	what := r.Action
	if r.Target != "" {
		what += " " + r.Target
	}
	switch {
	case r.DryRun && r.Allowed:
		events.Emit(evWould, "%s: would do %s: %s", r.Monitor, what, r.Cause)
	case r.DryRun:
	case r.Action == string(Escalate):
		events.Emit(evTell, "%s is %s: %s", r.Monitor, r.State, r.Cause)
	case !r.Allowed:
		events.Emit(evRefused, "%s: %s was refused: %s", r.Monitor, what, r.Refused)
	case r.Ended.IsZero():
		events.Emit(evDeed, "%s: %s begins: %s", r.Monitor, what, r.Cause)
	case r.Failed:
		events.Emit(evDeedFailed, "%s: %s %s", r.Monitor, what, r.Result)
	default:
		events.Emit(evDeed, "%s: %s is done: %s", r.Monitor, what, r.Result)
	}
}
