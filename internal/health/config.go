package health

import "github.com/postern-mail/postern/internal/health/respond"

// Config is the room's part of a server's configuration.
type Config struct {
	// Fast shortens ladders, windows and throttles for tests on one machine; node
	// sets it from timers.
	Fast bool `toml:"-"`
	// Recovery is the mode of recovery actions on this server while no row of the
	// group says one; empty: act.
	Recovery respond.Mode `toml:"-"`
}

// rules are those of this configuration alone.
func (c Config) rules() rules {
	if c.Recovery == "" || c.Recovery == respond.Act {
		return rules{}
	}
	return rules{Modes: []mode{{Mode: c.Recovery, Why: "the configuration of the server"}}}
}
