package node

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestExchangeTable reads docs/exchange-ha.md: every command it names is in the
// table, every test it names is in the tree, and a row without a test says "no" or
// "not built yet".
func TestExchangeTable(t *testing.T) {
	page, err := os.ReadFile("../../docs/exchange-ha.md")
	if err != nil {
		t.Fatal(err)
	}
	commands := map[string]bool{"serve": true, "init": true, "join": true, "witness": true, "dns serve": true, "cluster restore": true}
	for _, c := range Commands(Rooms{}) {
		commands[c.Name()] = true
	}
	command := regexp.MustCompile("`postern ([a-z -]+)`")
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
		for _, m := range command.FindAllStringSubmatch(cells[1], -1) {
			if !commands[m[1]] {
				t.Errorf("there is no command %q: %s", m[1], line)
			}
		}
		shown := named.FindAllStringSubmatch(cells[2], -1)
		said := strings.ToLower(cells[1])
		if len(shown) == 0 && !strings.HasPrefix(strings.TrimSpace(said), "no") && !strings.Contains(said, "not built yet") {
			t.Errorf("nothing shows %s", line)
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
	if rows < 100 {
		t.Errorf("only %d rows were read", rows)
	}
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
