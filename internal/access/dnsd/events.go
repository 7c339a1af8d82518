package dnsd

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// Operator events of the door (1580-1589).
var (
	evOpen = event.Define(1580, "dns_open", slog.LevelInfo, "The DNS door answers for the namespace.", "")
)
