package shadow

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// The events of copies on second servers.
var (
	EventAlone = event.Define(1702, "queue_alone", slog.LevelWarn,
		"No other server can hold a second copy of the messages that are accepted.",
		"Bring another server back, or see why its queue takes nothing.")

	EventTwo = event.Define(1703, "queue_two", slog.LevelInfo,
		"Messages that are accepted have a second copy again.", "", 1702)

	EventTakeover = event.Define(1720, "queue_takeover", slog.LevelWarn,
		"This server took over messages of a server that was lost.", "")

	EventReconciled = event.Define(1721, "queue_reconciled", slog.LevelInfo,
		"A server that came back knows again which of its messages are its own.", "", 1723)

	EventReconciling = event.Define(1723, "queue_reconciling", slog.LevelError,
		"For a long time it is not known whose messages some are, as a server does not answer; they wait.",
		"Bring the server back, or remove it from the group if it is lost for good.")
)
