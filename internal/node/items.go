package node

import (
	"context"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
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

// items are the health items of this server. Both workers build them: the mail
// worker from its rooms, the health worker from nil ones and with an atlas.
func items(c *cluster.Cluster, k *mailbox.Keeper, m *transport.Mover, cfg Config, a *atlas) health.Items {
	return health.Join(doorItems(cfg, a), health.UserPathItems(a.others, a.lookAt), transport.Health(m), mailbox.Health(k), stateItems(c), machineItems())
}

// plugged leaves out of a set of the catalogue what nobody looks at here.
func plugged(x health.Items) health.Items {
	dead := map[string]bool{}
	x.Probes = slices.DeleteFunc(x.Probes, func(p health.Probe) bool {
		dead[p.Set+`\`+p.Name] = p.Run == nil
		return p.Run == nil
	})
	x.Monitors = slices.DeleteFunc(x.Monitors, func(m health.Monitor) bool { return dead[m.Set+`\`+m.Probe] })
	x.Sets = slices.DeleteFunc(x.Sets, func(s health.Set) bool {
		return !slices.ContainsFunc(x.Probes, func(p health.Probe) bool { return p.Set == s.Name })
	})
	return x
}

// tryDoor is the addresses of a door and how to greet it.
type tryDoor struct {
	addrs   []string
	proxied []string // a load balancer is wanted in front, and left to it
	try     func(ctx context.Context, addr string) error
}

// doorItems try the doors of this server from the health worker.
func doorItems(cfg Config, a *atlas) health.Items {
	smtp, imap := greeting(plain(), "220 ", "QUIT\r\n"), greeting(plain(), "* OK", "x LOGOUT\r\n")
	smtps, imaps := greeting(overTLS(), "220 ", "QUIT\r\n"), greeting(overTLS(), "* OK", "x LOGOUT\r\n")
	s, i := cfg.SMTP, cfg.IMAP
	door := func(name, service string, c org.Component, doors ...tryDoor) health.Items {
		return plugged(health.DoorItems(health.Door{Name: name, Component: c, Service: service, Self: a.self(c, doors)}))
	}
	return health.Join(
		door("SMTP", serviceSMTP, org.SMTPComponent, tryDoor{s.Receive.Listen, s.Receive.ProxyFrom, smtp}),
		door("Submission", serviceSMTP, org.Submission, tryDoor{s.Submission.Listen, s.Submission.ProxyFrom, smtp},
			tryDoor{s.Submissions.Listen, s.Submissions.ProxyFrom, smtps}),
		door("IMAP", serviceIMAP, org.IMAPComponent, tryDoor{i.StartTLS.Listen, i.StartTLS.ProxyFrom, imap}, tryDoor{i.TLS.Listen, i.TLS.ProxyFrom, imaps}),
	)
}

// self tries all doors of a component of this server. While the component is held
// back, or before the server has served once, there is nothing to try: that is
// no failure.
func (a *atlas) self(c org.Component, doors []tryDoor) health.Look {
	return func(ctx context.Context, _ string) (health.Reading, error) {
		if !a.tried(c) {
			return health.Reading{Text: "not tried: " + string(c) + " is held back, or the server begins"}, nil
		}
		for _, d := range doors {
			for _, at := range d.addrs {
				if len(d.proxied) > 0 {
					continue
				}
				if err := d.try(ctx, dialable(at)); err != nil {
					return health.Reading{}, fmt.Errorf("%s: %w", at, err)
				}
			}
		}
		return health.Reading{}, nil
	}
}

// lookAt tries a door of another server.
func (a *atlas) lookAt(ctx context.Context, target string) (health.Reading, error) {
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

// stateItems look at the agreed state. c may be nil.
func stateItems(c *cluster.Cluster) health.Items {
	return plugged(health.LinkItems(health.Links{State: func(ctx context.Context, _ string) (health.Reading, error) {
		begun := time.Now()
		err := c.Sync(ctx)
		return health.Reading{Value: time.Since(begun).Seconds()}, err
	}}))
}

// machineItems look at the machine.
func machineItems() health.Items {
	var m host.Machine
	steal := stealing{}
	percent := func(part, all float64) (health.Reading, error) {
		return health.Reading{Value: 100 * part / max(all, 1)}, nil
	}
	return health.MachineItems(health.Machine{
		Memory: func(context.Context, string) (health.Reading, error) {
			x, err := m.Memory()
			if err != nil {
				return health.Reading{}, err
			}
			used, err := m.RSS() // what others use is not ours to restart for
			if err != nil {
				return health.Reading{}, err
			}
			return percent(float64(used), float64(min(x.Total, debug.SetMemoryLimit(-1))))
		},
		Handles: func(context.Context, string) (health.Reading, error) {
			open, most, err := m.Handles()
			if err != nil {
				return health.Reading{}, err
			}
			return percent(float64(open), float64(most))
		},
		Pressure: func(context.Context, string) (health.Reading, error) {
			v, err := m.CPUPressure()
			return health.Reading{Value: v}, err
		},
		Steal: func(context.Context, string) (health.Reading, error) {
			v, err := steal.read(m)
			return health.Reading{Value: v}, err
		},
	})
}

// stealing is the share of time that the hypervisor kept since the last look.
type stealing struct {
	mu   sync.Mutex // guards last
	last host.CPU
}

func (s *stealing) read(m host.Machine) (float64, error) {
	now, err := m.CPU()
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.last
	s.last = now
	if before == (host.CPU{}) {
		return 0, nil
	}
	return now.StealShare(before), nil
}

// loadFigures tells CPU pressure and steal time for others to see.
func loadFigures() func() (pressure, steal float64) {
	var m host.Machine
	s := stealing{}
	return func() (float64, float64) {
		pressure, _ := m.CPUPressure() // 0 where the kernel has none
		share, _ := s.read(m)
		return pressure, share
	}
}
