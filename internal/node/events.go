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
	EventServerReady = event.Define(1010, "server_ready", slog.LevelInfo, "All doors of this server are open.", "")
	EventDoorDown    = event.Define(1011, "door_down", slog.LevelError, "A door of this server does not answer as a user expects.",
		"Look at the server's log; the next probes tell whether it came back.")
	EventDoorUp = event.Define(1012, "door_up", slog.LevelInfo, "A door of this server answers again.", "", 1011)
)
