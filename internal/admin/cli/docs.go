package cli

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// docsCommand writes the pages that are made from the program.
func (p *program) docsCommand(root *cobra.Command) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use: "docs", Short: "write cli.md, man pages and other generated pages", Hidden: true, Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			pages := map[string]string{"cli.md": Markdown(root)}
			for name, page := range p.Docs {
				text, err := page()
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
				pages[name] = text
			}
			maps.Copy(pages, ManPages(root))
			for _, name := range slices.Sorted(maps.Keys(pages)) {
				file := filepath.Join(out, name)
				if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
					return err
				}
				if err := os.WriteFile(file, []byte(pages[name]), 0o644); err != nil {
					return err
				}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "docs", "folder to write into")
	return cmd
}

// Markdown is docs/cli.md.
func Markdown(root *cobra.Command) string {
	var b strings.Builder
	b.WriteString("# Command line\n\nMade from the code by `postern docs`; do not edit.\n\n" + root.Long + "\n\n")
	b.WriteString("Exit codes: 0 done, 1 error, 2 wrong usage, 3 not found, 4 denied, 5 busy or no server reached (try again), " +
		"6 exists already or changed by somebody else.\n\n## Flags of all commands\n\n")
	b.WriteString("```\n" + root.PersistentFlags().FlagUsages() + "```\n")
	walk(root, func(c *cobra.Command) {
		if !c.Runnable() || c.HasAvailableSubCommands() && c.Annotations == nil && c.Long == "" {
			return
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s\n\n```\n%s\n```\n", c.CommandPath(), block(text(c)), c.UseLine())
		if flags := ownFlags(c).FlagUsages(); flags != "" {
			b.WriteString("\n```\n" + flags + "```\n")
		}
		if c.Example != "" {
			b.WriteString("\nExample:\n\n```\n" + c.Example + "\n```\n")
		}
	})
	return b.String()
}

func text(c *cobra.Command) string {
	if c.Long != "" {
		return c.Long
	}
	return c.Short
}

// block keeps the lines of an argument list apart in Markdown.
func block(s string) string {
	before, args, ok := strings.Cut(s, "\n\nArguments:")
	if !ok {
		return s
	}
	return before + "\n\nArguments:\n\n```" + args + "\n```"
}

// ownFlags are the flags of the command without those of the root.
func ownFlags(c *cobra.Command) *pflag.FlagSet { return c.LocalNonPersistentFlags() }

// walk visits all commands that people see, in the order of their names.
func walk(c *cobra.Command, visit func(*cobra.Command)) {
	for _, sub := range c.Commands() {
		if sub.Hidden || sub.Name() == "help" || sub.Name() == "completion" {
			continue
		}
		visit(sub)
		walk(sub, visit)
	}
}

// ManPages are pages of section 1, by file name: one for the program and one
// for each noun or command directly below it.
func ManPages(root *cobra.Command) map[string]string {
	pages := map[string]string{"man/postern.1": manPage(root, root.PersistentFlags())}
	for _, c := range root.Commands() {
		if !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			pages["man/postern-"+c.Name()+".1"] = manPage(c, ownFlags(c))
		}
	}
	return pages
}

func manPage(c *cobra.Command, flags *pflag.FlagSet) string {
	var b strings.Builder
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	fmt.Fprintf(&b, ".TH %s 1 \"\" Postern \"Postern manual\"\n.SH NAME\n%s \\- %s\n", roff(strings.ToUpper(name)), roff(name), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.nf\n%s\n.fi\n.SH DESCRIPTION\n.nf\n%s\n.fi\n", roff(c.UseLine()), roff(text(c)))
	if usage := flags.FlagUsages(); usage != "" {
		fmt.Fprintf(&b, ".SH OPTIONS\n.nf\n%s.fi\n", roff(usage))
	}
	walk(c, func(sub *cobra.Command) {
		if c.Root() == c {
			if sub.Parent() == c {
				fmt.Fprintf(&b, ".SH %s\n%s\n", roff(strings.ToUpper(sub.Name())), roff(sub.Short))
			}
			return
		}
		fmt.Fprintf(&b, ".SH %s\n.nf\n%s\n\n%s\n\n%s%s\n.fi\n", roff(strings.ToUpper(sub.Name())), roff(sub.UseLine()), roff(text(sub)),
			roff(ownFlags(sub).FlagUsages()), roff(sub.Example))
	})
	return b.String()
}

// roff makes text safe for a man page: no escapes, no lines that are requests.
func roff(s string) string {
	s = strings.ReplaceAll(strings.ReplaceAll(s, `\`, `\e`), "-", `\-`)
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		if strings.HasPrefix(l, ".") || strings.HasPrefix(l, "'") {
			lines[i] = `\&` + l
		}
	}
	return strings.Join(lines, "\n")
}
