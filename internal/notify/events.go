package notify

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// codeFailing and codeDropped are events that are alerts themselves.
const (
	codeFailing = 1870
	codeDropped = 1874
	firstCode   = 1870
	lastCode    = 1899
)

// Operator events of the room (1870-1899). None of them goes through the rules as
// an event: the room raises what has to be told itself.
var (
	evFailing = event.Define(codeFailing, "channel_failing", slog.LevelWarn,
		"A notification channel cannot be reached from this server; another one tries.",
		"Try it: postern notify channel test; the reason is in the event.")
	evOpened       = event.Define(1871, "alert_opened", slog.LevelInfo, "An alert was opened.", "postern alert list")
	evAcknowledged = event.Define(1872, "alert_acknowledged", slog.LevelInfo, "Somebody took an alert: no reminders, no escalation.", "")
	evClosed       = event.Define(1873, "alert_closed", slog.LevelInfo, "An alert is over.", "")
	evDropped      = event.Define(codeDropped, "alerts_dropped", slog.LevelWarn,
		"There were more alerts at once than are kept; those beyond were counted only.",
		"Look at the events of the servers: postern event list --level warn.")
	evWorks = event.Define(1875, "channel_works", slog.LevelInfo, "A notification channel can be reached again.", "", codeFailing)
)
