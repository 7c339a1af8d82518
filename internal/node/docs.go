package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/postern-mail/postern/internal/access/certs"
	"github.com/postern-mail/postern/internal/access/dnsd"
	"github.com/postern-mail/postern/internal/access/imapd"
	"github.com/postern-mail/postern/internal/access/smtpd"
	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/admin/metrics"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/notify"
	"github.com/postern-mail/postern/internal/transport"
)

// Docs are the pages that are made from what the rooms say of themselves, by
// file name below docs/. The command line adds its own, cli.md.
func Docs() map[string]func() (string, error) {
	return map[string]func() (string, error){
		"events.md":   func() (string, error) { return event.EventsMarkdown(), nil },
		"metrics.md":  metricsPage,
		"settings.md": settingsPage,
	}
}

// settingsPage lists every setting: those of one server, which its file has,
// and those of the group, which commands change.
func settingsPage() (string, error) {
	sample, err := Sample()
	if err != nil {
		return "", err
	}
	return settingsHead + transport.SettingsMarkdown() + "\n## One server: postern.toml\n\n" +
		"As `postern config sample` prints it: what is commented out is the default.\n\n```toml\n" + sample + "```\n", nil
}

const settingsHead = "# Settings\n\nThis page is made from the program: `make docs`.\n\n"

// metricsPage builds the rooms as a mail worker does, in a folder that is
// thrown away, and lists what they registered. Nothing of them is run:
// constructors start nothing.
func metricsPage() (page string, err error) {
	dir, err := os.MkdirTemp("", "postern-docs-")
	if err != nil {
		return "", fmt.Errorf("list metrics: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	r, err := metrics.New()
	if err != nil {
		return "", fmt.Errorf("list metrics: %w", err)
	}
	if err := registerRooms(r, dir); err != nil {
		return "", fmt.Errorf("list metrics: %w", err)
	}
	return r.Markdown(), nil
}

// registerRooms builds every room that has figures.
func registerRooms(r *metrics.Registry, dir string) (err error) {
	group := filepath.Join(dir, clusterFolder)
	if err := cluster.Init(context.Background(), cluster.InitOptions{Dir: group, Name: "MBX1", Addr: "127.0.0.1:7443"}); err != nil {
		return err
	}
	log := slog.New(slog.DiscardHandler)
	events := event.NewLog(log)
	c, err := cluster.Open(cluster.Config{Dir: group}, log, events)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := r.Register(c.Figures()); err != nil {
		return err
	}
	k, err := mailbox.New(mailbox.Config{}, mailbox.Deps{Group: c, Log: log, Events: events, Metrics: r})
	if err != nil {
		return err
	}
	// Its own CA has issued the server's certificate; which one is shown does
	// not matter to the list.
	issue := func([]string) (tls.Certificate, error) { return *c.Certificate(), nil }
	if _, err := certs.New(certs.Default(), certs.Deps{Issue: issue, Log: log, Events: events, Metrics: r}); err != nil {
		return err
	}
	active.New(active.Config{}, active.Deps{Group: c, Copies: k, Log: log, Events: events, Metrics: r})
	people := directory.New(directory.Agreed(c), directory.Options{Log: log, Events: events})
	m, err := transport.New(transport.Config{Dir: filepath.Join(dir, queueFolder)}, transport.Deps{Group: c, Store: k.Client(), Directory: people,
		Hostname: "mbx1.example.com", Log: log, Events: events, Metrics: r})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if _, err := smtpd.New(smtpd.Default(), smtpd.Deps{Log: log, Events: events, Metrics: r}); err != nil {
		return err
	}
	if _, err := imapd.New(imapd.Default(), imapd.Deps{Log: log, Events: events, Metrics: r}); err != nil {
		return err
	}
	if _, err := dnsd.New(dnsd.Default(), dnsd.Deps{Log: log, Events: events, Metrics: r}); err != nil {
		return err
	}
	notify.New(notify.Config{}, notify.Deps{Rows: groupRows{c}, Mesh: groupMesh{c}, Secrets: c, Log: log, Events: events, Metrics: r})
	if _, err := health.NewDesk(health.Config{}, health.DeskDeps{Server: "MBX1", Dir: dir, Items: items(probed{cluster: c, mailbox: k, mover: m}, DefaultConfig(), nil), Rows: rows{c}, Mesh: mesh{c}, Spares: spares{c},
		Log: log, Events: events, Metrics: r}); err != nil {
		return err
	}
	_, err = api.New(api.Config{Server: "MBX1"}, api.Deps{Log: log, Events: events, Metrics: r})
	return err
}
