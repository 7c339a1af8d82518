package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/base/kind"
)

// drainTime is how long servers may take to stop.
const drainTime = 20 * time.Second

// Lab is a running lab.
type Lab struct {
	dir  string
	spec Spec
	out  io.Writer // for people

	plans   []ServerPlan
	procs   []*process
	spawner *spawner
	net     *network

	mu    sync.Mutex // guards ready and the writing of lab.json
	ready bool
	last  string // lab.json as last written, to write only changes
}

// New prepares a lab in dir; spec counts only when the folder has none yet.
func New(dir string, spec Spec, out io.Writer) (*Lab, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	specPath := filepath.Join(dir, "spec.json")
	var old Spec
	switch err := readJSON(specPath, &old); {
	case err == nil:
		spec = old
	case !errors.Is(err, os.ErrNotExist):
		return nil, err
	default:
		if spec.Password == "" {
			spec.Password = newPassword()
		}
		if err := spec.Validate(); err != nil {
			return nil, err
		}
		if err := writeJSON(specPath, spec, 0o600); err != nil {
			return nil, err
		}
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	l := &Lab{dir: dir, spec: spec, out: out, plans: Layout(spec, dir)}
	l.net = newNetwork(l.plans, spec.BasePort)
	for _, p := range l.plans {
		l.procs = append(l.procs, &process{plan: p, exe: exe})
	}
	return l, nil
}

// Run builds or continues the group, serves until ctx ends, and stops all
// servers.
func (l *Lab) Run(ctx context.Context) (err error) {
	unlock, err := lockDir(l.dir)
	if err != nil {
		return err
	}
	defer unlock()
	l.spawner = newSpawner()
	defer l.spawner.close()
	cuts := l.net.usable() == nil && l.net.apply(ctx) == nil
	if cuts {
		// The context of a lab that stops is over; the rules go all the same.
		defer func() { err = errors.Join(err, l.net.remove(context.WithoutCancel(ctx))) }()
	}
	for _, p := range l.procs {
		p.spawner, p.setgid = l.spawner, cuts
	}
	defer os.Remove(FilePath(l.dir))
	defer l.stopAll()

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return l.serveControl(ctx) })
	g.Go(func() error { return l.keepFile(ctx) })
	g.Go(func() error {
		begun := time.Now()
		setup, cancel := context.WithTimeoutCause(ctx, 3*time.Minute, errors.New("the group took more than three minutes"))
		defer cancel()
		if err := l.build(setup); err != nil {
			return err
		}
		l.mu.Lock()
		l.ready = true
		l.mu.Unlock()
		if err := l.writeFile(); err != nil {
			return err
		}
		l.welcome(time.Since(begun))
		return nil
	})
	err = g.Wait()
	if errors.Is(err, context.Canceled) {
		err = nil
	}
	return err
}

func (l *Lab) stopAll() {
	var wg sync.WaitGroup
	for _, p := range l.procs {
		wg.Go(func() { p.stop(drainTime) })
	}
	wg.Wait()
}

// keepFile keeps lab.json true.
func (l *Lab) keepFile(ctx context.Context) error {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		if err := l.writeFile(); err != nil {
			return err
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// writeFile writes lab.json if something changed.
func (l *Lab) writeFile() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.file()
	if s := fmt.Sprint(f); s != l.last {
		l.last = s
		return writeJSON(FilePath(l.dir), f, 0o600)
	}
	return nil
}

// file is lab.json as of now; the caller holds mu.
func (l *Lab) file() File {
	f := File{Ready: l.ready, Domain: l.spec.Domain, Fast: l.spec.Fast, PID: os.Getpid(),
		CA: filepath.Join(l.dir, "ca.pem"), Control: controlPath(l.dir),
		Admin: Admin{User: adminUser, Password: l.spec.Password, URL: "https://" + l.plans[0].Door(portHTTPS)}}
	for _, u := range Users(l.spec) {
		f.Users = append(f.Users, User{Address: u.Address, Password: l.spec.Password, Database: u.Database})
	}
	for _, p := range l.procs {
		f.Servers = append(f.Servers, serverOf(p))
	}
	return f
}

func serverOf(p *process) Server {
	s := Server{Name: p.plan.Name, Site: p.plan.Site, Witness: p.plan.Witness, State: p.state(), Dir: p.plan.Dir,
		Log: p.logPath(), Socket: socketPath(p.plan.Dir), Cluster: p.plan.Inner(portCluster), Metrics: p.plan.Door(portMetrics),
		HTTP: p.plan.Door(portHTTP), HTTPS: p.plan.Door(portHTTPS)}
	if !p.plan.Witness {
		s.SMTP, s.Submission, s.Submissions = p.plan.Door(portSMTP), p.plan.Door(portSubmission), p.plan.Door(portSubmissions)
		s.IMAP, s.IMAPS = p.plan.Door(portIMAP), p.plan.Door(portIMAPS)
	}
	if pids := p.pids(); len(pids) > 0 {
		s.PID = pids[0]
		if h, ok := p.hostState(); ok {
			s.WorkerPIDs = WorkerPIDs{Mail: h.Workers["mail"], Health: h.Workers["health"]}
		}
	}
	return s
}

// find is the process of a server by name.
func (l *Lab) find(name string) (*process, error) {
	i := slices.IndexFunc(l.procs, func(p *process) bool { return p.plan.Name == name })
	if i < 0 {
		return nil, kind.Errorf(kind.NotFound, "no server %q; the lab has MBX1 to MBX%d", name, l.spec.Servers)
	}
	return l.procs[i], nil
}

// adminUser is the login of the lab's administrator.
const adminUser = "admin"
