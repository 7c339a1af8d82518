package node

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// Events of the host and its workers.
var (
	EventHostStarted   = event.Define(1000, "host_started", slog.LevelInfo, "The host began to serve a data folder.", "")
	EventHostStopping  = event.Define(1001, "host_stopping", slog.LevelInfo, "The host was told to stop and drains its workers.", "")
	EventWorkerStarted = event.Define(1002, "worker_started", slog.LevelInfo, "A worker process was started.", "")
	EventWorkerReady   = event.Define(1003, "worker_ready", slog.LevelInfo, "A worker process is ready for work.", "")
	EventWorkerDied    = event.Define(1004, "worker_died", slog.LevelError, "A worker process ended without being told to; it is started again.",
		"Look in the log just before this event for its last words.")
	EventWorkerHung = event.Define(1005, "worker_hung", slog.LevelError, "A worker process sent no heartbeat; it is killed and started again.",
		"Look for a stalled disk or a machine short of memory.")
	EventDrainTimeout = event.Define(1006, "drain_timeout", slog.LevelWarn, "A worker did not finish in the drain time and was killed.",
		"Nothing confirmed is lost; clients were cut off.")
	EventServerReady  = event.Define(1010, "server_ready", slog.LevelInfo, "All doors of this server are open.", "")
	EventServiceEnded = event.Define(1013, "service_ended", slog.LevelError, "A door of this server ended by itself; it is built anew.",
		"Look in the log just before this event for the reason.")
	EventServiceRestarted = event.Define(1014, "service_restarted", slog.LevelWarn, "A door of this server was built anew, often by a recovery action.",
		"`postern health recovery log` tells why.")
	EventWorkerOrder = event.Define(1007, "worker_ordered", slog.LevelWarn, "A worker asked for the restart of a worker; the host obeys within its own limits.",
		"`postern health recovery log` tells why.")
	EventWorkerSpins = event.Define(1008, "worker_spins", slog.LevelError, "The health worker used a processor for itself for too long and is started again.",
		"Report it if it happens again.")
)
