package node

import (
	"context"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
)

// Restore makes the data folder of a group of one from a backup of the group
// state (postern cluster backup). Databases come back dismounted.
func Restore(ctx context.Context, c Config, file string) (cluster.BackupInfo, error) {
	f, err := os.Open(file)
	if err != nil {
		return cluster.BackupInfo{}, kind.Errorf(kind.NotFound, "restore: %w", err)
	}
	defer f.Close()
	if err := c.makeVolumes(); err != nil {
		return cluster.BackupInfo{}, err
	}
	return cluster.Restore(ctx, cluster.RestoreOptions{Dir: c.clusterDir(), Name: c.Name, Site: c.Site, Addr: c.Address,
		Version: c.Version, Volumes: c.volumeNames(), External: len(c.Cluster.Etcd.Endpoints) > 0}, f)
}

// RestoreCommand is `postern cluster restore`: it works on this machine's
// data folder, so it stands beside the commands of the running group.
func RestoreCommand(version string) *cobra.Command {
	p := &place{version: version}
	inspect := false
	c := &cobra.Command{Use: "restore FILE", Short: "Begin a group of one from a backup of the group state", Args: cobra.ExactArgs(1),
		Long: "Makes the data folder of a group of one from a backup (postern cluster backup). All other servers join again, with new folders for their cluster data; the folders of their databases stay where they are. " +
			"Databases come back dismounted: after the servers with the best copies have joined, postern database mount DATABASE.",
		Example: "  postern cluster restore --name MBX1 --address 10.0.0.1:7443 group.backup",
		RunE: func(c *cobra.Command, args []string) error {
			if inspect {
				f, err := os.Open(args[0])
				if err != nil {
					return kind.Errorf(kind.NotFound, "inspect backup: %w", err)
				}
				defer f.Close()
				info, err := cluster.InspectBackup(f)
				if err == nil {
					fmt.Fprintf(c.OutOrStdout(), "%+v\n", info)
				}
				return err
			}
			cfg, err := p.load()
			if err != nil {
				return err
			}
			info, err := Restore(c.Context(), cfg, args[0])
			if err != nil {
				return err
			}
			fmt.Fprintf(c.OutOrStdout(), "Group %s of %s, %d rows, is restored with %s as its only server.\nNext: postern serve --dir %s\n",
				info.Group, info.Created.Format("2006-01-02 15:04:05 MST"), info.Keys, cfg.Name, p.dir)
			return nil
		}}
	p.flags(c)
	p.identity(c)
	c.Flags().BoolVar(&inspect, "dry-run", false, "only say what the backup holds")
	return c
}
