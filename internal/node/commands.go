package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/logging"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/node/settings"
	"github.com/postern-mail/postern/internal/org"
)

// defaultDir is where packages put the data.
const defaultDir = "/var/lib/postern"

// place is where a command of this machine finds data and configuration.
type place struct {
	dir, file string
	name      string
	site      string
	address   string
	version   string
}

// flags adds those that all commands of this machine share.
func (p *place) flags(c *cobra.Command) {
	c.Flags().StringVar(&p.dir, "dir", cmp.Or(os.Getenv("POSTERN_DIR"), defaultDir), "data folder")
	c.Flags().StringVar(&p.file, "config", "", "configuration (default "+configName+" in the data folder)")
}

// identity adds the flags of what counts at init and join only.
func (p *place) identity(c *cobra.Command) {
	c.Flags().StringVar(&p.name, "name", "", "name of this server in the group (default from the configuration or the host name)")
	c.Flags().StringVar(&p.site, "site", "", "site of this server")
	c.Flags().StringVar(&p.address, "address", "", "host:port at which the other servers reach this one")
}

func (p *place) load() (Config, error) {
	c, err := Load(p.dir, p.file)
	if err != nil {
		return c, invalid(err)
	}
	c.Name = cmp.Or(org.ServerName(p.name), c.Name)
	c.Site = cmp.Or(org.SiteName(p.site), c.Site)
	c.Address = cmp.Or(p.address, c.Address)
	c.Version = p.version
	return c.Complete(), nil
}

// invalid marks what is wrong with a configuration.
func invalid(err error) error {
	var ps settings.Problems
	if errors.As(err, &ps) {
		return &kind.Error{Kind: kind.Invalid, Err: err}
	}
	return err
}

// CLI are the commands that need no running server: serve, init, join,
// witness, config.
func CLI(version string) []*cobra.Command {
	return []*cobra.Command{serveCommand(version), initCommand(version), joinCommand(version, false), joinCommand(version, true), configCommand(version)}
}

func serveCommand(version string) *cobra.Command {
	p := &place{version: version}
	var worker string
	c := &cobra.Command{Use: "serve", Short: "run this server", Args: cobra.NoArgs,
		Long: "Runs this server until it is told to stop. In an empty data folder it begins a group of one, with one database; other servers can join it later.\n\n" +
			"It starts two workers and keeps them running: one that serves mail, one that watches the doors as a user would.",
		Example: "  postern serve --dir /var/lib/postern",
		RunE: func(c *cobra.Command, _ []string) error {
			if worker != "" {
				return runWorker(c.Context(), worker, p)
			}
			return orAgain(c.Context(), func(ctx context.Context) error { return runHost(ctx, p) })
		}}
	p.flags(c)
	c.Flags().StringVar(&worker, "worker", "", "be a worker of a host")
	_ = c.Flags().MarkHidden("worker") // the flag is there
	return c
}

// runHost prepares the data folder and keeps the workers running.
func runHost(ctx context.Context, p *place) error {
	cfg, err := p.load()
	if err != nil {
		return err
	}
	log, _, err := logging.New(os.Stderr, cfg.Log)
	if err != nil {
		return err
	}
	log = log.With("process", "host")
	exe, err := os.Executable()
	if err != nil {
		return fmt.Errorf("serve: %w", err)
	}
	if err := prepare(ctx, cfg); err != nil {
		return err
	}
	return NewHost(HostConfig{Dir: cfg.Dir, Log: log, Timers: cfg.hostTimers(),
		Command: func(w string) (string, []string) {
			args := []string{"serve", "--worker", w, "--dir", p.dir}
			if p.file != "" {
				args = append(args, "--config", p.file)
			}
			return exe, args
		}}).Run(ctx)
}

// runWorker is a child of a host.
func runWorker(ctx context.Context, name string, p *place) error {
	link, err := OpenLink(DefaultHostTimers().Beat)
	if err != nil {
		return err
	}
	// The host alone decides when to stop; Ctrl-C at a terminal is its business.
	signal.Ignore(os.Interrupt)
	ctx, stop := signal.NotifyContext(context.WithoutCancel(ctx), syscall.SIGTERM)
	defer stop()
	cfg, err := p.load()
	if err != nil {
		return exit(ExitConfig, err)
	}
	log, _, err := logging.New(os.Stderr, cfg.Log)
	if err != nil {
		return exit(ExitConfig, err)
	}
	log = log.With("process", name)
	ended := make(chan error, 1)
	// Heartbeats go on while the worker drains.
	beat, still := context.WithCancel(context.WithoutCancel(ctx))
	go func() {
		err := link.Run(beat)
		if errors.Is(err, ErrHostGone) {
			// Another host may start on this folder now: no draining.
			os.Exit(1)
		}
		ended <- err
	}()
	err = work(ctx, name, cfg, log, link)
	still()
	<-ended
	if err != nil {
		log.Error("worker ends", "error", err)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, cluster.ErrRemoved):
		return exit(ExitRemoved, err)
	case cannotListen(err):
		if !strings.Contains(err.Error(), "(hint: ") {
			err = withListenHint(err)
		}
		return exit(ExitConfig, err)
	case kind.Is(err, kind.Invalid):
		return exit(ExitConfig, err)
	}
	return err
}

