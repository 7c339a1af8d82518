package directory

import (
	"log/slog"
	"net/netip"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
)

var (
	evThrottled = event.Define(1400, "login_throttled", slog.LevelWarn,
		"Logins of an account or from an address are refused for a while because of too many failures.",
		"Look for the account in the access log; change its password if it may be known to others.")
	evSetupWaits = event.Define(1401, "mailbox_setup_waits", slog.LevelWarn,
		"A new mailbox could not be set up in its database yet; it is tried again.",
		"Check that its database is mounted: postern database list.")
	evPurged = event.Define(1402, "mailbox_purged", slog.LevelInfo,
		"A removed mailbox and all in it were deleted for good after the retention time or on request.", "")
	evBootstrapped = event.Define(1403, "administrator_bootstrapped", slog.LevelInfo,
		"The first server administrator was created.", "")
	evPurgeWaits = event.Define(1404, "mailbox_purge_waits", slog.LevelWarn,
		"A removed mailbox could not be deleted from its database yet; it is tried again.",
		"Check that its database is mounted: postern database list.")
)

// tellThrottled emits at most one event a minute: an attack must not fill the log.
func (d *Directory) tellThrottled(c candidate, remote netip.Addr) {
	now := time.Now().UnixNano()
	last := d.toldThrottled.Load()
	if now-last < int64(time.Minute) || !d.toldThrottled.CompareAndSwap(last, now) {
		return
	}
	who := c.account.Name
	if who == "" {
		who = "an unknown account"
	}
	d.opt.Events.Emit(evThrottled, "logins of %s from %s are refused for a while: too many failures", who, remote)
}
