package node

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/host"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

// Services that can be built anew.
const (
	serviceSMTP = "smtp"
	serviceIMAP = "imap"
)

// Times of probes at doors (docs/design/health.md, 3.5).
const (
	selfEvery = 5 * time.Second
	pathEvery = 60 * time.Second
	pathTime  = 10 * time.Second
)

// items are the health items of this server. Both workers build them: the mail
// worker from its rooms, the health worker from nil ones and with an atlas.
func items(c *cluster.Cluster, k *mailbox.Keeper, m *transport.Mover, cfg Config, a *atlas) health.Items {
	return health.Join(doorItems(cfg, a), pathItems(a), transport.Health(m), mailbox.Health(k), stateItems(c), hostItems())
}

// selfTest is the probe of a door by the health worker.
type selfTest struct {
	set       string
	service   string
	component org.Component
	doors     []tryDoor
}

// tryDoor is an address and how to greet it.
type tryDoor struct {
	addrs   []string
	proxied bool // a load balancer is wanted in front, and left to it
	try     func(ctx context.Context, addr string) error
}

// doorItems try the doors of this server from the health worker.
func doorItems(cfg Config, a *atlas) health.Items {
	smtp, imap := greeting(plain(), "220 ", "QUIT\r\n"), greeting(plain(), "* OK", "x LOGOUT\r\n")
	var out health.Items
	for _, s := range []selfTest{
		{"SMTP.Protocol", serviceSMTP, org.SMTPComponent, []tryDoor{{cfg.SMTP.Receive.Listen, len(cfg.SMTP.Receive.ProxyFrom) > 0, smtp}}},
		{"Submission.Protocol", serviceSMTP, org.Submission, []tryDoor{
			{cfg.SMTP.Submission.Listen, len(cfg.SMTP.Submission.ProxyFrom) > 0, smtp},
			{cfg.SMTP.Submissions.Listen, len(cfg.SMTP.Submissions.ProxyFrom) > 0, greeting(overTLS(), "220 ", "QUIT\r\n")}}},
		{"IMAP.Protocol", serviceIMAP, org.IMAPComponent, []tryDoor{
			{cfg.IMAP.StartTLS.Listen, len(cfg.IMAP.StartTLS.ProxyFrom) > 0, imap},
			{cfg.IMAP.TLS.Listen, len(cfg.IMAP.TLS.ProxyFrom) > 0, greeting(overTLS(), "* OK", "x LOGOUT\r\n")}}},
	} {
		out = health.Join(out, s.items(a))
	}
	return out
}

func (s selfTest) items(a *atlas) health.Items {
	try := map[string]func(context.Context, string) error{}
	var addrs []string
	for _, d := range s.doors {
		for _, at := range d.addrs {
			if !d.proxied {
				addrs, try[at] = append(addrs, at), d.try
			}
		}
	}
	p := health.Probe{Set: s.set, Name: "SelfTest", Kind: health.Recurrent, Where: health.Outside, Every: selfEvery, Timeout: selfEvery,
		Doc: "Connects to the door as a client and reads its greeting.", Targets: func() []string { return nil }}
	if a != nil {
		p.Targets = func() []string {
			if !a.tried(s.component) {
				return nil
			}
			return addrs
		}
		p.Run = func(ctx context.Context, at string) (health.Reading, error) {
			f := try[at]
			if f == nil {
				return health.Reading{}, fmt.Errorf("there is no door at %s", at)
			}
			return health.Reading{}, f(ctx, dialable(at))
		}
	}
	return health.Items{
		Sets: []health.Set{{Name: s.set, Group: health.Services, Priority: org.PriorityCritical, Component: s.component, HA: true,
			Doc: "Whether the doors of " + string(s.component) + " answer on this machine."}},
		Probes: []health.Probe{p},
		Monitors: []health.Monitor{{Set: s.set, Name: "SelfTest", Probe: "SelfTest", Rule: health.ConsecutiveFailures(3),
			Chain: health.DoorChain(s.service, s.component), Doc: "A door does not answer."}},
	}
}

// pathItems try the doors of the other servers: what a user would see, and the
// second opinion of their own tests.
func pathItems(a *atlas) health.Items {
	p := health.Probe{Set: "UserPath", Name: "Greeting", Kind: health.Recurrent, Where: health.Outside, Every: pathEvery, Timeout: pathTime,
		Doc: "Connects to the doors of the other servers as a client and reads their greeting.", Targets: func() []string { return nil }}
	if a != nil {
		p.Targets = a.others
		p.Run = func(ctx context.Context, target string) (health.Reading, error) {
			at := a.at(target)
			if at == "" {
				return health.Reading{}, fmt.Errorf("nobody says where %s is", target)
			}
			try := greeting(plain(), "220 ", "QUIT\r\n")
			if strings.HasSuffix(target, "/"+string(org.IMAPComponent)) {
				try = greeting(plain(), "* OK", "x LOGOUT\r\n")
			}
			return health.Reading{}, try(ctx, at)
		}
	}
	return health.Items{
		Sets: []health.Set{{Name: "UserPath", Group: health.TouchPoints, Priority: org.PriorityCritical,
			Doc: "Whether the doors of the other servers answer this one."}},
		Probes: []health.Probe{p},
		Monitors: []health.Monitor{{Set: "UserPath", Name: "Greeting", Probe: "Greeting", Rule: health.ConsecutiveFailures(3), Chain: health.TellChain(),
			Doc: "A door of another server does not answer from here."}},
	}
}

