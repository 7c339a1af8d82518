package node

import (
	"fmt"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/command"
)

// TestExamples reads the example of each command, and each command line that the
// pages for administrators show, as the command line would: there is such a
// command, it has these flags and arguments, and it takes their values.
func TestExamples(t *testing.T) {
	// What people need when something is wrong has an example each.
	shown := strings.Fields("reseed volume copy network notify alert site drill upgrade plan")
	table := map[string]command.Command{}
	for _, c := range Commands(Rooms{}) {
		table[c.Name()] = c
		if c.Example == "" && slices.Contains(shown, c.Noun) {
			t.Errorf("postern %s has no example", c.Name())
		}
		for line := range strings.Lines(c.Example) {
			if err := understand(table, c.Name(), strings.TrimSpace(line)); err != nil {
				t.Errorf("example of postern %s: %v", c.Name(), err)
			}
		}
	}
	for page, least := range map[string]int{"../../docs/operating.md": 110, "../../README.md": 5} {
		lines := shownCommands(t, page)
		if len(lines) < least {
			t.Errorf("%s: only %d commands were read", page, len(lines))
		}
		for _, line := range lines {
			if err := understand(table, "", line); err != nil {
				t.Errorf("%s: %s: %v", page, line, err)
			}
		}
	}
}

// shownCommands are the command lines in the code blocks of a page, without
// brackets, the prompt, all but the first of several words, and what follows #.
func shownCommands(t *testing.T, page string) []string {
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	optional, choice := regexp.MustCompile(`\[([^\[\]]*)\]`), regexp.MustCompile(`\|[^ ]+`)
	var out []string
	inside := false
	for line := range strings.Lines(string(text)) {
		line = strings.TrimPrefix(strings.TrimSpace(line), "$ ")
		if strings.HasPrefix(line, "```") {
			inside = !inside
		}
		line = strings.Replace(line, "bin/postern --lab lab ", "postern ", 1)
		if !inside || !strings.HasPrefix(line, "postern ") || strings.Contains(line, "...") {
			continue
		}
		line, _, _ = strings.Cut(line, " #")
		out = append(out, choice.ReplaceAllString(optional.ReplaceAllString(line, "$1"), ""))
	}
	return out
}

// understand reads one command line; of is the command it has to be, empty for any.
func understand(table map[string]command.Command, of, line string) error {
	words, err := shellWords(line)
	if err != nil || len(words) < 2 || words[0] != "postern" {
		return fmt.Errorf("%q is no command line: %v", line, err)
	}
	words = words[1:]
	// What does not come from the table: the program's own commands and flags.
	if slices.Contains([]string{"serve", "init", "join", "witness", "config", "lab"}, words[0]) || strings.HasPrefix(words[0], "--") {
		return nil
	}
	name := ""
	for n := min(3, len(words)); n > 0 && name == ""; n-- {
		if _, ok := table[strings.Join(words[:n], " ")]; ok {
			name, words = strings.Join(words[:n], " "), words[n:]
		}
	}
	if name == "" || of != "" && name != of {
		if own := strings.Join(words[:min(2, len(words))], " "); of == "" && (own == "cluster restore" || own == "dns serve") {
			return nil
		}
		return fmt.Errorf("there is no such command")
	}
	p, err := command.ParamsOf(table[name].In)
	if err != nil {
		return err
	}
	values, err := given(p, words)
	if err != nil {
		return err
	}
	_, err = p.FromValues(values)
	return err
}

// given sorts words into parameters.
func given(p *command.Params, words []string) (url.Values, error) {
	args, flags, values := map[int]command.Field{}, map[string]command.Field{}, url.Values{}
	for _, f := range p.Fields() {
		if f.Arg > 0 {
			args[f.Arg] = f
			continue
		}
		flags[f.Flag()] = f
	}
	at := 0
	for i := 0; i < len(words); i++ {
		flag, isFlag := strings.CutPrefix(words[i], "--")
		if !isFlag {
			at++
			f, ok := args[at]
			if last, more := args[len(args)]; !ok && more && last.Type.Kind() == reflect.Slice {
				f, ok = last, true
			}
			if !ok {
				return nil, fmt.Errorf("%q is too much", words[i])
			}
			values.Add(f.Name, words[i])
			continue
		}
		flag, value, has := strings.Cut(flag, "=")
		if slices.Contains([]string{"json", "yes", "quiet"}, flag) {
			continue
		}
		f, ok := flags[flag]
		if secret, isFile := strings.CutSuffix(flag, "-file"); !ok && isFile && flags[secret].Secret {
			f, ok = flags[secret], true
		}
		if !ok {
			return nil, fmt.Errorf("there is no flag --%s", flag)
		}
		if t := f.Type; !has && (t.Kind() == reflect.Bool || t.Kind() == reflect.Pointer && t.Elem().Kind() == reflect.Bool) {
			value, has = "true", true
		}
		if !has {
			if i++; i == len(words) {
				return nil, fmt.Errorf("--%s needs a value", flag)
			}
			value = words[i]
		}
		values.Add(f.Name, value)
	}
	return values, nil
}

// shellWords splits a line at spaces, but for what stands in quotes.
func shellWords(line string) ([]string, error) {
	var out []string
	var word strings.Builder
	begun, quote := false, rune(0)
	for _, r := range line {
		switch {
		case quote != 0 && r == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(r)
		case r == '\'' || r == '"':
			quote, begun = r, true
		case r == ' ':
			if begun {
				out = append(out, word.String())
			}
			word.Reset()
			begun = false
		default:
			word.WriteRune(r)
			begun = true
		}
	}
	if quote != 0 {
		return nil, fmt.Errorf("a quote does not end")
	}
	if begun {
		out = append(out, word.String())
	}
	return out, nil
}
