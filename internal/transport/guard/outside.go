package guard

import "time"

// Held tells whether the account, as in mail.Peer, wrote to more recipients
// outside than the settings allow in an hour or a day. The front door asks when
// it takes a message of the account: rows for the outside then wait as
// suspended. An account is held no more once its counts are below the limits
// again; what was suspended stays so until an administrator resumes it.
func (g *Guard) Held(account string) bool {
	s := g.deps.Settings.Group()
	return account != "" && g.mem.held(account, s.OutboundAccountPerHour, s.OutboundAccountPerDay, time.Now())
}

// Release forgets what the account wrote, at this server: an administrator
// knows better.
func (g *Guard) Release(account string) { g.mem.release(account) }

// wrote counts recipients outside that an account wrote to.
func (g *Guard) wrote(account string, n int) {
	s := g.deps.Settings.Group()
	if g.mem.wrote(account, int64(n), s.OutboundAccountPerHour, s.OutboundAccountPerDay, time.Now()) {
		g.m.guard.WithLabelValues("outside", "hold").Inc()
		g.deps.Events.Emit(evHeld, "Account %s wrote to more than %d recipients outside in an hour or %d in a day; its mail to the outside waits.",
			account, s.OutboundAccountPerHour, s.OutboundAccountPerDay)
	}
}
