package active

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// Operator events of the room (1300-1399).
var (
	evPrimary    = event.Define(1300, "primary_role", slog.LevelInfo, "This server took the primary Active Manager role.", "")
	evFailover   = event.Define(1301, "database_failover", slog.LevelWarn, "A database is being activated elsewhere since its active copy is gone.", "Look at the server that had it: postern active log.")
	evSwitchover = event.Define(1302, "database_switchover", slog.LevelInfo, "A database was moved.", "")
)
