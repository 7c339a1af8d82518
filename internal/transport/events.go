package transport

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// The events of the front door.
var (
	EventRepeat = event.Define(1722, "repeat_possible", slog.LevelWarn,
		"A message may have reached another mail system twice: the answer to the first attempt was lost with the server or connection that made it.", "")
	EventClock = event.Define(1740, "clock_not_trusted", slog.LevelError,
		"The clock of this server jumped or differs from the others'; messages do not expire until it is right.",
		"Look at the time service (chronyc tracking, timedatectl) of this server.")
	EventClockGood = event.Define(1741, "clock_trusted", slog.LevelInfo, "The clock of this server is right again.", "", 1740)
)
