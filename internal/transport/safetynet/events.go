package safetynet

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// The events of Safety Net.
var (
	EventRequest = event.Define(1730, "safety_net_request", slog.LevelInfo,
		"A Safety Net request came to another state.",
		"Nothing when it is Completed; else see what is missing: postern safetynet show.")

	EventShort = event.Define(1732, "safety_net_short", slog.LevelWarn,
		"The settings do not let Safety Net make good all that a database may lose, or let a mailbox get a message twice.",
		"Change hold_time or message_expiration, or mailbox.duplicate_window on all servers.")
)