// cannotListen tells whether an address of the configuration is in use, not
// allowed or not this machine's. Trying again cannot help a server that never listened
// there; one that did is started again (keeper.run).
func cannotListen(err error) bool {
	return errors.Is(err, syscall.EADDRINUSE) || errors.Is(err, syscall.EACCES) || errors.Is(err, syscall.EADDRNOTAVAIL)
}

func work(ctx context.Context, name string, cfg Config, log *slog.Logger, link *Link) error {
	switch name {
	case WorkerMail:
		return Run(ctx, cfg, log, link)
	case WorkerHealth:
		link.Ready()
		return RunHealth(ctx, cfg, log, link)
	}
	return kind.Errorf(kind.Invalid, "no worker %q", name)
}

// exit ends a worker with a status its host understands. The error was told.
func exit(status int, err error) error {
	fmt.Fprintln(os.Stderr, "postern:", err)
	os.Exit(status)
	return err
}

func initCommand(version string) *cobra.Command {
	p := &place{version: version}
	c := &cobra.Command{Use: "init", Short: "begin a group with this server as its first member", Args: cobra.NoArgs,
		Long:    "Makes the data folder of a group of one: its own certificate authority, this server's certificate and the first agreed state. Start the server with postern serve; then let others join.",
		Example: "  postern init --name MBX1 --site Berlin --address 10.0.0.1:7443",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.load()
			if err != nil {
				return err
			}
			if err := Init(c.Context(), cfg); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is the first server of a new group, reached by others at %s.\nNext: postern serve --dir %s\n", cfg.Name, cfg.Address, p.dir)
			return nil
		}}
	p.flags(c)
	p.identity(c)
	return c
}

func joinCommand(version string, witness bool) *cobra.Command {
	p := &place{version: version}
	o := JoinOptions{Witness: witness}
	c := &cobra.Command{Use: "join TOKEN", Short: "make this server a member of a group", Args: cobra.ExactArgs(1),
		Long:    "Makes this server a member of the group that made the token (postern cluster token). The token works once and carries the fingerprint of the group's authority, so this server gives its secret to nobody else.",
		Example: "  postern join --name MBX2 --site Berlin --address 10.0.0.2:7443 TOKEN",
		RunE: func(c *cobra.Command, args []string) error {
			cfg, err := p.load()
			if err != nil {
				return err
			}
			o.Token = args[0]
			if err := Join(c.Context(), cfg, o); err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is a member of the group, reached by others at %s.\nNext: postern serve --dir %s\n", cfg.Name, cfg.Address, p.dir)
			return nil
		}}
	if witness {
		c.Use, c.Short = "witness TOKEN", "make this server a voting member without mailboxes"
		c.Long = "Makes this server a witness: it votes on what the group agrees on and holds no mail, so that a group of two servers or two sites survives the loss of either. " + c.Long
		c.Flags().BoolVar(&o.Alternate, "alternate", false, "vote only while no other witness does")
		c.Example = "  postern witness --name WIT1 --site Hamburg --address 10.0.9.1:7443 TOKEN"
	}
	p.flags(c)
	p.identity(c)
	c.Flags().BoolVar(&o.Replace, "replace", false, "take the place of a dead server of the same name")
	return c
}

func configCommand(version string) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "check the configuration of this machine, or print a sample"}
	p := &place{version: version}
	check := &cobra.Command{Use: "check", Short: "read the configuration and tell what is wrong with it", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.load()
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "the configuration is good: server %s, site %s, data in %s\n", cfg.Name, cfg.Site, cfg.Dir)
			return nil
		}}
	p.flags(check)
	sample := &cobra.Command{Use: "sample", Short: "print a configuration with all settings and their defaults", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, err := Sample()
			if err != nil {
				return err
			}
			_, err = fmt.Fprint(c.OutOrStdout(), s)
			return err
		}}
	c.AddCommand(check, sample)
	return c
}
