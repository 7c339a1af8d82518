package health

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Health sets of the room itself.
const (
	setMonitoring = "Monitoring"
	setRemote     = "RemoteMonitoring"
	setWorker     = "MailWorker"
	setUserPath   = "UserPath"

	probeHung      = "HungProbes"
	probeStalled   = "Stalled"
	probeHeartbeat = "Heartbeat"
	probeSocket    = "Socket"
)

// builtIn are the items about monitoring itself.
func builtIn(hung func(context.Context, string) (Reading, error)) Items {
	return Items{
		Sets: []Set{
			{Name: setMonitoring, Group: Services, Priority: org.PriorityNormal, Component: org.Monitoring, Doc: "Whether this server is watched."},
			{Name: setRemote, Group: Services, Priority: org.PriorityNormal, Component: org.Monitoring, Doc: "Whether other servers say how they are."},
			{Name: setWorker, Group: Services, Priority: org.PriorityCritical, HA: true, Doc: "Whether the mail worker answers."},
		},
		Probes: []Probe{
			{Set: setMonitoring, Name: probeHung, Kind: Check, Where: Inside, Every: 5 * time.Second, Timeout: 5 * time.Second, Unit: "probes",
				Doc: "Counts probes that have not come back.", Run: hung},
			{Set: setMonitoring, Name: probeStalled, Kind: Notification, Where: Outside, Unit: "monitors",
				Doc: "Counts monitors that have had no result for five minutes."},
			{Set: setRemote, Name: probeHeartbeat, Kind: Notification, Where: Inside, Doc: "Another server's health is published and moves on; two observers agree."},
			{Set: setWorker, Name: probeSocket, Kind: Notification, Where: Outside, Doc: "The mail worker answers at the admin socket."},
		},
		Monitors: []Monitor{
			{Set: setMonitoring, Name: "Hung", Probe: probeHung, Rule: Above(5, "probes", 2), Chain: TellChain(), Doc: "More than five probes hang."},
			{Set: setMonitoring, Name: "Stalled", Probe: probeStalled, Rule: Above(0, "monitors", 1), Chain: TellChain(), Doc: "Monitors have no results."},
			{Set: setRemote, Name: "Silent", Probe: probeHeartbeat, Rule: Notified(time.Minute), Chain: TellChain(), Doc: "Nobody hears how another server is."},
			{Set: setWorker, Name: "Silent", Probe: probeSocket, Rule: ConsecutiveFailures(3), Timeline: WorkerTimeline(), Chain: WorkerChain(MailWorker),
				Doc: "The mail worker does not answer."},
		},
	}
}

// Limits of hastened items.
const (
	hasten10   = 10
	leastPause = time.Second
	leastSpan  = time.Second
)

// hasten shortens intervals, windows and ladders for tests on one machine: 5, 30
// and 60 s become 1, 3 and 6 s, other times a tenth. Time-outs stay.
func hasten(x Items, c Config) Items {
	x = x.sorted()
	for i, m := range x.Monitors {
		x.Monitors[i].Probe = m.probe()
	}
	if !c.Fast {
		return x
	}
	for i := range x.Probes {
		if p := &x.Probes[i]; p.Every > 0 {
			p.Every = max(p.Every/hasten10, leastPause)
		}
	}
	for i := range x.Monitors {
		m := &x.Monitors[i]
		if m.Rule.Window > 0 {
			m.Rule.Window = max(m.Rule.Window/hasten10, leastSpan)
		}
		steps := m.Timeline
		if len(steps) == 0 {
			steps = DefaultTimeline()
		}
		m.Timeline = make([]Step, len(steps))
		for j, s := range steps {
			m.Timeline[j] = Step{After: s.After / hasten10, State: s.State}
		}
	}
	return x
}
