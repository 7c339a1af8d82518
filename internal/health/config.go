package health

// Config is the room's part of a server's configuration.
type Config struct {
	// Fast shortens ladders, windows and throttles for tests on one machine; node
	// sets it from timers.
	Fast bool `toml:"-"`
}