// stateItems look at the agreed state. c may be nil.
func stateItems(c *cluster.Cluster) health.Items {
	return health.Items{
		Sets: []health.Set{{Name: "AgreedState", Group: health.Dependencies, Priority: org.PriorityCritical, Doc: "Whether the group can agree on changes."}},
		Probes: []health.Probe{{Set: "AgreedState", Name: "Read", Kind: health.Recurrent, Where: health.Inside, Every: 5 * time.Second, Timeout: 5 * time.Second,
			Unit: "ms", Doc: "Reads the agreed state as most voters have it.",
			Run: func(ctx context.Context, _ string) (health.Reading, error) {
				begun := time.Now()
				err := c.Sync(ctx)
				return health.Reading{Value: float64(time.Since(begun).Microseconds()) / 1000}, err
			}}},
		Monitors: []health.Monitor{
			{Set: "AgreedState", Name: "Read", Probe: "Read", Rule: health.ConsecutiveFailures(3), Chain: health.TellChain(), Doc: "Three reads in a row failed."},
			{Set: "AgreedState", Name: "Slow", Probe: "Read", Rule: health.Above(1000, "ms", 3), Chain: health.TellChain(), Doc: "Three reads in a row took over 1 s."}},
	}
}

// hostItems look at the machine.
func hostItems() health.Items {
	var m host.Machine
	set := func(name, doc string) health.Set {
		return health.Set{Name: name, Group: health.Resources, Priority: org.PriorityNormal, Doc: doc}
	}
	probe := func(set, name, unit, doc string, run func() (health.Reading, error)) health.Probe {
		return health.Probe{Set: set, Name: name, Kind: health.Check, Where: health.Inside, Every: 5 * time.Second, Timeout: 5 * time.Second, Unit: unit, Doc: doc,
			Run: func(context.Context, string) (health.Reading, error) { return run() }}
	}
	var last host.CPU
	return health.Items{
		Sets: []health.Set{set("Memory", "Whether the machine has memory left."), set("Handles", "Whether this process may open more files."),
			set("CPU", "Whether work gets a processor in time.")},
		Probes: []health.Probe{
			probe("Memory", "Used", "%", "Memory of the machine that is not available.", func() (health.Reading, error) {
				x, err := m.Memory()
				return health.Reading{Value: 100 * (1 - float64(x.Available)/float64(max(x.Total, 1)))}, err
			}),
			probe("Handles", "Used", "%", "File handles of this process, of what it may have.", func() (health.Reading, error) {
				open, most, err := m.Handles()
				return health.Reading{Value: 100 * float64(open) / float64(max(most, 1))}, err
			}),
			probe("CPU", "Pressure", "%", "Share of the last minute in which work waited for a processor.", func() (health.Reading, error) {
				v, err := m.CPUPressure()
				return health.Reading{Value: v}, err
			}),
			probe("CPU", "Steal", "%", "Share of processor time that the hypervisor kept.", func() (health.Reading, error) {
				now, err := m.CPU()
				r := health.Reading{}
				if last != (host.CPU{}) {
					r.Value = now.StealShare(last)
				}
				last = now
				return r, err
			}),
		},
		Monitors: []health.Monitor{
			{Set: "Memory", Name: "Low", Probe: "Used", Rule: health.AboveFor(95, "%", time.Minute), Chain: health.TellChain(), Doc: "Less than 5 % of the memory are available."},
			{Set: "Handles", Name: "Low", Probe: "Used", Rule: health.AboveFor(85, "%", time.Minute), Chain: health.TellChain(), Doc: "More than 85 % of the file handles are in use."},
			{Set: "CPU", Name: "Pressure", Probe: "Pressure", Rule: health.AboveFor(40, "%", 5*time.Minute), Chain: health.TellChain(), Doc: "Work waited for a processor more than 40 % of the time."},
			{Set: "CPU", Name: "Steal", Probe: "Steal", Rule: health.AboveFor(5, "%", time.Minute), Chain: health.TellChain(), Doc: "The hypervisor kept more than 5 % of the processor time."},
		},
	}
}

// load tells CPU pressure and steal time for others to see.
func loadFigures() func() (pressure, steal float64) {
	var m host.Machine
	var last host.CPU
	return func() (float64, float64) {
		pressure, _ := m.CPUPressure() // 0 where the kernel has none
		now, err := m.CPU()
		if err != nil || last == (host.CPU{}) {
			last = now
			return pressure, 0
		}
		return pressure, now.StealShare(last)
	}
}
