package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
)

// newGroupFile marks a data folder whose group of one has not got its first
// database yet. It is written before the group is made, so that a crash in between
// repeats the work and does not forget it.
const newGroupFile = "new-group"

// clusterConfig is the room's configuration.
func (c Config) clusterConfig() cluster.Config {
	x := cluster.Config{Dir: c.clusterDir(), Listen: c.Cluster.Listen, Version: c.Version,
		External: cluster.External{Endpoints: c.Cluster.Etcd.Endpoints, CAFile: c.Cluster.Etcd.CA, CertFile: c.Cluster.Etcd.Cert,
			KeyFile: c.Cluster.Etcd.Key, User: c.Cluster.Etcd.User, Password: c.Cluster.Etcd.Password}}
	if c.Timers == "fast" {
		x.Heartbeat, x.Election = 25*time.Millisecond, 250*time.Millisecond
		x.MeshInterval, x.SilentAfter = 50*time.Millisecond, 500*time.Millisecond
		x.Failback = 5 * time.Second
		x.LeaseTTL = time.Second
	}
	return x
}

// makeVolumes makes the folders of volumes that are not there. A volume that
// is a mount point of its own should be there already; an empty folder in its place is
// found out by the mailbox room, which knows what it wrote to it.
func (c Config) makeVolumes() error {
	for _, v := range c.Volumes {
		if err := os.MkdirAll(v.Path, 0o750); err != nil {
			return fmt.Errorf("volume %s: %w", v.Name, err)
		}
	}
	return nil
}

// Init makes the data folder of a group of one.
func Init(ctx context.Context, c Config) error {
	if err := c.makeVolumes(); err != nil {
		return err
	}
	return cluster.Init(ctx, cluster.InitOptions{Dir: c.clusterDir(), Name: c.Name, Site: c.Site, Addr: c.Address,
		Version: c.Version, Volumes: c.volumeNames(), External: len(c.Cluster.Etcd.Endpoints) > 0})
}

// JoinOptions say how to join a group.
type JoinOptions struct {
	Token   string
	Witness bool
	Replace bool // takes the place of a dead server of this name
	// Alternate is a witness that votes only while no other witness does.
	Alternate bool
}

// Join makes the data folder of a member of the group in the token.
func Join(ctx context.Context, c Config, o JoinOptions) error {
	volumes := c.volumeNames()
	if o.Witness {
		volumes = nil
	} else if err := c.makeVolumes(); err != nil {
		return err
	}
	return cluster.Join(ctx, cluster.JoinOptions{Dir: c.clusterDir(), Token: o.Token, Name: c.Name, Site: c.Site, Addr: c.Address,
		Version: c.Version, Volumes: volumes, Witness: o.Witness, Replace: o.Replace, Alternate: o.Alternate})
}

// prepare makes a group of one in an empty data folder.
func prepare(ctx context.Context, c Config) error {
	if err := os.MkdirAll(c.Dir, 0o750); err != nil {
		return kind.WithHint(fmt.Errorf("data folder: %w", err), "give a folder you may write to with --dir")
	}
	if cluster.Exists(c.clusterDir()) {
		return c.makeVolumes()
	}
	mark := filepath.Join(c.Dir, newGroupFile)
	if err := os.WriteFile(mark, []byte("DB01\n"), 0o640); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if err := Init(ctx, c); err != nil {
		return fmt.Errorf("begin a group of one: %w", err)
	}
	return nil
}

// firstDatabase makes DB01 in a group that `postern serve` began by itself,
// so that the first mailbox has a place.
func (w *mailWorker) firstDatabase(ctx context.Context) error {
	mark := filepath.Join(w.cfg.Dir, newGroupFile)
	if _, err := os.Stat(mark); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	in := map[string]any{"database": "DB01", "servers": w.cluster.Name(), "redundancy": "two-while-possible"}
	err := runCommand(ctx, w.commands(), "database", "create", in)
	if err != nil && !kind.Is(err, kind.Exists) {
		return fmt.Errorf("first database: %w", err)
	}
	if err := os.Remove(mark); err != nil {
		return fmt.Errorf("first database: %w", err)
	}
	return nil
}

// runCommand runs an entry of the table as the system itself.
func runCommand(ctx context.Context, table []command.Command, noun, verb string, params map[string]any) error {
	i := slices.IndexFunc(table, func(c command.Command) bool { return c.Noun == noun && c.Verb == verb })
	if i < 0 {
		return kind.Errorf(kind.NotFound, "no command %s %s", noun, verb)
	}
	b, err := json.Marshal(params)
	if err != nil {
		return err
	}
	in := reflect.New(table[i].In)
	if err := json.Unmarshal(b, in.Interface()); err != nil {
		return fmt.Errorf("%s %s: %w", noun, verb, err)
	}
	_, err = table[i].Run(ctx, in.Elem().Interface())
	return err
}
