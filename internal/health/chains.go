package health

import (
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Names of responders that several chains share.
const escalateName = "Escalate"

// moveAgain is how long a database that could not be moved stays: a copy that
// was behind may be in sync by then.
const moveAgain = time.Minute

// DoorChain restarts a service of this server, takes its component out when a
// second server agrees, restarts the mail worker and at last moves everything
// away (chain A).
func DoorChain(service string, c org.Component) Chain {
	return Chain{Name: "A", Steps: []Responder{
		{Name: "Restart", At: org.Degraded, After: 15 * time.Second, Wait: 30 * time.Second, Action: RestartService, Target: service},
		{Name: "Offline", At: org.Unhealthy, Action: Offline, Target: string(c), Second: true},
		{Name: "RestartWorker", At: org.Unhealthy1, Wait: time.Minute, Action: RestartWorker, Target: MailWorker, Second: true},
		{Name: "Evacuate", At: org.Unrecoverable, Action: Evacuate, Second: true},
		{Name: escalateName, At: org.Unrecoverable, Action: Escalate},
		{Name: "Online", At: org.HealthOK, After: time.Minute, Action: Online, Target: string(c)},
	}}
}

// StoreChain moves the database to a better copy, then restarts the worker,
// then moves everything away (chain B). Its monitor's targets are databases.
func StoreChain() Chain {
	return Chain{Name: "B", Steps: []Responder{
		{Name: "Move", At: org.Unhealthy, Wait: time.Minute, Action: MoveDatabase, Again: moveAgain},
		{Name: "RestartWorker", At: org.Unhealthy1, Wait: time.Minute, Action: RestartWorker, Target: MailWorker},
		{Name: "Evacuate", At: org.Unrecoverable, Action: Evacuate},
		{Name: escalateName, At: org.Unrecoverable, Action: Escalate},
	}}
}

// VolumeChain moves the active databases of a volume away at once (chain C). Its
// monitor's targets are volumes; AutoReseed works beside it.
func VolumeChain() Chain {
	return Chain{Name: "C", Steps: []Responder{
		{Name: "Move", At: org.Degraded, Action: MoveDatabases, Again: moveAgain},
		{Name: escalateName, At: org.Unhealthy1, Action: Escalate},
	}}
}

// CopyChain begins a copy's role anew, then suspends it, so that AutoReseed may
// take it (chain D). Its monitor's targets are databases; see CopyTimeline.
func CopyChain() Chain {
	return Chain{Name: "D", Steps: []Responder{
		{Name: "Restart", At: org.Unhealthy, Wait: 30 * time.Second, Action: RestartCopy},
		{Name: "Suspend", At: org.Unhealthy1, Action: SuspendCopy},
		{Name: escalateName, At: org.Unrecoverable, Action: Escalate},
	}}
}

// CopyTimeline is the ladder of CopyChain: a copy Failed for ten minutes is
// suspended.
func CopyTimeline() []Step {
	return ladder(time.Minute, 10*time.Minute)
}

// TellChain tells people and does nothing else (chain E).
func TellChain() Chain {
	return Chain{Name: "E", Steps: []Responder{{Name: escalateName, At: org.Unhealthy, Action: Escalate}}}
}

// NetworkChain takes the doors out when clients cannot reach this server, and
// moves what loses nothing (chain F); see NetworkTimeline.
func NetworkChain(doors ...org.Component) Chain {
	c := Chain{Name: "F"}
	for _, d := range doors {
		c.Steps = append(c.Steps, Responder{Name: "Offline-" + string(d), At: org.Unhealthy, Action: Offline, Target: string(d)})
	}
	c.Steps = append(c.Steps,
		Responder{Name: "Evacuate", At: org.Unhealthy1, Action: Evacuate, Lossless: true},
		Responder{Name: escalateName, At: org.Unhealthy1, Action: Escalate})
	for _, d := range doors {
		c.Steps = append(c.Steps, Responder{Name: "Online-" + string(d), At: org.HealthOK, After: time.Minute, Action: Online, Target: string(d)})
	}
	return c
}

// NetworkTimeline is the ladder of NetworkChain.
func NetworkTimeline() []Step {
	return ladder(10*time.Second, 20*time.Second)
}

// MemoryChain refuses new work, then restarts the mail worker (chain G).
func MemoryChain() Chain {
	return Chain{Name: "G", Steps: []Responder{
		{Name: "RefuseWork", At: org.Unhealthy, Action: RefuseWork, Target: string(org.Transport)},
		{Name: "RestartWorker", At: org.Unhealthy1, Action: RestartWorker, Target: MailWorker},
		{Name: escalateName, At: org.Unhealthy1, Action: Escalate},
	}}
}

// WorkerChain has the host restart a worker, MailWorker or HealthWorker (chain
// H); see WorkerTimeline.
func WorkerChain(worker string) Chain {
	return Chain{Name: "H", Steps: []Responder{
		{Name: "RestartWorker", At: org.Unhealthy, Wait: 30 * time.Second, Action: RestartWorker, Target: worker},
		{Name: escalateName, At: org.Unhealthy1, Action: Escalate},
	}}
}

// WorkerTimeline is the ladder of WorkerChain.
func WorkerTimeline() []Step {
	return ladder(15*time.Second, 3*time.Minute)
}

// ladder is a timeline with the default's end.
func ladder(unhealthy, unhealthy1 time.Duration) []Step {
	return []Step{{State: org.Degraded}, {After: unhealthy, State: org.Unhealthy}, {After: unhealthy1, State: org.Unhealthy1},
		{After: 15 * time.Minute, State: org.Unrecoverable}}
}
