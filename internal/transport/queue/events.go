package queue

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// The events of a queue.
var (
	EventOpen = event.Define(1700, "queue_open", slog.LevelInfo, "The queue of this server was opened.", "")

	EventLevel = event.Define(1701, "queue_level", slog.LevelWarn,
		"The pressure on the queue changed: at medium, Safety Net is shortened; at high, nothing is accepted.",
		"Give the volume of the queue more space, or find out what holds the messages back.")

	EventFailed = event.Define(1710, "queue_failed", slog.LevelError,
		"The disk of the queue failed; nothing is accepted and nothing changes until the server is restarted.",
		"Replace the disk or give the queue a new folder; the shadow servers deliver what was accepted.")

	EventDamaged = event.Define(1711, "queue_damaged", slog.LevelError,
		"A body in the log of the queue is not what was written.",
		"Nothing if the shadow server has it; replace the disk if it happens again.")

	EventRebuilt = event.Define(1712, "ledger_rebuilt", slog.LevelWarn,
		"The ledger of the queue was damaged or did not fit the log and is made anew from the log.",
		"Nothing; message trace does not know what is older than the log.")

	EventShortened = event.Define(1731, "safety_net_shortened", slog.LevelWarn,
		"Safety Net gave up messages before the hold time was over because the volume of the queue is nearly full.",
		"Give the volume of the queue more space.")
)
