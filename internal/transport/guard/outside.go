package guard

import (
	"time"

	"github.com/postern-mail/postern/internal/mail"
)

// Held tells whether the account, as in mail.Peer, wrote to more recipients
// outside than the settings allow in an hour or a day. The front door asks when
// it takes a message of the account: rows for the outside then wait as
// suspended. An account is held no more once its counts are below the limits
// again, or when its sender is on the allow list; what was suspended stays so
// until an administrator resumes it.
func (g *Guard) Held(account string) bool {
	s := g.deps.Settings.Group()
	return account != "" && g.mem.held(account, s.OutboundAccountPerHour, s.OutboundAccountPerDay, time.Now())
}

// wrote counts recipients outside that an account wrote to as this sender.
func (g *Guard) wrote(account string, from mail.Address, n int) {
	if g.inForce().allow.sender(from, time.Now()) {
		g.mem.release(account)
		return
	}
	s := g.deps.Settings.Group()
	if g.mem.wrote(account, int64(n), s.OutboundAccountPerHour, s.OutboundAccountPerDay, time.Now()) {
		g.m.guard.WithLabelValues("outside", "hold").Inc()
		g.deps.Events.Emit(evHeld, "Account %s wrote to more than %d recipients outside in an hour or %d in a day; its mail to the outside waits.",
			account, s.OutboundAccountPerHour, s.OutboundAccountPerDay)
	}
}
