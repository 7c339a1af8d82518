package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/base/kind"
)

// organization is the lab's tenant.
const organization = "lab"

// build brings the group up. Every step finds out by itself whether it was
// done before, so a lab that was killed in the middle goes on.
func (l *Lab) build(ctx context.Context) error {
	for _, p := range l.plans {
		if err := l.configure(p); err != nil {
			return err
		}
	}
	first := l.procs[0]
	if !member(first.plan.Dir) {
		if err := l.run(ctx, first.plan, "init"); err != nil {
			return err
		}
	}
	// Members of a group that exists wait for each other: start all at once.
	for _, p := range l.procs {
		if member(p.plan.Dir) {
			if err := p.start(); err != nil {
				return err
			}
		}
	}
	admin := newAdminClient(first.plan.Dir)
	defer admin.close()
	if err := l.joinOthers(ctx, admin); err != nil {
		return err
	}
	g, gctx := errgroup.WithContext(ctx)
	for _, p := range l.procs {
		g.Go(func() error { return p.waitReady(gctx) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.copyCA(first.plan); err != nil {
		return err
	}
	if err := l.waitVotes(ctx, admin); err != nil {
		return err
	}
	if err := l.createDatabases(ctx, admin); err != nil {
		return err
	}
	return l.createPeople(ctx, admin)
}

// member tells whether a data folder belongs to a group.
func member(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "cluster", "server.json"))
	return err == nil
}

// configure writes a server's postern.toml where there is none; a person may
// have changed it since.
func (l *Lab) configure(p ServerPlan) error {
	for v := range l.spec.Volumes + l.spec.Spares {
		if err := os.MkdirAll(p.VolumeDir(v+1), 0o755); err != nil {
			return fmt.Errorf("lab: %w", err)
		}
	}
	path := filepath.Join(p.Dir, "postern.toml")
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("lab: %w", err)
	}
	if err := os.WriteFile(path, []byte(configText(p, l.spec)), 0o644); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// configText is a server's postern.toml. Limits that keep strangers from
// doing what a load test does are lifted: all clients of a lab come from one address.
// So is the length of passwords: people type that of a lab.
func configText(p ServerPlan, s Spec) string {
	var b strings.Builder
	timers := "default"
	if s.Fast {
		timers = "fast"
	}
	fmt.Fprintf(&b, "# Written by postern lab; changes stay.\nname = %q\nsite = %q\naddress = %q\ntimers = %q\ndrain = \"10s\"\n", p.Name, p.Site, p.Inner(portCluster), timers)
	if !p.Witness {
		for v := range s.Volumes + s.Spares {
			fmt.Fprintf(&b, "\n[[volume]]\nname = %q\npath = %q\nmax_size = %d\n", volumeName(v+1), p.VolumeDir(v+1), s.VolumeSize)
			if v >= s.Volumes {
				b.WriteString("spare = true\n")
			}
		}
		fmt.Fprintf(&b, "\n[mailbox]\nreserve = 67108864\n\n[transport]\nreserve = 67108864\nprivate = true\n")
		if s.RemotePort != 0 {
			fmt.Fprintf(&b, "remote_port = %d\n", s.RemotePort)
		}
		if s.DNS != "" {
			fmt.Fprintf(&b, "[transport.dns]\nservers = [%q]\n", s.DNS)
		}
		fmt.Fprintf(&b, "\n[directory]\npassword_minimum = 1\n")
		fmt.Fprintf(&b, "\n[smtp]\nhostname = %q\nmax_connections_per_address = 4096\naccount_messages_per_minute = -1\naccount_recipients_per_hour = -1\nmax_errors = 1000\n", strings.ToLower(p.Name)+"."+s.Domain)
		fmt.Fprintf(&b, "[smtp.receive]\nlisten = [%q]\n[smtp.submission]\nlisten = [%q]\n[smtp.submissions]\nlisten = [%q]\n", p.Door(portSMTP), p.Door(portSubmission), p.Door(portSubmissions))
		fmt.Fprintf(&b, "\n[imap]\nmax_connections_per_address = 20000\nmax_sessions_per_account = 20000\n[imap.starttls]\nlisten = [%q]\n[imap.tls]\nlisten = [%q]\n", p.Door(portIMAP), p.Door(portIMAPS))
	}
	if s.Fast {
		fmt.Fprintf(&b, "\n[faults]\nenabled = true\n")
	}
	fmt.Fprintf(&b, "\n[admin]\nlisten = [%q]\n\n[metrics]\nlisten = %q\n", p.Door(portHTTPS), p.Door(portMetrics))
	return b.String()
}

// run runs a postern command for a server that does not run yet.
func (l *Lab) run(ctx context.Context, p ServerPlan, args ...string) error {
	args = append(args, "--dir", p.Dir, "--config", filepath.Join(p.Dir, "postern.toml"))
	cmd := exec.CommandContext(ctx, l.procs[0].exe, args...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: postern %s: %w: %s", p.Name, args[0], err, bytes.TrimSpace(out))
	}
	return nil
}

// joinOthers takes in the servers that are no members yet, one after the
// other: each changes who votes.
func (l *Lab) joinOthers(ctx context.Context, admin adminClient) error {
	for _, p := range l.procs[1:] {
		if member(p.plan.Dir) {
			continue
		}
		var token struct {
			Token string `json:"token"`
		}
		if err := l.procs[0].waitReady(ctx); err != nil {
			return err
		}
		err := untilDone(ctx, func() error {
			if err := admin.change(ctx, "cluster", "token", map[string]any{"for": p.plan.Name}, &token); err != nil {
				return err
			}
			verb := "join"
			if p.plan.Witness {
				verb = "witness"
			}
			return l.run(ctx, p.plan, verb, token.Token)
		})
		if err != nil {
			return err
		}
		if err := p.start(); err != nil {
			return err
		}
		if err := p.waitReady(ctx); err != nil {
			return err
		}
	}
	return nil
}

// copyCA puts the certificate of the group's authority where clients find it.
func (l *Lab) copyCA(p ServerPlan) error {
	b, err := os.ReadFile(filepath.Join(p.Dir, "cluster", "ca.pem"))
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := os.WriteFile(filepath.Join(l.dir, "ca.pem"), b, 0o644); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	return nil
}

// waitVotes waits until all servers that should vote do. A server that has just
// joined learns the agreed state first; until it votes, the loss of another
// would be the loss of the majority, and a person who kills a server at once
// would see the wrong thing.
func (l *Lab) waitVotes(ctx context.Context, admin adminClient) error {
	want := len(l.plans)
	switch {
	case want == 4:
		want = 3 // a fourth vote would not allow one more loss
	case want > 5:
		want = 5
	}
	return untilDone(ctx, func() error {
		var st struct {
			Members []struct {
				Learner bool `json:"learner"`
			} `json:"members"`
		}
		if err := admin.read(ctx, "cluster", "status", &st); err != nil {
			return err
		}
		votes := 0
		for _, m := range st.Members {
			if !m.Learner {
				votes++
			}
		}
		if votes < want {
			return kind.Errorf(kind.Busy, "%d servers vote, want %d", votes, want)
		}
		return nil
	})
}

// databaseRow is what "database list" tells that a lab needs.
type databaseRow struct {
	Database string   `json:"name"`
	Active   string   `json:"active"`
	InSync   []string `json:"in_sync"`
}

func (l *Lab) createDatabases(ctx context.Context, admin adminClient) error {
	for _, d := range Databases(l.spec) {
		in := map[string]any{"database": d.Name, "servers": strings.Join(d.Servers, ","), "volume": d.Volume}
		err := untilDone(ctx, func() error { return admin.change(ctx, "database", "create", in, nil) })
		if err != nil && !kind.Is(err, kind.Exists) {
			return err
		}
	}
	return untilDone(ctx, func() error {
		var rows []databaseRow
		if err := admin.read(ctx, "database", "list", &rows); err != nil {
			return err
		}
		for _, r := range rows {
			if r.Active == "" {
				return kind.Errorf(kind.Busy, "%s is active nowhere", r.Database)
			}
			if len(r.InSync) < l.spec.Copies {
				return kind.Errorf(kind.Busy, "%s has %d copies in sync, want %d", r.Database, len(r.InSync), l.spec.Copies)
			}
		}
		return nil
	})
}

// createPeople makes the organization, its domain, the administrator and the
// users. Passwords cost time on purpose, so users are made several at a time.
func (l *Lab) createPeople(ctx context.Context, admin adminClient) error {
	make1 := func(ctx context.Context, noun, verb string, in map[string]any) error {
		err := untilDone(ctx, func() error { return admin.change(ctx, noun, verb, in, nil) })
		if kind.Is(err, kind.Exists) {
			return nil
		}
		return err
	}
	if err := make1(ctx, "organization", "create", map[string]any{"organization": organization, "name": "Postern lab"}); err != nil {
		return err
	}
	if err := make1(ctx, "domain", "add", map[string]any{"domain": l.spec.Domain, "organization": organization}); err != nil {
		return err
	}
	err := make1(ctx, "administrator", "create", map[string]any{"login": adminUser, "role": []string{"server-admin"}, "password": l.spec.Password})
	if err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for _, u := range Users(l.spec) {
		g.Go(func() error {
			return make1(ctx, "mailbox", "create", map[string]any{"address": u.Address, "database": u.Database, "password": l.spec.Password})
		})
	}
	return g.Wait()
}

// welcome tells a person what to do now.
func (l *Lab) welcome(took time.Duration) {
	var b strings.Builder
	first, last := l.plans[0], l.plans[l.spec.Servers-1]
	postern := filepath.Base(l.procs[0].exe)
	if exe := l.procs[0].exe; exe != "" {
		if wd, err := os.Getwd(); err == nil {
			if rel, err := filepath.Rel(wd, exe); err == nil && !strings.HasPrefix(rel, "..") {
				postern = rel
			}
		}
	}
	fmt.Fprintf(&b, "\nThe group is ready (%s): %d servers, %d databases with %d copies, users user1 to user%d@%s, password %s\n\n",
		took.Round(100*time.Millisecond), l.spec.Servers, l.spec.Databases, l.spec.Copies, l.spec.Users, l.spec.Domain, l.spec.Password)
	fmt.Fprintf(&b, "  SERVER  SITE    SMTP             IMAPS            ADMIN API\n")
	for _, p := range l.plans {
		if p.Witness {
			fmt.Fprintf(&b, "  %-6s  %-6s  %-16s %-16s https://%s\n", p.Name, p.Site, "witness", "", p.Door(portHTTPS))
			continue
		}
		fmt.Fprintf(&b, "  %-6s  %-6s  %-16s %-16s https://%s\n", p.Name, p.Site, p.Door(portSMTP), p.Door(portIMAPS), p.Door(portHTTPS))
	}
	fmt.Fprintf(&b, "\nSend a mail at %s, read it at %s:\n", first.Name, last.Name)
	fmt.Fprintf(&b, "  swaks --server %s --to user1@%s --body 'hello'\n", first.Door(portSMTP), l.spec.Domain)
	fmt.Fprintf(&b, "  curl --cacert %s/ca.pem --user user1@%s:%s 'imaps://%s/INBOX;MAILINDEX=1'\n", l.dir, l.spec.Domain, l.spec.Password, last.Door(portIMAPS))
	fmt.Fprintf(&b, "\nKill a server and read again; then let it come back:\n")
	fmt.Fprintf(&b, "  %s lab kill %s --dir %s\n", postern, first.Name, l.dir)
	fmt.Fprintf(&b, "  %s --lab %s copy status\n", postern, l.dir)
	fmt.Fprintf(&b, "  %s lab start %s --dir %s\n", postern, first.Name, l.dir)
	fmt.Fprintf(&b, "\nAll about this lab is in %s. Ctrl-C stops it; the same command goes on where it was.\n", FilePath(l.dir))
	_, _ = io.WriteString(l.out, b.String()) // to a terminal
}
