package imapd

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// Operator events of this door: 1550-1579.
var (
	eventListening = event.Define(1550, "imap_listening", slog.LevelInfo,
		"The IMAP door accepts connections.", "")
	eventStopped = event.Define(1551, "imap_stopped", slog.LevelInfo,
		"The IMAP door was shut and its sessions ended.", "")
	eventFull = event.Define(1552, "imap_connections_full", slog.LevelWarn,
		"A connection was refused because imap.max_connections is reached.",
		"See who is connected; raise imap.max_connections if the load is right.")
	eventPanic = event.Define(1553, "imap_session_panicked", slog.LevelError,
		"A bug ended one IMAP session; others are unaffected.", "Report the log line with its stack.")
	eventDamaged = event.Define(1554, "imap_met_damage", slog.LevelError,
		"A command met stored data that is damaged.", "Look at the copies of the database: postern copy status.")
)
