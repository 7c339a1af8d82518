package respond

import (
	"time"
)

// Throttle limits an action; zero is no limit. The first five are those of
// Exchange's throttle policy, their values are ours.
type Throttle struct {
	// LocalGap, LocalHour and LocalDay hold for one target on one server.
	LocalGap            time.Duration
	LocalHour, LocalDay int
	// GroupGap holds between two servers, GroupDay for the whole group.
	GroupGap time.Duration
	GroupDay int
	// DayPerServer and DayPerDatabase add to GroupDay for each server, and for
	// each database that a server has.
	DayPerServer, DayPerDatabase int
	// AtOnce is how many may be under way in the group, on different servers or
	// targets; ShareAtOnce is one for so many servers begun.
	AtOnce, ShareAtOnce int
	// Takes says that the deed takes something away from users: not while a plan
	// holds the spare of the group.
	Takes bool
	// Spare is what has to be left elsewhere.
	Spare SpareKind
	// Alone says that it is possible without quorum, on local counts.
	Alone bool
}

// SpareKind is what has to be left elsewhere for a deed.
type SpareKind uint8

// Kinds of spare.
const (
	NoSpare        SpareKind = iota
	SpareComponent           // another server that serves the target component
	SpareDatabases           // copies in sync of every database here
)

// throttles are the limits of each action (docs/design/health.md, 3.6).
func throttles() map[Action]Throttle {
	const m, h = time.Minute, time.Hour
	return map[Action]Throttle{
		Escalate:       {},
		Online:         {LocalGap: m, LocalHour: 30, LocalDay: 200},
		RestartService: {LocalGap: 10 * m, LocalHour: 3, LocalDay: 6, GroupGap: 2 * m, GroupDay: 24, ShareAtOnce: 3, Alone: true},
		RestartCopy:    {LocalGap: 10 * m, LocalHour: 3, LocalDay: 6, GroupGap: 0, GroupDay: 24, DayPerDatabase: 1, ShareAtOnce: 3, Alone: true},
		RestartWorker: {LocalGap: 30 * m, LocalHour: 1, LocalDay: 4, GroupGap: 5 * m, DayPerServer: 2, AtOnce: 1, Takes: true,
			Spare: SpareDatabases, Alone: true},
		MoveDatabase:  {LocalGap: 30 * m, LocalHour: 2, LocalDay: 4, GroupGap: 5 * time.Second, DayPerDatabase: 12, AtOnce: 8},
		MoveDatabases: {LocalGap: 30 * m, LocalHour: 2, LocalDay: 4, GroupGap: 5 * time.Second, DayPerDatabase: 12, AtOnce: 8},
		Evacuate:      {LocalGap: 6 * h, LocalHour: 1, LocalDay: 2, GroupGap: 15 * m, DayPerServer: 1, AtOnce: 1, Takes: true},
		Offline:       {LocalGap: 30 * m, LocalHour: 2, LocalDay: 4, GroupGap: 15 * m, ShareAtOnce: 3, Takes: true, Spare: SpareComponent},
		RefuseWork:    {LocalGap: 5 * m, LocalHour: 6, LocalDay: 24, GroupGap: m, ShareAtOnce: 3, Takes: true, Spare: SpareComponent},
		SuspendCopy:   {LocalGap: 10 * m, LocalDay: 24, GroupGap: m, GroupDay: 24, DayPerDatabase: 1},
		RebootHook: {LocalGap: 6 * h, LocalHour: 1, LocalDay: 2, GroupGap: h, GroupDay: 1, AtOnce: 1, Takes: true,
			Spare: SpareDatabases},
	}
}

// Limits of tests on one machine: gaps a twentieth, days ten times as much.
const (
	fastGap = 20
	fastDay = 10
)

// ThrottleOf is the limit of an action; fast ones are for tests on one machine.
func ThrottleOf(a Action, fast bool) Throttle {
	t := throttles()[a]
	if fast {
		t.LocalGap, t.GroupGap = t.LocalGap/fastGap, t.GroupGap/fastGap
		t.LocalHour, t.LocalDay, t.GroupDay = t.LocalHour*fastDay, t.LocalDay*fastDay, t.GroupDay*fastDay
		t.DayPerServer, t.DayPerDatabase = t.DayPerServer*fastDay, t.DayPerDatabase*fastDay
	}
	return t
}

// underWay is how long a deed counts as under way when nobody wrote down its end:
// the server that did it may be gone.
func underWay(a Action) time.Duration {
	switch a {
	case Offline, RefuseWork:
		return 4 * time.Hour // as long as the entry of HealthAPI lasts
	case Evacuate:
		return 15 * time.Minute
	case RestartWorker, RebootHook:
		return 10 * time.Minute
	}
	return 5 * time.Minute
}
