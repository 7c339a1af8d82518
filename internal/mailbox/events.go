package mailbox

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// Operator events of the room (1200-1299).
var (
	evMounted      = event.Define(1200, "database_mounted", slog.LevelInfo, "This server's copy became the active one.", "")
	evStepped      = event.Define(1201, "database_stepped_down", slog.LevelInfo, "This server's copy stopped being the active one.", "")
	evCopyFailed   = event.Define(1202, "copy_failed", slog.LevelError, "A copy can neither lead nor follow.", "Look at the reason; after the disk is mended: postern copy reseed DATABASE SERVER.")
	evCopyHealthy  = event.Define(1203, "copy_healthy", slog.LevelInfo, "A copy follows the active one and has all it needs.", "", 1202)
	evOutOfSync    = event.Define(1204, "copy_out_of_sync", slog.LevelWarn, "A copy was taken out of the in-sync set because it stalled or its server is gone.", "It comes back by itself when it has caught up; look at its server if it does not.")
	evInSync       = event.Define(1205, "copy_in_sync", slog.LevelInfo, "A copy holds everything confirmed again.", "", 1204)
	evAlone        = event.Define(1206, "database_alone", slog.LevelError, "Changes are confirmed on one copy only, since no other copy can store.", "Bring a second copy's server or volume back, or add a copy: postern copy add DATABASE SERVER.")
	evNotAlone     = event.Define(1207, "database_redundant_again", slog.LevelInfo, "A second copy holds everything that was confirmed on one copy.", "", 1206)
	evDiverged     = event.Define(1208, "copy_diverged", slog.LevelWarn, "A copy held log that is not in the active's history; it was set aside and its messages are offered again.", "Nothing, unless the offer fails; the part set aside is kept in the copy's folder.")
	evOffered      = event.Define(1209, "diverged_messages_offered", slog.LevelInfo, "The messages of a part set aside are in their mailboxes.", "")
	evDamage       = event.Define(1210, "copy_damaged", slog.LevelError, "Damaged data was found in a copy.", "It is repaired from another copy by itself; if damage comes back, replace the disk.")
	evRepaired     = event.Define(1211, "copy_repaired", slog.LevelInfo, "A damaged range was replaced from another copy.", "", 1210)
	evUnrepaired   = event.Define(1212, "copy_not_repaired", slog.LevelError, "A damaged range could not be replaced, since no other copy has it.", "Bring other copies back, then: postern copy scrub DATABASE SERVER.")
	evVolumeFull   = event.Define(1213, "volume_full", slog.LevelError, "A volume has less space than its reserve: mail for its databases gets temporary errors.", "Free space or enlarge the volume; service returns by itself.")
	evVolumeFree   = event.Define(1214, "volume_has_space", slog.LevelInfo, "A volume has space again.", "", 1213)
	evIndexReset   = event.Define(1215, "index_rebuilt", slog.LevelWarn, "A copy's index was made anew from its log.", "")
	evLossyMount   = event.Define(1216, "database_lossy_mount", slog.LevelError, "A database was mounted although its former active copy may have held more.", "Bring the former active back: what it held beyond is delivered again.")
	evSeeded       = event.Define(1217, "copy_seeded", slog.LevelInfo, "A copy was seeded.", "")
	evReclaimed    = event.Define(1218, "log_reclaimed", slog.LevelInfo, "The oldest log was dropped after its living records were written again.", "")
	evPlayDown     = event.Define(1220, "replay_lag_played_down", slog.LevelWarn, "A lagged copy replays without its lag, or would and waits for its disk: room or healthy copies are wanting.", "Look at the reason: free space on its volume, or bring copies without lag back; the lag builds up again by itself.")
	evLagAgain     = event.Define(1226, "replay_lag_again", slog.LevelInfo, "A lagged copy that replayed without its lag lags again.", "", 1220)
	evPast         = event.Define(1222, "past_opened", slog.LevelInfo, "A database is shown as it was at a moment, for somebody who restores mail.", "")
	evRewound      = event.Define(1227, "database_rewound", slog.LevelInfo, "The mailboxes of a database were brought back to what they held at a moment.", "")
	evBadState     = event.Define(1221, "copy_state_impossible", slog.LevelError, "A copy was about to go into a state that cannot follow the one it is in; it keeps the one it has.", "A fault of the program: keep the log and report it.")
	evVolumeFailed = event.Define(1223, "volume_failed", slog.LevelError, "A volume is gone, another one, read-only, hung, or fails reads or writes.", "Its databases move and its copies go to a spare by themselves; replace the disk, then: postern volume reset SERVER VOLUME.")
	evVolumeBack   = event.Define(1224, "volume_back", slog.LevelInfo, "A volume that had failed works again.", "", 1223)
	evLeftover     = event.Define(1225, "leftover_removed", slog.LevelInfo, "What Postern had set aside on a volume was removed, as its database is healthy elsewhere or nobody asked for it.", "")
)
