package node

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/event"
)

// TestExchangeTable reads docs/exchange-ha.md: every command it names is in the
// table, every flag belongs to a command of its row, every setting and event is
// there, every test is in the tree, and a row without a test says "no" or "not
// built yet", which no row with a test says. No command of availability is missing.
func TestExchangeTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/exchange-ha.md")
	if err != nil {
		t.Fatal(err)
	}
	commands, flags := namedCommands(t)
	settings := settingNames(t)
	missing := availability(commands)
	setting := regexp.MustCompile(`\b(?:mailbox|active|cluster|transport|dns|smtp|imap|tls|health|admin|metrics)\.[a-z_]+\b`)
	flag := regexp.MustCompile(`--([a-z][a-z-]+)`)
	number := regexp.MustCompile(`\bevents? (\d{4})(?:(?:,| and| to) (\d{4}))*`)
	order := regexp.MustCompile("`postern ([a-z -]+)`")
	named := regexp.MustCompile("`([a-z0-9/]+)\\.((?:Test|Fuzz|Benchmark)[A-Za-z0-9]+)`")
	tests := map[string]string{}
	rows := 0
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| Exchange | Postern") {
			continue
		}
		rows++
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), " | ")
		if len(cells) != 3 {
			t.Errorf("%d cells: %s", len(cells), line)
			continue
		}
		known := map[string]bool{}
		for _, m := range order.FindAllStringSubmatch(cells[1], -1) {
			if !commands[m[1]] {
				t.Errorf("there is no command %q: %s", m[1], line)
			}
			delete(missing, m[1])
			maps.Copy(known, flags[m[1]])
		}
		for _, m := range flag.FindAllStringSubmatch(cells[1], -1) {
			if !known[m[1]] {
				t.Errorf("no command of the row has --%s: %s", m[1], line)
			}
		}
		for _, name := range setting.FindAllString(cells[1], -1) {
			if !settings[name] {
				t.Errorf("there is no setting %s: %s", name, line)
			}
		}
		for _, m := range number.FindAllString(cells[1], -1) {
			for _, digits := range regexp.MustCompile(`\d{4}`).FindAllString(m, -1) {
				code, _ := strconv.Atoi(digits)
				if _, ok := event.Find(code); !ok {
					t.Errorf("there is no event %d: %s", code, line)
				}
			}
		}
		shown := named.FindAllStringSubmatch(cells[2], -1)
		said := strings.ToLower(cells[1])
		if len(shown) == 0 && !strings.HasPrefix(strings.TrimSpace(said), "no") && !strings.Contains(said, "not built yet") {
			t.Errorf("nothing shows %s", line)
		}
		if len(shown) > 0 && strings.Contains(said, "not built yet") {
			t.Errorf("is it built or not: %s", line)
		}
		for _, m := range shown {
			if _, ok := tests[m[1]]; !ok {
				tests[m[1]] = testsOf(t, m[1])
			}
			if !strings.Contains(tests[m[1]], "\nfunc "+m[2]+"(") {
				t.Errorf("there is no test %s in %s", m[2], m[1])
			}
		}
	}
	if rows < 200 {
		t.Errorf("only %d rows were read", rows)
	}
	for name := range missing {
		t.Errorf("no row names postern %s", name)
	}
}

// namedCommands are the commands there are, and the flags of each.
func namedCommands(t *testing.T) (names map[string]bool, flags map[string]map[string]bool) {
	names = map[string]bool{"serve": true, "init": true, "join": true, "witness": true, "dns serve": true, "cluster restore": true}
	flags = map[string]map[string]bool{"join": {"replace": true}, "witness": {"alternate": true}}
	for _, c := range Commands(Rooms{}) {
		names[c.Name()], flags[c.Name()] = true, map[string]bool{}
		p, err := command.ParamsOf(c.In)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range p.Fields() {
			if f.Arg == 0 {
				flags[c.Name()][strings.ReplaceAll(f.Name, "_", "-")] = true
			}
		}
	}
	return names, flags
}

// availability are the commands that the page has to name.
func availability(commands map[string]bool) map[string]bool {
	out := map[string]bool{}
	for name := range commands {
		noun, _, _ := strings.Cut(name, " ")
		if slices.Contains([]string{"active", "alert", "component", "copy", "drill", "health", "network", "plan", "reseed", "safetynet", "site", "upgrade", "volume"}, noun) {
			out[name] = true
		}
	}
	return out
}

// settingNames are the settings of postern.toml as section.name, from the page
// that another test keeps current.
func settingNames(t *testing.T) map[string]bool {
	page, err := os.ReadFile("../../docs/settings.md")
	if err != nil {
		t.Fatal(err)
	}
	out, section := map[string]bool{}, ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimSpace(strings.TrimPrefix(line, "#"))
		if strings.HasPrefix(line, "[") {
			section = strings.Trim(line, "[]")
		} else if name, _, ok := strings.Cut(line, " = "); ok {
			out[section+"."+name] = true
		}
	}
	return out
}

// testsOf is the source of all tests of a package below internal or test.
func testsOf(t *testing.T, pkg string) string {
	var all strings.Builder
	for _, root := range []string{"../../internal", "../../test"} {
		files, err := filepath.Glob(filepath.Join(root, pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			b, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			all.Write(b)
		}
	}
	return all.String()
}
