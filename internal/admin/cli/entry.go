package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/internal/base/command"
)

// entry is one entry of the table on the command line.
func (p *program) entry(c command.Command) *cobra.Command {
	params, err := command.ParamsOf(c.In)
	if err != nil {
		panic(err) // New has checked the table
	}
	e := &entry{p: p, c: c, params: params, args: params.Args(), values: url.Values{}, files: map[string]*string{}}
	cmd := &cobra.Command{
		Use: e.use(), Short: c.Short, Long: long(c, params), Example: indent(c.Example), GroupID: "",
		Args: e.checkArgs, RunE: e.run, ValidArgsFunction: e.completeArg,
	}
	for _, f := range params.Fields() {
		if f.Arg == 0 {
			e.addFlag(cmd, f)
		}
	}
	return cmd
}

type entry struct {
	p      *program
	c      command.Command
	params *command.Params
	args   []command.Field
	values url.Values         // what flags and arguments gave
	files  map[string]*string // secrets that come from a file, by parameter
}

func argName(f command.Field) string {
	return strings.ToUpper(f.Flag())
}

func isList(f command.Field) bool {
	return f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() != reflect.Uint8
}

func isBytes(f command.Field) bool {
	return f.Type.Kind() == reflect.Slice && f.Type.Elem().Kind() == reflect.Uint8
}

func (e *entry) use() string {
	s := e.c.Verb[strings.LastIndexByte(e.c.Verb, ' ')+1:]
	for _, f := range e.args {
		name := argName(f)
		if isList(f) {
			name += "..."
		}
		if !f.Required {
			name = "[" + name + "]"
		}
		s += " " + name
	}
	return s
}

// long is the help text: what the command does and what its arguments are.
func long(c command.Command, params *command.Params) string {
	s := c.Long
	if s == "" {
		s = strings.ToUpper(c.Short[:1]) + c.Short[1:] + "."
	}
	args := params.Args()
	if len(args) == 0 {
		return s
	}
	s += "\n\nArguments:"
	width := 0
	for _, f := range args {
		width = max(width, len(argName(f)))
	}
	for _, f := range args {
		s += fmt.Sprintf("\n  %-*s  %s", width, argName(f), about(f))
	}
	return s
}

// about is the help text of a parameter.
func about(f command.Field) string {
	s := f.Doc
	if len(f.Enum) > 0 {
		s += " (" + strings.Join(f.Enum, ", ") + ")"
	}
	if f.Arg > 0 && f.Default != "" {
		s += " (default " + f.Default + ")"
	}
	return strings.TrimSpace(s)
}

func indent(s string) string {
	if s == "" {
		return ""
	}
	return "  " + strings.ReplaceAll(strings.TrimSpace(s), "\n", "\n  ")
}

func (e *entry) addFlag(cmd *cobra.Command, f command.Field) {
	doc := about(f)
	switch {
	case f.Required && f.Secret:
		doc += " (asked for if not given)"
	case f.Required:
		doc += " (required)"
	}
	if isBytes(f) {
		doc += " (a file, - for standard input)"
	}
	switch f.Flag() {
	case "json", "yes", "quiet", "help":
		panic(fmt.Sprintf("command %s: parameter %s would hide the flag --%s", e.c.Name(), f.Name, f.Flag()))
	case "user", "password", "password-file":
		doc += "; the administrator's own is --admin-" + f.Flag()
	}
	flag := cmd.Flags().VarPF(&flagValue{e: e, f: f}, f.Flag(), "", doc)
	if t := f.Type; t.Kind() == reflect.Bool || t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Bool {
		flag.NoOptDefVal = "true"
	}
	flag.DefValue = f.Default
	if f.Secret {
		file := new(string)
		e.files[f.Name] = file
		cmd.Flags().StringVar(file, f.Flag()+"-file", "", "the same from the first line of a file, - for standard input")
	}
	_ = cmd.RegisterFlagCompletionFunc(f.Flag(), e.completeFlag(f)) // fails only for flags that are not there
}

// flagValue collects the texts of one flag.
type flagValue struct {
	e *entry
	f command.Field
}

func (v *flagValue) String() string { return "" }

// Type names the value in the help.
func (v *flagValue) Type() string {
	t := v.f.Type
	for t.Kind() == reflect.Pointer || isList(v.f) && t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	switch {
	case isBytes(v.f):
		return "file"
	case t.String() == "time.Duration":
		return "duration"
	case t.Kind() == reflect.Bool:
		return "bool"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "number"
	case t.Kind() == reflect.String:
		return "text"
	}
	return strings.ToLower(t.Name())
}

func (v *flagValue) Set(s string) error {
	if isList(v.f) {
		v.e.values.Add(v.f.Name, s)
		return nil
	}
	v.e.values.Set(v.f.Name, s)
	return nil
}

// checkArgs takes the positional arguments.
func (e *entry) checkArgs(cmd *cobra.Command, args []string) error {
	for i, f := range e.args {
		switch {
		case isList(f) && i < len(args):
			for _, a := range args[i:] {
				e.values.Add(f.Name, a)
			}
			return nil
		case i < len(args):
			e.values.Set(f.Name, args[i])
		case f.Required:
			return usage(cmd.CommandPath()+" --help", "%s is missing: %s", argName(f), cmd.UseLine())
		}
	}
	if len(args) > len(e.args) {
		return usage(cmd.CommandPath()+" --help", "%q is too much: %s", args[len(e.args)], cmd.UseLine())
	}
	return nil
}

