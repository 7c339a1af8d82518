package maintain

import "time"

// Times are how long steps wait.
type Times struct {
	Obey, Doors, Queue, HandOver, Move, Roles, Leave, Off time.Duration
	Back, Sync                                            time.Duration
	// Start is how long a server may take from the order to start another program
	// until it is heard again (upgrades).
	Start time.Duration
}

// Defaults are those of a group in production (docs/design/health.md, 8.1).
func Defaults() Times {
	return Times{Obey: 10 * time.Second, Doors: time.Minute, Queue: 90 * time.Second, HandOver: 5 * time.Minute, Move: 5 * time.Minute,
		Roles: 30 * time.Second, Leave: 30 * time.Second, Off: 20 * time.Second, Back: time.Hour, Sync: time.Hour, Start: 5 * time.Minute}
}

// Fast are those of tests and drills on one machine.
func Fast() Times {
	t := Defaults()
	t.Doors, t.Queue, t.HandOver, t.Move, t.Back, t.Sync = 15*time.Second, 10*time.Second, time.Minute, time.Minute, 2*time.Minute, 2*time.Minute
	t.Start = time.Minute
	return t
}
