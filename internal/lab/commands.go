package lab

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// Command is `postern lab` and what is below it.
func Command() *cobra.Command {
	spec := DefaultSpec()
	var dir string
	c := &cobra.Command{Use: "lab", Short: "run a group of several servers on this machine", Args: cobra.NoArgs,
		Long: "Starts several servers on loopback, makes a group of them, databases with copies, and users, and keeps all running until it is interrupted. " +
			"Started again on the same folder it goes on where it was; the other options count at the first start only.",
		Example: "  postern lab\n  postern lab kill MBX1",
		RunE: func(c *cobra.Command, _ []string) error {
			l, err := New(dir, spec, c.OutOrStdout())
			if err != nil {
				return err
			}
			return l.Run(c.Context())
		}}
	c.PersistentFlags().StringVar(&dir, "dir", "lab", "folder of the lab")
	f := c.Flags()
	f.IntVar(&spec.Servers, "servers", spec.Servers, "servers")
	f.IntVar(&spec.Sites, "sites", spec.Sites, "sites the servers are spread over")
	f.BoolVar(&spec.Witness, "witness", spec.Witness, "a voting member without mailboxes besides")
	f.IntVar(&spec.Databases, "databases", spec.Databases, "mailbox databases")
	f.IntVar(&spec.Copies, "copies", spec.Copies, "copies of each database; not more than servers")
	f.IntVar(&spec.Volumes, "volumes", spec.Volumes, "volumes of each server")
	f.IntVar(&spec.Spares, "spares", spec.Spares, "spare volumes of each server")
	f.Int64Var(&spec.VolumeSize, "volume-size", spec.VolumeSize, "bytes each volume may hold")
	f.IntVar(&spec.Users, "users", spec.Users, "users")
	f.StringVar(&spec.Domain, "domain", spec.Domain, "their domain")
	f.StringVar(&spec.Password, "password", spec.Password, "password of all users and of the administrator (random if not given)")
	f.IntVar(&spec.BasePort, "base-port", spec.BasePort, "ports from here on are used")
	f.BoolVar(&spec.Fast, "fast", spec.Fast, "shorten all timers, for tests")
	f.StringVar(&spec.DNS, "dns", "", "host:port of the resolver that servers ask (default that of this machine)")
	f.IntVar(&spec.RemotePort, "remote-port", 0, "port of other mail servers, for a world on loopback (default 25)")
	c.PreRun = func(c *cobra.Command, _ []string) {
		// A smaller group has not to be told that it has fewer copies.
		if !c.Flags().Changed("copies") {
			spec.Copies = min(spec.Copies, spec.Servers)
		}
	}
	c.AddCommand(statusCommand(&dir))
	for _, o := range orders {
		c.AddCommand(o.command(&dir))
	}
	return c
}

// orderWord is a verb of the lab that concerns one server.
type orderWord struct {
	verb, short string
	flags       func(*cobra.Command, *Order)
}

var orders = []orderWord{
	{"kill", "end a server without warning (SIGKILL to host and workers)", nil},
	{"pause", "stop all processes of a server (SIGSTOP)", nil},
	{"resume", "let a paused server go on (SIGCONT)", nil},
	{"start", "start a server that was killed", func(c *cobra.Command, o *Order) {
		c.Flags().BoolVar(&o.Wait, "wait", false, "until it serves")
	}},
	{"partition", "cut a server off from all others; its doors stay open (needs root and nft)", nil},
	{"heal", "end a partition", nil},
	{"cut-site", "cut the servers of a site off from all others", nil},
	{"heal-site", "end that", nil},
	{"fill-disk", "fill a volume of a server up to its max_size", volumeFlag},
	{"free-disk", "give the space of fill-disk back", volumeFlag},
	{"corrupt", "flip bytes in the middle of a log segment of a copy", func(c *cobra.Command, o *Order) {
		c.Flags().StringVar(&o.Database, "database", "", "which copy (default the first)")
		c.Flags().IntVar(&o.Bytes, "bytes", 64, "how many")
	}},
}

func volumeFlag(c *cobra.Command, o *Order) {
	c.Flags().StringVar(&o.Volume, "volume", "", "which volume (default Vol1)")
}

func (w orderWord) command(dir *string) *cobra.Command {
	o := Order{Verb: w.verb}
	what := "SERVER"
	if strings.HasSuffix(w.verb, "-site") {
		what = "SITE"
	}
	c := &cobra.Command{Use: w.verb + " " + what, Short: w.short, Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return serverNames(*dir, what == "SITE"), cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			o.Server = args[0]
			said, err := Do(c.Context(), *dir, o)
			if err != nil {
				return err
			}
			fmt.Fprintln(c.OutOrStdout(), said)
			return nil
		}}
	if w.flags != nil {
		w.flags(c, &o)
	}
	return c
}

func serverNames(dir string, sites bool) []string {
	f, err := ReadFile(dir)
	if err != nil {
		return nil
	}
	var out []string
	for _, s := range f.Servers {
		if !sites {
			out = append(out, s.Name)
		} else if !slices.Contains(out, s.Site) {
			out = append(out, s.Site)
		}
	}
	return out
}

func statusCommand(dir *string) *cobra.Command {
	return &cobra.Command{Use: "status", Short: "show the servers of a lab", Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			f, err := ReadFile(*dir)
			if err != nil {
				return fmt.Errorf("%w (hint: postern lab --dir %s)", err, *dir)
			}
			if asJSON, err := c.Flags().GetBool("json"); err == nil && asJSON {
				e := json.NewEncoder(c.OutOrStdout())
				e.SetIndent("", "  ")
				return e.Encode(f)
			}
			return printStatus(c.Context(), c.OutOrStdout(), f)
		}}
}

func printStatus(_ context.Context, w io.Writer, f File) error {
	tw := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "SERVER\tSITE\tSTATE\tHOST\tMAIL\tHEALTH\tSMTP\tIMAPS\tADMIN\tLOG")
	for _, s := range f.Servers {
		fmt.Fprintf(tw, "%s\t%s\t%s\t%d\t%d\t%d\t%s\t%s\t%s\t%s\n", s.Name, s.Site, s.State, s.PID, s.WorkerPIDs.Mail, s.WorkerPIDs.Health,
			s.SMTP, s.IMAPS, s.HTTPS, s.Log)
	}
	return tw.Flush()
}