func (e *entry) run(cmd *cobra.Command, _ []string) error {
	ctx := cmd.Context()
	if err := e.readFiles(); err != nil {
		return err
	}
	if err := e.askSecrets(ctx); err != nil {
		return err
	}
	in, err := e.params.FromValues(e.values)
	if err != nil {
		return e.misused(cmd, err)
	}
	cl, err := e.p.client(ctx)
	if err != nil {
		return err
	}
	defer cl.close()
	body := e.params.Pick(in, e.values)
	dry := slices.ContainsFunc(e.params.Fields(), func(f command.Field) bool { return f.Dry && body[f.Name] == true })
	if e.c.Dangerous && !e.p.agree && !dry {
		if err := e.showAndAsk(ctx, cl, body); err != nil {
			return err
		}
	}
	raw, err := cl.call(ctx, e.c, e.values, body, e.progress)
	if err != nil {
		return err
	}
	return e.show(raw)
}

// showAndAsk shows what a dangerous command would do and asks for its object's
// name.
func (e *entry) showAndAsk(ctx context.Context, cl *client, body map[string]any) error {
	if _, ok := e.p.terminal(); !ok {
		return usage("see what it would do with --dry-run, and give --yes if it is meant", "%s is dangerous and nobody is there to ask", e.c.Name())
	}
	dry := map[string]any{}
	for k, v := range body {
		dry[k] = v
	}
	dry["dry_run"] = true
	raw, err := cl.call(ctx, e.c, nil, dry, e.progress)
	if err != nil {
		return err
	}
	if err := e.p.render(e.p.Stderr, e.c.Out, raw); err != nil {
		return err
	}
	word := "yes"
	if len(e.args) > 0 && e.values.Get(e.args[0].Name) != "" {
		word = e.values.Get(e.args[0].Name)
	}
	return e.p.confirm(ctx, word)
}

func (e *entry) progress(line string) {
	if !e.p.quiet {
		fmt.Fprintln(e.p.Stderr, line)
	}
}

func (e *entry) show(raw json.RawMessage) error {
	switch {
	case e.p.jsonOut:
		return e.p.printJSON(raw)
	case e.p.quiet && e.c.Changes && !holdsNews(e.c.Out):
		return nil
	}
	return e.p.render(e.p.Stdout, e.c.Out, raw)
}

// holdsNews says that an answer is more than a confirmation: it may have
// something made up by the server that is told only once.
func holdsNews(t reflect.Type) bool {
	for t.Kind() == reflect.Pointer || t.Kind() == reflect.Slice {
		t = t.Elem()
	}
	return t.Kind() == reflect.Struct && slices.ContainsFunc(reflect.VisibleFields(t), func(f reflect.StructField) bool {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		return f.Tag.Get("secret") == "true" || slices.Contains([]string{"password", "token", "secret", "code"}, name)
	})
}

// readFiles replaces file names by what is in them.
func (e *entry) readFiles() error {
	for name, file := range e.files {
		if *file == "" {
			continue
		}
		secret, err := e.p.readSecret(*file)
		if err != nil {
			return err
		}
		e.values.Set(name, secret)
	}
	for _, f := range e.params.Fields() {
		if name := e.values.Get(f.Name); isBytes(f) && name != "" {
			b, err := e.p.readFile(name)
			if err != nil {
				return err
			}
			e.values.Set(f.Name, string(b))
		}
	}
	return nil
}

func (e *entry) askSecrets(ctx context.Context) error {
	for _, f := range e.params.Fields() {
		if !f.Secret || !f.Required || e.values.Has(f.Name) {
			continue
		}
		secret, err := e.p.newSecret(ctx, f.Flag())
		if err != nil {
			return err
		}
		e.values.Set(f.Name, secret)
	}
	return nil
}

// misused tells about wrong parameters in the words of the command line.
func (e *entry) misused(cmd *cobra.Command, err error) error {
	var pe *command.ParamError
	if !errors.As(err, &pe) {
		return err
	}
	var texts []string
	for _, b := range pe.Problems {
		name := b.Field
		if f, ok := e.params.Lookup(b.Field); ok && f.Arg > 0 {
			name = argName(f)
		} else if ok {
			name = "--" + f.Flag()
		}
		texts = append(texts, name+": "+b.Message)
	}
	return usage(cmd.CommandPath()+" --help", "%s", strings.Join(texts, "\n"))
}

// maxFile bounds a file given as a parameter, in bytes.
const maxFile = 64 << 20

func (p *program) readFile(name string) ([]byte, error) {
	f := os.Stdin
	if name != "-" {
		var err error
		if f, err = os.Open(name); err != nil {
			return nil, err
		}
		defer f.Close()
	} else if in, ok := p.Stdin.(*os.File); ok {
		f = in
	}
	return readAtMost(f, name, maxFile)
}
