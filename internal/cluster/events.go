package cluster

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// The operator events of this room.
var (
	evViewDamaged = event.Define(1100, "view_snapshot_damaged", slog.LevelWarn,
		"The saved copy of the agreed state could not be read at start and was not used.",
		"None if the group has quorum; check the disk of the data folder.")
	evQuorumLost = event.Define(1101, "quorum_lost", slog.LevelError,
		"The agreed state does not answer: changes of it, and failovers, wait.",
		"Start the voting servers that are down (postern cluster status); if a majority is lost for good, see docs/operating.md, quorum.")
	evQuorumBack = event.Define(1102, "quorum_regained", slog.LevelInfo,
		"The agreed state answers again.", "", 1101)
	evPeerGone = event.Define(1103, "peer_gone", slog.LevelWarn,
		"A server is no longer heard by this one.", "Look at that server and the network between.")
	evPeerUp = event.Define(1104, "peer_up", slog.LevelInfo,
		"A server is heard by this one.", "", 1103)
	evJoined = event.Define(1105, "server_joined", slog.LevelInfo,
		"A server became a member of the group.", "")
	evRemoved = event.Define(1106, "server_removed", slog.LevelWarn,
		"A server was removed from the group; its certificate is refused from now on.", "")
	evVoter = event.Define(1107, "server_votes", slog.LevelInfo,
		"A server became a voting member of the agreed state.", "")
	evRenewed = event.Define(1108, "certificate_renewed", slog.LevelInfo,
		"A server's certificate was renewed and is in use.", "")
	evRenewal = event.Define(1109, "certificate_renewal_late", slog.LevelError,
		"A server's certificate could not be renewed though it is time.",
		"Check that the group has quorum and that the data folder can be written.")
	evJoinRefused = event.Define(1110, "join_refused", slog.LevelWarn,
		"A caller wanted to join the group and was refused.", "If it was yours, make a new token with postern cluster token.")
	evMemberFailed = event.Define(1111, "agreed_state_failed_here", slog.LevelError,
		"The agreed state's member on this server met an error it cannot go on after and is started again.",
		"Check space and health of the disk of the data folder.")
	evSelfRemoved = event.Define(1112, "this_server_removed", slog.LevelError,
		"This server finds that it was removed from the group, and stops.",
		"To take it in again, empty its cluster data folder and join.")
	evStateReplaced = event.Define(1113, "agreed_state_went_back", slog.LevelError,
		"The agreed state is older than what this server saw before: it was restored from a backup.",
		"Check databases and recipients changed after the backup.")
	evNewer = event.Define(1115, "newer_generation", slog.LevelWarn,
		"The group was forced to go on without some of its servers and kept this one, which takes over the new agreed state.", "")
	evForced = event.Define(1342, "forced_activation", slog.LevelError,
		"An administrator made the group go on without a majority: servers were given up.",
		"Power the given-up servers off, or keep them off the network, until each is taken in again with postern join --replace.")
	evGivenUp = event.Define(1341, "given_up", slog.LevelError,
		"The group went on without this server while it could not be reached. It stops; its databases and its queue stay where they are.",
		"Take it in again: postern cluster token at another server, postern join --replace TOKEN here.")
	evNetworks = event.Define(1120, "networks_changed", slog.LevelInfo,
		"The networks between the servers were found to be others than before.", "See postern network list.")
	evPathDown = event.Define(1121, "path_down", slog.LevelWarn,
		"A server is no longer heard in one network, and still in another; log shipping and calls go on there.",
		"Look at the interfaces of both servers in that network and at the switch between (postern network show).")
	evPathUp = event.Define(1122, "path_up", slog.LevelInfo,
		"A server is heard in a network again.", "")
	evAlarm = event.Define(1114, "agreed_state_alarm", slog.LevelError,
		"etcd has raised an alarm (no space left in its quota, or damaged data).",
		"See postern cluster status and docs/operating.md, agreed state.")
)
