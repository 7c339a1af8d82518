package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/internal/admin/api"
	"github.com/postern-mail/postern/internal/base/command"
)

// Options of the command line.
type Options struct {
	// Commands are the entries of all rooms; nothing behind them is run.
	Commands []command.Command
	// Extra are commands that need no server: serve, init, lab...
	Extra   []*cobra.Command
	Version string
	// Docs are further pages that "postern docs" writes, by file name.
	Docs map[string]func() (string, error)

	// The world outside; nil means the process's own.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	Getenv         func(string) string
}

// program is what all commands of one command line share.
type program struct {
	Options
	table []command.Command

	// Flags of the root.
	dir, socket, lab, ca  string
	urls                  []string
	user                  string
	password, passwordIn  string
	jsonOut, quiet, agree bool
}

// New builds the command line. A mistake in the table of commands is one of
// the program and panics; every test that builds the tree finds it.
func New(o Options) *cobra.Command {
	p := &program{Options: o}
	p.world()
	p.table = command.Sort(append(api.Specs(), o.Commands...))
	if err := command.Check(p.table); err != nil {
		panic(err)
	}
	root := &cobra.Command{
		Use: "postern", Short: "highly available mail",
		Long:         "Postern keeps mail on several servers at once, so that nobody notices when one fails.",
		SilenceUsage: true, SilenceErrors: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return unknown(c, args) },
	}
	root.SetIn(p.Stdin)
	root.SetOut(p.Stdout)
	root.SetErr(p.Stderr)
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage(c.CommandPath()+" --help", "%w", err)
	})
	p.rootFlags(root)
	root.AddGroup(&cobra.Group{ID: "server", Title: "At this machine:"}, &cobra.Group{ID: "group", Title: "The group (needs a running server):"})
	for _, c := range o.Extra {
		if c.GroupID == "" {
			c.GroupID = "server"
		}
		root.AddCommand(c)
	}
	p.addNouns(root)
	root.AddCommand(p.versionCommand(), p.docsCommand(root))
	return root
}

func (p *program) world() {
	if p.Stdin == nil {
		p.Stdin = os.Stdin
	}
	if p.Stdout == nil {
		p.Stdout = os.Stdout
	}
	if p.Stderr == nil {
		p.Stderr = os.Stderr
	}
	if p.Getenv == nil {
		p.Getenv = os.Getenv
	}
}

func (p *program) rootFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&p.dir, "dir", "", "data folder of the server at this machine (POSTERN_DIR, default "+defaultDir+")")
	f.StringVar(&p.socket, "socket", "", "unix socket of the server at this machine (POSTERN_SOCKET)")
	f.StringArrayVar(&p.urls, "url", nil, "address of a server, as in https://mbx1.example.com:8443; repeat for more (POSTERN_URL)")
	f.StringVar(&p.lab, "lab", "", "folder of a lab, for its servers and administrator (POSTERN_LAB)")
	f.StringVar(&p.ca, "ca", "", "file with the certificate authority to trust (POSTERN_CA, default the system's)")
	for _, name := range []string{"user", "admin-user"} {
		f.StringVar(&p.user, name, "", "administrator to log in as (POSTERN_USER)")
	}
	for _, name := range []string{"password", "admin-password"} {
		f.StringVar(&p.password, name, "", "password of the administrator, seen by everybody at this machine (POSTERN_PASSWORD)")
	}
	for _, name := range []string{"password-file", "admin-password-file"} {
		f.StringVar(&p.passwordIn, name, "", "file with the password of the administrator, - for standard input (POSTERN_PASSWORD_FILE)")
	}
	// The long spelling is for commands that have a parameter of the short name.
	for _, name := range []string{"admin-user", "admin-password", "admin-password-file"} {
		f.Lookup(name).Hidden = true
	}
	f.BoolVar(&p.jsonOut, "json", false, "print the answer as JSON")
	f.BoolVar(&p.quiet, "quiet", false, "print no progress and no confirmation")
	f.BoolVar(&p.agree, "yes", false, "do not ask before dangerous changes")
}

// unknown answers where a word is no command: help without one, an error with
// the nearest ones else.
func unknown(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	hint := c.CommandPath() + " --help"
	c.SuggestionsMinimumDistance = 2
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		hint = "did you mean " + c.CommandPath() + " " + strings.Join(near, " or ") + "?"
	}
	return usage(hint, "there is no command %q", c.CommandPath()+" "+args[0])
}

// addNouns adds postern <noun> <verb> for the whole table. A noun that an
// extra command has already gets the verbs below that one.
func (p *program) addNouns(root *cobra.Command) {
	nouns := map[string]*cobra.Command{}
	for _, c := range root.Commands() {
		nouns[c.Name()] = c
	}
	for _, c := range p.table {
		noun, ok := nouns[c.Noun]
		if !ok {
			noun = p.branch(c.Noun, p.about(c.Noun))
			noun.GroupID = "group"
			nouns[c.Noun] = noun
			root.AddCommand(noun)
		}
		if list, _, two := strings.Cut(c.Verb, " "); two {
			below, ok := nouns[c.Noun+" "+list]
			if !ok {
				below = p.branch(list, p.about(c.Noun+" "+list))
				nouns[c.Noun+" "+list] = below
				noun.AddCommand(below)
			}
			noun = below
		}
		noun.AddCommand(p.entry(c))
	}
}

// branch is a command that only has others below it.
func (p *program) branch(word, short string) *cobra.Command {
	return &cobra.Command{
		Use: word, Short: short, Args: cobra.ArbitraryArgs,
		RunE: func(c *cobra.Command, args []string) error { return unknown(c, args) },
	}
}

// about describes a noun, or a noun and its list, by the words that follow.
func (p *program) about(noun string) string {
	var verbs []string
	for _, c := range p.table {
		if rest, ok := strings.CutPrefix(c.Name(), noun+" "); ok {
			if word, _, _ := strings.Cut(rest, " "); !slices.Contains(verbs, word) {
				verbs = append(verbs, word)
			}
		}
	}
	return noun + ": " + strings.Join(verbs, ", ")
}

func (p *program) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version of this program", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			commit := ""
			if info, ok := debug.ReadBuildInfo(); ok {
				if i := slices.IndexFunc(info.Settings, func(s debug.BuildSetting) bool { return s.Key == "vcs.revision" }); i >= 0 {
					commit = info.Settings[i].Value
				}
			}
			if p.jsonOut {
				return p.printJSON(map[string]string{"version": p.Version, "commit": commit, "go": runtime.Version()})
			}
			if commit != "" {
				commit = " " + commit[:min(12, len(commit))]
			}
			_, err := fmt.Fprintf(p.Stdout, "postern %s%s (%s)\n", p.Version, commit, runtime.Version())
			return err
		},
	}
}

// Run executes the command line with the given arguments, says on standard
// error what went wrong, and returns the exit code.
func Run(ctx context.Context, root *cobra.Command, args []string) int {
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(root.ErrOrStderr(), "postern: "+explain(err))
	}
	return Code(err)
}
