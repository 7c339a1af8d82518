package node

import (
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/access/certs"
	"github.com/postern-mail/postern/internal/access/dnsd"
	"github.com/postern-mail/postern/internal/access/imapd"
	"github.com/postern-mail/postern/internal/access/smtpd"
	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/admin/metrics"
	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/node/component"
	"github.com/postern-mail/postern/internal/notify"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

// mailWorker is everything that serves, built in the order of its fields and
// stopped in the reverse order.
type mailWorker struct {
	cfg     Config
	log     *slog.Logger
	events  *event.Log
	metrics *metrics.Registry

	cluster    *cluster.Cluster
	alerts     *notify.Notifier
	components *component.Book
	sites      *active.Sites
	mailbox    *mailbox.Keeper
	directory  *directory.Directory
	mover      *transport.Mover // nil at a witness
	active     *active.Manager
	certs      *certs.Source
	smtp       *service[*smtpd.Server] // nil at a witness
	imap       *service[*imapd.Server] // likewise
	notes      *health.Notes           // what the rooms do by themselves, for the recovery log
	desk       *health.Desk
	faults     *faults
	link       HostLink
	admin      *api.Server
	https      *shutter // nil without an HTTPS door
	figures    *metrics.Server

	serving atomic.Bool // all doors are open
}

// Run builds the rooms and serves until ctx ends; then it drains. The host is told
// when all doors are open. The data folder has to be a member of a group
// (Init, Join).
func Run(ctx context.Context, cfg Config, log *slog.Logger, link HostLink) error {
	w := &mailWorker{cfg: cfg, log: log, events: event.NewLog(log), link: link, faults: newFaults(cfg), notes: health.NewNotes(log, cfg.healthConfig().Fast)}
	stages := newStages(log)
	err := w.start(ctx, stages)
	if err == nil {
		w.serving.Store(true)
		w.events.Emit(EventServerReady, "%s is open for mail", w.cluster.Name())
		link.Ready()
		err = stages.wait(ctx)
	}
	w.serving.Store(false)
	return errors.Join(err, stages.stop())
}

// start builds and starts the rooms from the spine to the doors.
func (w *mailWorker) start(ctx context.Context, st *stages) (err error) {
	if w.metrics, err = metrics.New(); err != nil {
		return err
	}
	if err := w.spine(ctx, st); err != nil {
		return err
	}
	w.keepers(st)
	if err := w.firstDatabase(ctx); err != nil {
		return err
	}
	return w.doors(ctx, st)
}

// spine is the group. Rooms that serve other servers have to be built before
// it runs.
func (w *mailWorker) spine(ctx context.Context, st *stages) (err error) {
	if w.cluster, err = cluster.Open(w.cfg.clusterConfig(), w.log, w.events); err != nil {
		return err
	}
	if err := w.metrics.Register(w.cluster.Figures()); err != nil {
		return errors.Join(err, w.cluster.Close())
	}
	w.components = component.New(component.Deps{Group: w.cluster, Primary: w.primary, Events: w.events})
	w.sites = active.NewSites(active.SitesDeps{Group: w.cluster, Fast: w.fast(), Noted: w.notes.Take, Log: w.log, Events: w.events})
	logs, indexes := w.faults.disks()
	if w.mailbox, err = mailbox.New(w.cfg.Mailbox, mailbox.Deps{Group: w.cluster, Paths: w.cluster, FS: logs, IndexFS: indexes, Log: w.log, Events: w.events,
		Metrics: w.metrics, Mailbox: w.mailboxOf, Named: w.addressOf, Fast: w.cfg.Timers == "fast", Permission: w.sites, Noted: w.notes.Take,
		HoldTime: func() time.Duration { return transport.HoldTime(w.cluster.View()) }}); err != nil {
		return errors.Join(err, w.cluster.Close())
	}
	w.newNotifier()
	w.directory = directory.New(directory.Agreed(w.cluster), directory.Options{Config: w.cfg.Directory, Store: w.mailbox.Client(), Log: w.log, Events: w.events,
		Health: directory.HealthOptions{Secret: w.healthSecret(), Near: w.near}})
	if err := w.newMover(); err != nil {
		return errors.Join(err, w.cluster.Close())
	}
	st.run("cluster", w.cluster.Run)
	st.run("sites", w.sites.Run)
	select {
	case <-w.cluster.Ready():
		st.run("notify", w.alerts.Run)
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-st.broken:
		return st.cause()
	}
}

// keepers hold mail and people; the conductor says who is active.
func (w *mailWorker) keepers(st *stages) {
	st.run("mailbox", w.mailbox.Run)
	st.run("directory", w.directory.Run)
	deps := active.Deps{Group: w.cluster, Copies: w.mailbox, Volumes: w.mailbox, Fast: w.fast(), Health: w.healthOf, Component: w.components.Of, Noted: w.notes.Take, Log: w.log, Events: w.events,
		Recovery: func(set string) string {
			return string(health.RecoveryMode(w.cfg.healthConfig(), rows{w.cluster}, w.cluster.Name(), set, time.Now()))
		}}
	if w.mover != nil {
		st.run("transport", w.mover.Run)
		deps.SafetyNet, deps.Completed, deps.Rewind = w.mover.AskSafetyNet, w.mover.SafetyNetCompleted, w.mailbox.Rewind
	}
	deps.Component, deps.Metrics, deps.Sites = w.components.Of, w.metrics, w.sites
	w.planDeps(&deps)
	w.active = active.New(w.cfg.Active, deps)
	st.run("active", w.active.Run)
	st.run("plans", w.active.RunPlans)
	st.run("drills", w.active.RunDrills)
	st.run("program", w.program)
	if w.mover != nil {
		w.components.Obeys(org.Transport, w.mover.Component)
		w.components.Obeys(org.Delivery, w.mover.Delivery)
	}
	st.run("components", w.components.Run)
}

// primary tells whether this server has the primary role.
func (w *mailWorker) primary() bool { return w.active != nil && w.active.Primary() == w.cluster.Name() }

// newMover opens the queue. A witness has none.
func (w *mailWorker) newMover() (err error) {
	if w.cluster.Witness() {
		return nil
	}
	client := w.mailbox.Client()
	w.mover, err = transport.New(w.cfg.Transport, transport.Deps{Group: w.cluster, Store: client, Delivered: client.Delivered,
		DuplicateWindow: w.cfg.Mailbox.DuplicateWindow, Directory: w.directory, ClientCertificate: w.clientCertificate, Component: w.components.State,
		Hostname: w.cfg.SMTP.Hostname, Version: w.cfg.Version, Fast: w.cfg.Timers == "fast", Noted: w.notes.Take, Log: w.log, Events: w.events, Metrics: w.metrics})
	return err
}

// doors are what clients and administrators meet.
func (w *mailWorker) doors(ctx context.Context, st *stages) (err error) {
	w.certs, err = certs.New(w.cfg.TLS, certs.Deps{Issue: w.issue, Names: w.cfg.doorNames(), KV: certState{w.cluster},
		Log: w.log, Events: w.events, Metrics: w.metrics})
	if err != nil {
		return err
	}
	st.run("certs", w.certs.Run)
	if err := w.openAdmin(ctx, st); err != nil {
		return err
	}
	if self, ok := w.cluster.View().Server(w.cluster.Name()); ok && self.Witness {
		return nil // a witness votes and has no mail
	}
	select {
	case <-w.mover.Ready():
	case <-st.broken:
		return st.cause()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := w.mailDoors(st); err != nil {
		return err
	}
	for _, open := range []<-chan struct{}{w.smtp.current().Ready(), w.imap.current().Ready()} {
		select {
		case <-open:
		case <-st.broken:
			return st.cause()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	w.tellDoors()
	return w.openDNS(ctx, st)
}

// mailDoors begins the doors for mail, as services that can be built anew.
func (w *mailWorker) mailDoors(st *stages) (err error) {
	w.smtp, err = newService(serviceSMTP, w.metrics, w.events, func(r prometheus.Registerer) (*smtpd.Server, error) {
		return smtpd.New(w.cfg.SMTP, smtpd.Deps{Directory: w.directory, Queue: w.mover, Guard: w.mover, TLS: w.certs.TLS(), Component: w.components.State,
			Listen: w.faults.listen(serviceSMTP), Log: w.log, Events: w.events, Metrics: r})
	})
	if err != nil {
		return err
	}
	w.imap, err = newService(serviceIMAP, w.metrics, w.events, func(r prometheus.Registerer) (*imapd.Server, error) {
		return imapd.New(w.cfg.IMAP, imapd.Deps{Directory: w.directory, Store: w.mailbox.Client(), TLS: w.certs.TLS(), Component: w.components.State,
			Listen: w.faults.listen(serviceIMAP), Log: w.log, Events: w.events, Metrics: r})
	})
	if err != nil {
		return err
	}
	w.smtp.told, w.imap.told = w.logRebuild(serviceSMTP), w.logRebuild(serviceIMAP)
	for _, c := range []org.Component{org.SMTPComponent, org.Submission} {
		w.components.Obeys(c, func() (org.ComponentState, int) { return w.smtp.current().Now(c) })
	}
	w.components.Obeys(org.IMAPComponent, func() (org.ComponentState, int) { return w.imap.current().Now() })
	st.run(serviceSMTP, w.smtp.Run)
	st.run(serviceIMAP, w.imap.Run)
	return nil
}

// openAdmin opens the admin door and the one for figures. They open before
// the doors for mail, so that a server that cannot open those can be asked why.
func (w *mailWorker) openAdmin(ctx context.Context, st *stages) error {
	if err := w.newDesk(); err != nil {
		return err
	}
	st.run("health", w.desk.Run)
	st.run("host log", w.logHost)
	listener, err := w.adminListener(ctx)
	if err != nil {
		return err
	}
	deps := api.Deps{Commands: w.commands(), Auth: adminLogins{w.directory}, State: adminState{w.cluster}, Log: w.log, Events: w.events,
		OrganizationOf: organizationOf(w.directory), Metrics: w.metrics, Local: w.localPaths(), Ready: w.readiness}
	if listener != nil {
		deps.Listener, deps.TLS = listener, w.certs.HTTPS()
		w.https = listener
		w.components.Obeys(org.AdminAPI, listener.now)
		st.run("admin door", listener.run)
	}
	w.admin, err = api.New(api.Config{Server: string(w.cluster.Name()), Version: w.cfg.Version,
		Socket: sock.Path(w.cfg.Dir), AuditFile: filepath.Join(w.cfg.Dir, "audit.jsonl")}, deps)
	if err != nil {
		return err
	}
	st.run("admin", w.admin.Run)
	if w.cfg.Metrics.Listen == "" {
		return nil
	}
	l, err := listen(ctx, w.cfg.Metrics.Listen)
	if err != nil {
		return err
	}
	w.figures = &metrics.Server{Listener: l, Registry: w.metrics, Ready: w.readiness, Log: w.log}
	st.run("metrics", w.figures.Run)
	return nil
}

// newDesk makes the part of health that stands in this process.
func (w *mailWorker) newDesk() (err error) {
	deps := health.DeskDeps{Server: w.cluster.Name(), Version: w.cfg.Version, Dir: w.cfg.Dir, Items: items(probed{w.cluster, w.mailbox, w.mover, w.certs, w.active}, w.cfg, &atlas{live: w.paths}),
		Rows: rows{w.cluster}, Mesh: mesh{w.cluster}, Actor: actor{w}, Spares: spares{w.cluster}, Figures: loadFigures(), Notes: w.notes, Log: w.log, Events: w.events, Metrics: w.metrics}
	if w.mover != nil {
		deps.Clock = w.mover.Clock()
	}
	w.desk, err = health.NewDesk(w.cfg.healthConfig(), deps)
	return err
}

// localPaths are those that only the socket has.
func (w *mailWorker) localPaths() map[string]http.Handler {
	all := map[string]http.Handler{"GET /metrics": w.metrics.Handler(), forwardPath: forwarded(w.events), "GET " + pathPaths: http.HandlerFunc(w.servePaths), "GET " + dnsPath: w.dnsAnswers()}
	maps.Copy(all, w.desk.Handlers())
	if w.cfg.Faults.Enabled {
		maps.Copy(all, w.faults.handlers())
	}
	return all
}

// readiness says why the server should not get clients.
func (w *mailWorker) readiness() error {
	if !w.serving.Load() {
		return errors.New("not all doors are open")
	}
	return nil
}

// commands is the table of all rooms.
func (w *mailWorker) commands() []command.Command {
	return Commands(Rooms{Cluster: w.cluster, Components: w.components, Mailbox: w.mailbox, Directory: w.directory, Transport: w.mover, Active: w.active, Sites: w.sites,
		Notify: w.alerts, Desk: w.desk, DNS: w.dnsServers})
}

// Rooms are what brings commands. For listing them all may be nil.
type Rooms struct {
	Cluster    *cluster.Cluster
	Components *component.Book
	Mailbox    *mailbox.Keeper
	Directory  *directory.Directory
	Transport  *transport.Mover
	Active     *active.Manager
	Sites      *active.Sites
	Notify     *notify.Notifier
	Desk       *health.Desk
	DNS        func() []dnsd.Server
}

// Commands joins the rooms' entries of the command table.
func Commands(r Rooms) []command.Command {
	return slices.Concat(
		cluster.Commands(r.Cluster),
		component.Commands(r.Components),
		mailbox.Commands(r.Mailbox),
		directory.Commands(r.Directory),
		transport.Commands(r.Transport),
		active.Commands(r.Active),
		active.SiteCommands(r.Sites),
		notify.Commands(r.Notify),
		health.Commands(r.Desk),
		dnsd.Commands(r.DNS),
	)
}

// issue makes a certificate of the group's CA for the doors.
func (w *mailWorker) issue(names []string) (tls.Certificate, error) {
	return w.cluster.Issue(names)
}

// listen opens one address; one that is in use or not allowed is a mistake of
// the configuration.
func listen(ctx context.Context, addr string) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, explainListen(addr, err)
	}
	return l, nil
}

func explainListen(addr string, err error) error {
	return withListenHint(kind.Errorf(kind.Invalid, "listen on %s: %w", addr, err))
}

// withListenHint adds what to do about an address that cannot be used.
func withListenHint(err error) error {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return kind.WithHint(err, "another program has this port; stop it, or set another address in "+configName+" (ss -ltnp shows who it is)")
	case errors.Is(err, syscall.EACCES):
		return kind.WithHint(err, "ports below 1024 need root or CAP_NET_BIND_SERVICE; set other ports in "+configName)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return kind.WithHint(err, "this machine has no such address; correct it in "+configName)
	}
	return err
}

// listenAll joins several addresses into one listener, nil for none.
func listenAll(ctx context.Context, addrs []string) (net.Listener, error) {
	var all []net.Listener
	for _, a := range addrs {
		l, err := listen(ctx, a)
		if err != nil {
			for _, open := range all {
				open.Close()
			}
			return nil, err
		}
		all = append(all, l)
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	return newJoined(all), nil
}

// joined is several listeners as one.
type joined struct {
	all    []net.Listener
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	wg     sync.WaitGroup
}

func newJoined(all []net.Listener) *joined {
	j := &joined{all: all, conns: make(chan net.Conn), closed: make(chan struct{})}
	for _, l := range all {
		j.wg.Go(func() {
			for {
				c, err := l.Accept()
				if errors.Is(err, net.ErrClosed) {
					return
				}
				if err != nil {
					continue
				}
				select {
				case j.conns <- c:
				case <-j.closed:
					c.Close()
				}
			}
		})
	}
	return j
}

// Accept implements net.Listener.
func (j *joined) Accept() (net.Conn, error) {
	select {
	case c := <-j.conns:
		return c, nil
	case <-j.closed:
		return nil, net.ErrClosed
	}
}

// Addr implements net.Listener: the first address.
func (j *joined) Addr() net.Addr { return j.all[0].Addr() }

// Close implements net.Listener.
func (j *joined) Close() error {
	var err error
	j.once.Do(func() {
		close(j.closed)
		for _, l := range j.all {
			err = errors.Join(err, l.Close())
		}
		j.wg.Wait()
	})
	return err
}

// addressOf is the address of a mailbox; a health mailbox has none that lasts.
func (w *mailWorker) addressOf(o org.OrganizationID, id org.MailboxID) (mail.Address, bool) {
	r, ok := w.directory.ByID(o, id)
	return r.Address, ok && r.IsMailbox()
}

// mailboxOf is where the mailbox of an address is, also of one that was removed
// and can come back.
func (w *mailWorker) mailboxOf(a mail.Address) (org.MailboxRef, bool) {
	r, ok := w.directory.ByAddress(a)
	return r.Ref(), ok && r.IsMailbox()
}
