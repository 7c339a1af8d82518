package health

import (
	"context"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// The catalogue has the health sets of docs/design/health.md, 3.5, with their
// times, limits and chains. What looks is plugged by whoever knows the rooms: a
// nil Look is listed and never run.

// Look is what a probe does: it looks at a target once.
type Look func(ctx context.Context, target string) (Reading, error)

// List tells what a probe is about now; it must not block.
type List func() []string

// build puts a set together.
type build struct{ x Items }

func newSet(name string, g Group, prio org.HealthPriority, c org.Component, ha bool, doc string) *build {
	return &build{Items{Sets: []Set{{Name: name, Group: g, Priority: prio, Component: c, HA: ha, Doc: doc}}}}
}

// probe adds a probe; kind Check where its value counts.
func (b *build) probe(name string, k Kind, w Where, every, timeout time.Duration, unit string, targets List, look Look, doc string) {
	b.x.Probes = append(b.x.Probes, Probe{Set: b.x.Sets[0].Name, Name: name, Kind: k, Where: w, Every: every, Timeout: timeout, Unit: unit,
		Targets: targets, Run: look, Doc: doc})
}

func (b *build) monitor(name, probe string, r Rule, line []Step, c Chain, doc string) {
	b.x.Monitors = append(b.x.Monitors, Monitor{Set: b.x.Sets[0].Name, Name: name, Probe: probe, Rule: r, Timeline: line, Chain: c, Doc: doc})
}

// Door is a protocol that clients speak with this server.
type Door struct {
	Name      string // of the health set Name.Protocol
	Component org.Component
	Service   string // of node, to be restarted
	// Self tries the greeting, Deep logs on and reads or sends.
	Self, Deep Look
}

// DoorItems is the health set Name.Protocol of a protocol.
func DoorItems(d Door) Items {
	b := newSet(d.Name+".Protocol", Services, org.PriorityCritical, d.Component, false, "Whether "+d.Name+" works at this server.")
	chain := DoorChain(d.Service, d.Component)
	b.probe("SelfTest", Recurrent, Outside, 5*time.Second, 5*time.Second, "", nil, d.Self, "The door greets.")
	b.probe("DeepTest", Recurrent, Outside, 30*time.Second, 15*time.Second, "", nil, d.Deep, "A login, and something read or sent.")
	b.monitor("SelfTest", "SelfTest", ConsecutiveFailures(3), nil, chain, "The door does not greet.")
	b.monitor("DeepTest", "DeepTest", ConsecutiveFailures(3), nil, chain, "The door greets, but nobody can work.")
	return b.x
}

// MailFlowItems is the set MailFlow; look sends a message through this server,
// reads and removes it, and gives seconds.
func MailFlowItems(every time.Duration, look Look) Items {
	b := newSet("MailFlow", TouchPoints, org.PriorityNormal, "", false, "Whether mail that is submitted here gets into a mailbox and can be read.")
	b.probe("Message", Recurrent, Outside, every, 30*time.Second, "s", nil, look, "A message into a health mailbox, read by IMAP and removed.")
	b.monitor("Message", "Message", ConsecutiveFailures(3), nil, TellChain(), "What is submitted does not get into mailboxes.")
	return b.x
}

// UserPathItems is the set UserPath: other servers' doors as their users see
// them. Targets are <server>/<component>; the results are the second opinion
// that those servers ask for.
func UserPathItems(targets List, look Look) Items {
	b := newSet(setUserPath, TouchPoints, org.PriorityCritical, "", false, "Whether users get through to other servers.")
	b.probe("Path", Recurrent, Outside, 30*time.Second, 15*time.Second, "", targets, look, "IMAP or submission at another server.")
	b.monitor("Path", "Path", Failures(3, 5*time.Minute), nil, TellChain(), "Users do not get through to another server.")
	return b.x
}

// APIItems is the set API; look asks the HTTPS door.
func APIItems(look Look) Items {
	b := newSet("API", TouchPoints, org.PriorityNormal, org.AdminAPI, false, "Whether the administrator's door works.")
	b.probe("SelfTest", Recurrent, Outside, 10*time.Second, 5*time.Second, "", nil, look, "The HTTPS door answers.")
	// The socket goes on; nothing of mail is to be moved for it.
	b.monitor("SelfTest", "SelfTest", ConsecutiveFailures(3), nil, TellChain(), "The HTTPS door does not answer.")
	return b.x
}

// Active are the looks at Active Manager. Role fails while nobody who lives has the
// primary role; Serving fails, at the server that has it, while databases are
// served by nobody, and names them.
type Active struct{ Role, Serving Look }

// ActiveItems is the set ActiveManager.
func ActiveItems(a Active) Items {
	b := newSet("ActiveManager", Services, org.PriorityNormal, "", false, "Whether somebody decides where databases are active, and they are.")
	const every, limit = 5 * time.Second, 5 * time.Second
	b.probe("Role", Recurrent, Inside, every, limit, "", nil, a.Role, "A server that lives has the primary role.")
	b.probe("Serving", Recurrent, Inside, every, limit, "", nil, a.Serving, "Every database that should be mounted is.")
	b.monitor("Role", "Role", ConsecutiveFailures(3), nil, TellChain(), "Nobody decides where databases are active.")
	b.monitor("Serving", "Serving", ConsecutiveFailures(3), nil, TellChain(), "Databases are served by nobody.")
	return b.x
}

// StoreItems is the set Store. active lists the databases that are active here;
// read reads a known message, commit writes a keyed change that does nothing.
// Both give seconds.
func StoreItems(active List, read, commit Look) Items {
	b := newSet("Store", Services, org.PriorityCritical, "", true, "Whether active databases can be read and written.")
	b.probe("Read", Recurrent, Inside, 10*time.Second, 5*time.Second, "s", active, read, "Reads from an active database.")
	b.probe("Commit", Recurrent, Inside, 10*time.Second, 5*time.Second, "s", active, commit, "Confirms a change that does nothing.")
	b.monitor("Read", "Read", ConsecutiveFailures(3), nil, StoreChain(), "A database cannot be read.")
	b.monitor("Commit", "Commit", ConsecutiveFailures(3), nil, StoreChain(), "A database confirms nothing.")
	b.monitor("ReadLatency", "Read", AboveFor(2, "s", time.Minute), nil, StoreChain(), "A database is read slowly.")
	b.monitor("CommitLatency", "Commit", AboveFor(2, "s", time.Minute), nil, StoreChain(), "A database confirms slowly.")
	return b.x
}

// Copies are the looks at the copies of databases on this server.
type Copies struct {
	All List // every copy here, by database
	// State fails while a copy is not what it should be; CopyQueue and ReplayQueue
	// give generations; Index fails while the index cannot be used.
	State, CopyQueue, ReplayQueue, Index Look
	// Single fails while any database active here has one copy in sync only,
	// and names them.
	Single Look
}

// CopyItems are the sets DataProtection and Search.
func CopyItems(c Copies) Items {
	b := newSet("DataProtection", Services, org.PriorityCritical, "", true, "Whether copies keep up.")
	const every, limit = 5 * time.Second, 5 * time.Second
	b.probe("State", Recurrent, Inside, every, limit, "", c.All, c.State, "State of a copy.")
	b.probe("CopyQueue", Check, Inside, every, limit, "generations", c.All, c.CopyQueue, "What a copy has still to get.")
	b.probe("ReplayQueue", Check, Inside, every, limit, "generations", c.All, c.ReplayQueue, "What a copy has still to replay.")
	b.probe("SingleCopy", Recurrent, Inside, every, limit, "", nil, c.Single, "Every database active here has another copy in sync.")
	b.monitor("State", "State", ConsecutiveFailures(1), CopyTimeline(), CopyChain(), "A copy is not healthy.")
	b.monitor("CopyQueue", "CopyQueue", AboveFor(10, "generations", 5*time.Minute), nil, TellChain(), "A copy falls behind.")
	b.monitor("ReplayQueue", "ReplayQueue", AboveFor(50, "generations", 5*time.Minute), nil, TellChain(), "A copy replays too slowly.")
	b.monitor("SingleCopy", "SingleCopy", ConsecutiveFailures(1), ladder(2*time.Minute, 10*time.Minute), TellChain(), "Databases have one copy in sync only.")
	s := newSet("Search", Services, org.PriorityLow, "", true, "Whether indexes can be used.")
	s.probe("Index", Recurrent, Inside, 30*time.Second, limit, "", c.All, c.Index, "State of a copy's index.")
	s.monitor("Index", "Index", ConsecutiveFailures(2), ladder(5*time.Minute, 10*time.Minute), TellChain(), "An index cannot be used.")
	return Join(b.x, s.x)
}

// Volumes are the looks at the disks of this server.
type Volumes struct {
	All List
	// Usable fails while a volume is gone, read-only, gives errors or does not
	// finish a write for 3 s. Latency is what syncs take in seconds, Relative the
	// same in times the median of the other volumes.
	Usable, Latency, Relative Look
	// Space fails below the limit of free space.
	Space Look
}

// VolumeItems are the sets Volume and DiskSpace.
func VolumeItems(v Volumes) Items {
	b := newSet("Volume", Resources, org.PriorityCritical, "", true, "Whether disks work and are fast enough.")
	const every, limit = 2 * time.Second, 5 * time.Second
	b.probe("Usable", Recurrent, Inside, every, limit, "", v.All, v.Usable, "The volume is there, can be written and gives no errors.")
	b.probe("Latency", Check, Inside, every, limit, "s", v.All, v.Latency, "What the newest syncs took.")
	b.probe("Relative", Check, Inside, every, limit, "times", v.All, v.Relative, "Latency beside that of the other volumes.")
	b.monitor("Usable", "Usable", ConsecutiveFailures(1), nil, VolumeChain(), "A volume cannot be used.")
	b.monitor("Latency", "Latency", AboveFor(1, "s", 30*time.Second), nil, VolumeChain(), "A volume is slow.")
	b.monitor("Relative", "Relative", AboveFor(10, "times", 30*time.Second), nil, VolumeChain(), "A volume is much slower than the others.")
	d := newSet("DiskSpace", Resources, org.PriorityNormal, "", true, "Whether there is room.")
	d.probe("Free", Recurrent, Inside, 30*time.Second, limit, "%", v.All, v.Space, "Free space of a volume.")
	d.monitor("Free", "Free", ConsecutiveFailures(1), nil, TellChain(), "A volume gets full.")
	return Join(b.x, d.x)
}

// Queues are the looks at transport. Level is 0 to 2; Local gives the seconds for
// which mail for databases of this group has waited without any getting through;
// Alone and Reconciling count the messages that only this server has though
// another could have a copy, and those of which nobody knows whose they are.
// Partner fails while no other server could store a message though one is up;
// Requests give the hours that the oldest Safety Net request runs.
type Queues struct {
	Level, Local, Alone, Reconciling, Partner, Requests Look
}

// TransportItems are the sets HubTransport, ShadowRedundancy and SafetyNet.
func TransportItems(q Queues) Items {
	const every, limit = 10 * time.Second, 5 * time.Second
	b := newSet("HubTransport", Services, org.PriorityCritical, org.Transport, false, "Whether mail moves.")
	for _, p := range []struct {
		name, unit string
		look       Look
		rule       Rule
		doc        string
	}{
		{"Level", "level", q.Level, AboveFor(0.5, "level", time.Minute), "The queue's volume gets full."},
		{"Local", "s", q.Local, Above(300, "s", 2), "Mail for mailboxes here waits and none gets through."},
		{"Alone", "messages", q.Alone, AboveFor(0, "messages", 5*time.Minute), "Only this server has messages."},
		{"Reconciling", "messages", q.Reconciling, AboveFor(0, "messages", 10*time.Minute), "Nobody knows whose messages are."},
	} {
		b.probe(p.name, Check, Inside, every, limit, p.unit, nil, p.look, p.doc)
		b.monitor(p.name, p.name, p.rule, nil, TellChain(), p.doc)
	}
	s := newSet("ShadowRedundancy", Services, org.PriorityCritical, "", false, "Whether messages get a second copy.")
	s.probe("Partner", Recurrent, Inside, every, limit, "", nil, q.Partner, "Another server can store a message.")
	s.monitor("Partner", "Partner", ConsecutiveFailures(6), nil, TellChain(), "No other server can store a message.")
	n := newSet("SafetyNet", Services, org.PriorityNormal, "", false, "Whether what was delivered can be delivered again.")
	n.probe("Requests", Check, Inside, time.Minute, limit, "h", nil, q.Requests, "Hours that the oldest request runs.")
	n.monitor("Requests", "Requests", Above(1, "h", 2), nil, TellChain(), "A request is not answered.")
	return Join(b.x, s.x, n.x)
}

// Machine are the looks at the machine; all give percent.
type Machine struct{ Memory, Handles, Pressure, Steal Look }

// MachineItems are the sets Memory, Handles and CPU.
func MachineItems(m Machine) Items {
	const every, limit = 5 * time.Second, 5 * time.Second
	one := func(set, name, doc string, look Look, warn, red float64, chain Chain) Items {
		b := newSet(set, Resources, org.PriorityNormal, "", set == "CPU", doc)
		b.probe(name, Check, Inside, every, limit, "%", nil, look, doc)
		b.monitor(name+"High", name, AboveFor(warn, "%", time.Minute), nil, TellChain(), doc)
		b.monitor(name+"Critical", name, AboveFor(red, "%", time.Minute), nil, chain, doc)
		return b.x
	}
	steal := one("CPU", "Steal", "Time that the hypervisor keeps for others.", m.Steal, 5, 20, TellChain())
	pressure := newSet("CPU", Resources, org.PriorityNormal, "", true, "")
	pressure.probe("Pressure", Check, Inside, every, limit, "%", nil, m.Pressure, "Share of time in which work waits for a processor.")
	pressure.monitor("Pressure", "Pressure", AboveFor(40, "%", 5*time.Minute), nil, TellChain(), "Work waits for a processor.")
	return Join(one("Memory", "Used", "Memory of its limit.", m.Memory, 85, 95, MemoryChain()),
		one("Handles", "Used", "File handles of their limit.", m.Handles, 85, 95, MemoryChain()), steal, pressure.x)
}

// Links are the looks at what the server depends on. Offset gives the seconds by
// which a peer's clock differs, targets peers; Ends the days until a certificate
// ends, targets certificates; State reads the agreed state; Margin gives how many
// more voters may be lost; Paths fails for a path to a peer that is silent;
// Client fails while clients cannot reach this server; Names asks resolvers.
type Links struct {
	Peers, Certificates, PathList                     List
	Offset, Ends, State, Margin, Paths, Client, Names Look
}

// LinkItems are the sets Clock, Certificates, AgreedState, Network and DNS.
func LinkItems(l Links) Items {
	const limit = 5 * time.Second
	clock := newSet("Clock", Resources, org.PriorityCritical, "", true, "Whether this server's clock is right.")
	clock.probe("Offset", Check, Inside, 5*time.Second, limit, "s", l.Peers, l.Offset, "Difference of a peer's clock.")
	clock.monitor("OffsetHigh", "Offset", AboveFor(1, "s", time.Minute), nil, TellChain(), "Clocks differ by more than a second.")
	clock.monitor("OffsetCritical", "Offset", Above(10, "s", 3), nil, TellChain(), "Clocks differ by more than ten seconds.")
	certs := newSet("Certificates", Services, org.PriorityNormal, "", false, "Whether certificates are good for long enough.")
	certs.probe("Ends", Check, Inside, time.Hour, limit, "days", l.Certificates, l.Ends, "Days until a certificate ends.")
	certs.monitor("Soon", "Ends", Below(21, "days", 1), []Step{{State: org.Degraded}}, TellChain(), "A certificate ends within 21 days.")
	certs.monitor("VerySoon", "Ends", Below(7, "days", 1), nil, TellChain(), "A certificate ends within 7 days.")
	state := newSet("AgreedState", Dependencies, org.PriorityCritical, "", true, "Whether the group agrees.")
	state.probe("Read", Recurrent, Inside, 2*time.Second, limit, "s", nil, l.State, "A linearizable read.")
	state.probe("Margin", Check, Inside, 5*time.Second, limit, "servers", nil, l.Margin, "Voters that may still be lost.")
	state.monitor("Read", "Read", ConsecutiveFailures(3), nil, TellChain(), "The agreed state cannot be read.")
	state.monitor("Slow", "Read", Above(1, "s", 3), nil, TellChain(), "The agreed state is slow.")
	state.monitor("Margin", "Margin", BelowFor(1, "servers", 5*time.Minute), nil, TellChain(), "The next voter that is lost stops the group.")
	net := newSet("Network", Resources, org.PriorityCritical, "", true, "Whether servers and clients are reached.")
	net.probe("Paths", Recurrent, Inside, time.Second, limit, "", l.PathList, l.Paths, "A path to a peer.")
	net.probe("Client", Recurrent, Inside, time.Second, limit, "", nil, l.Client, "The network of clients.")
	net.monitor("Paths", "Paths", ConsecutiveFailures(5), nil, TellChain(), "A path to a peer is silent.")
	net.monitor("Client", "Client", ConsecutiveFailures(3), NetworkTimeline(), NetworkChain(org.SMTPComponent, org.Submission, org.IMAPComponent),
		"Clients cannot reach this server.")
	dns := newSet("DNS", Dependencies, org.PriorityNormal, "", false, "Whether names can be looked up.")
	dns.probe("Names", Recurrent, Inside, 30*time.Second, limit, "", nil, l.Names, "The resolvers answer.")
	dns.monitor("Names", "Names", Failures(3, 150*time.Second), nil, TellChain(), "Names cannot be looked up.")
	return Join(clock.x, certs.x, state.x, net.x, dns.x)
}
