package node

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"github.com/postern-mail/postern/internal/access/certs"
	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/base/host"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

// Services that can be built anew.
const (
	serviceSMTP = "smtp"
	serviceIMAP = "imap"
	// serviceHTTPS is the administrators' HTTPS door; the socket stays.
	serviceHTTPS = "admin-https"
)

// items are the health items of this server. Both workers build them: the mail
// worker from its rooms, the health worker from nil ones and with an atlas.
func items(r probed, cfg Config, a *atlas) health.Items {
	return health.Join(doorItems(cfg, a), health.UserPathItems(a.others, newDeep(a).lookAt), transport.Health(r.mover), mailbox.Health(r.mailbox), active.Health(r.active),
		linkItems(r), machineItems())
}

// probed are the rooms that bring probes or are looked at. All may be nil, and
// are in the health worker, which only lists what the mail worker looks at.
type probed struct {
	cluster *cluster.Cluster
	mailbox *mailbox.Keeper
	mover   *transport.Mover
	certs   *certs.Source
	active  *active.Manager
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
	tls     bool // from the first byte
}

// direct is the first address of the doors that may be tried directly.
func direct(doors []tryDoor) tryAddr {
	for _, d := range doors {
		if len(d.addrs) > 0 && len(d.proxied) == 0 {
			return tryAddr{dialable(d.addrs[0]), d.tls}
		}
	}
	return tryAddr{}
}

// userOf uses a door as its users do.
type userOf = func(context.Context, string, bool, directory.HealthBox) (string, error)

// own uses a door of this server; nil where there is none to be used directly.
func (d *deep) own(c org.Component, doors []tryDoor, use userOf) health.Look {
	at := direct(doors)
	if at.addr == "" {
		return nil
	}
	return func(ctx context.Context, _ string) (health.Reading, error) {
		if !d.a.tried(c) {
			return health.Reading{Text: "not tried: " + string(c) + " is held back, or the server begins"}, nil
		}
		return d.use(ctx, d.a.me(), at.addr, at.implicit, use)
	}
}

// flowItems send messages through this server now and then.
func flowItems(cfg Config, d *deep, submission, imap []tryDoor) health.Items {
	doors := flowDoors{direct(submission), direct(imap)}
	every := cfg.Health.flowEvery(cfg.Timers == "fast")
	if doors.submission.addr == "" || doors.imap.addr == "" || every <= 0 {
		return health.Items{}
	}
	return health.MailFlowItems(every, d.flow(doors))
}

// doorItems try the doors of this server from the health worker.
func doorItems(cfg Config, a *atlas) health.Items {
	smtp, imap := greeting(plain(), "220 ", "QUIT\r\n"), greeting(plain(), "* OK", "x LOGOUT\r\n")
	smtps, imaps := greeting(overTLS(), "220 ", "QUIT\r\n"), greeting(overTLS(), "* OK", "x LOGOUT\r\n")
	s, i := cfg.SMTP, cfg.IMAP
	d := newDeep(a)
	door := func(name, service string, c org.Component, use userOf, doors ...tryDoor) health.Items {
		return plugged(health.DoorItems(health.Door{Name: name, Component: c, Service: service, Self: a.self(c, doors), Deep: d.own(c, doors, use)}))
	}
	submission := []tryDoor{{s.Submission.Listen, s.Submission.ProxyFrom, smtp, false}, {s.Submissions.Listen, s.Submissions.ProxyFrom, smtps, true}}
	imapDoors := []tryDoor{{i.StartTLS.Listen, i.StartTLS.ProxyFrom, imap, false}, {i.TLS.Listen, i.TLS.ProxyFrom, imaps, true}}
	return health.Join(
		door("SMTP", serviceSMTP, org.SMTPComponent, d.receive, tryDoor{s.Receive.Listen, s.Receive.ProxyFrom, smtp, false}),
		door("Submission", serviceSMTP, org.Submission, d.submission, submission...),
		flowItems(cfg, d, submission, imapDoors),
		apiItems(cfg, a),
		door("IMAP", serviceIMAP, org.IMAPComponent, d.imap, imapDoors...),
	)
}

// apiItems try the HTTPS door for administrators.
func apiItems(cfg Config, a *atlas) health.Items {
	return plugged(health.APIItems(a.self(org.AdminAPI, []tryDoor{{addrs: cfg.Admin.Listen, try: answers, tls: true}})))
}

// answers wants any answer of the HTTPS door but an error of its own. Its certificate
// is not judged here: the set Certificates does that.
func answers(ctx context.Context, addr string) error {
	c, err := overTLS()(ctx, "tcp", addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if end, ok := ctx.Deadline(); ok {
		if err := c.SetDeadline(end); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: postern\r\nConnection: close\r\n\r\n"); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(c, 4096)).ReadString('\n')
	if err != nil {
		return fmt.Errorf("no answer: %w", err)
	}
	if !strings.HasPrefix(line, "HTTP/1.1 ") || strings.HasPrefix(line, "HTTP/1.1 5") {
		return fmt.Errorf("answer is %q", strings.TrimSpace(line))
	}
	return nil
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

// lookAt uses a door of another server.
func (d *deep) lookAt(ctx context.Context, target string) (health.Reading, error) {
	at := d.a.at(target)
	if at == "" {
		return health.Reading{}, fmt.Errorf("nobody says where %s is", target)
	}
	server, component, _ := strings.Cut(target, "/")
	use := d.receive
	switch org.Component(component) {
	case org.IMAPComponent:
		use = d.imap
	case org.Submission:
		use = d.submission
	}
	return d.use(ctx, org.ServerName(server), at, false, use)
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
