package remote

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// The events of sending.
var (
	EventFailing = event.Define(1760, "connector_failing", slog.LevelWarn,
		"No host of a connector can be reached; its mail waits.",
		"Look whether the other system is up and may be reached from this server.")

	EventMisconfigured = event.Define(1761, "connector_misconfigured", slog.LevelError,
		"A connector does not work as it is set: it is missing or disabled, its certificate or password cannot be used, or the other system does not know whose mail it is. Its mail waits and is not returned.",
		"Compare the connector with what the other system expects; the reason is in the event.")
)
