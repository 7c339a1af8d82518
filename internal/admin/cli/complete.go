package cli

import (
	"context"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/internal/base/command"
)

// completeTime bounds the question to the server while somebody waits at a
// half typed line.
const completeTime = 2 * time.Second

// listedBy tells which command lists the values of a type; a tag complete
// says it for others.
var listedBy = map[string]string{
	"org.ServerName": "server list", "org.DatabaseName": "database list", "org.SiteName": "site list", "org.OrganizationID": "organization list",
}

func (e *entry) completeArg(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	i := len(args)
	if len(e.args) > 0 && i >= len(e.args) && isList(e.args[len(e.args)-1]) {
		i = len(e.args) - 1
	}
	if i >= len(e.args) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return e.p.candidates(cmd.Context(), e.args[i])
}

func (e *entry) completeFlag(f command.Field) cobra.CompletionFunc {
	return func(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
		return e.p.candidates(cmd.Context(), f)
	}
}

// candidates are the values that a parameter may have. Errors give none:
// there is no place to tell about them.
func (p *program) candidates(ctx context.Context, f command.Field) ([]string, cobra.ShellCompDirective) {
	if isBytes(f) {
		return nil, cobra.ShellCompDirectiveDefault
	}
	if len(f.Enum) > 0 {
		return f.Enum, cobra.ShellCompDirectiveNoFileComp
	}
	c, ok := p.lister(f)
	if !ok || f.Secret {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if ctx == nil {
		return nil, cobra.ShellCompDirectiveError
	}
	ctx, cancel := context.WithTimeout(ctx, completeTime)
	defer cancel()
	cl, err := p.client(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	defer cl.close()
	raw, err := cl.call(ctx, c, nil, nil, func(string) {})
	if err != nil {
		return nil, cobra.ShellCompDirectiveError
	}
	return firstColumn(c.Out, raw), cobra.ShellCompDirectiveNoFileComp
}

// lister finds the command that lists the values of f.
func (p *program) lister(f command.Field) (command.Command, bool) {
	t := f.Type
	if isList(f) {
		t = t.Elem()
	}
	name := f.Complete
	if name == "" {
		name = listedBy[t.String()]
	}
	if name == "" {
		name = f.Name + " list"
	}
	i := slices.IndexFunc(p.table, func(c command.Command) bool { return c.Name() == name })
	if i < 0 || p.table[i].Changes || p.table[i].Stream {
		return command.Command{}, false
	}
	params, err := command.ParamsOf(p.table[i].In)
	if err != nil || slices.ContainsFunc(params.Fields(), func(f command.Field) bool { return f.Required }) {
		return command.Command{}, false
	}
	return p.table[i], true
}

// firstColumn takes the names out of a list.
func firstColumn(t reflect.Type, raw json.RawMessage) []string {
	v := reflect.New(t)
	if t.Kind() != reflect.Slice || json.Unmarshal(raw, v.Interface()) != nil {
		return nil
	}
	row := rowsOf(t)
	if row == nil || len(columns(row)) == 0 {
		return nil
	}
	var out []string
	for i := range v.Elem().Len() {
		one := reflect.Indirect(v.Elem().Index(i))
		if !one.IsValid() {
			continue
		}
		if fv, err := one.FieldByIndexErr(columns(row)[0].index); err == nil && !strings.ContainsAny(cellText(fv), " \t") {
			out = append(out, cellText(fv))
		}
	}
	return out
}
