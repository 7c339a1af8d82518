package node

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Where code names an action of the recovery log that no responder does.
var actionNames = []*regexp.Regexp{
	regexp.MustCompile(`(?m)^\s*act[A-Z]\w*\s*= "([A-Z]\w+)"`),
	regexp.MustCompile(`\.note\("([A-Z]\w+)"`),
	regexp.MustCompile(`\bAction: "([A-Za-z]+)"`),
}

// TestEveryActionIsInTheTable: docs/operating.md lists what Postern does by itself.
// What code writes into the recovery log is in that table, and the table names
// nothing that no code does.
func TestEveryActionIsInTheTable(t *testing.T) {
	raw, err := os.ReadFile("../../docs/operating.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(raw), "\n### What Postern does by itself\n")
	table, _, _ = strings.Cut(table, "Not in the log, as")
	if !found || !strings.Contains(table, "| Event |") {
		t.Fatal("docs/operating.md has no such table")
	}
	code, done := "", map[string]bool{}
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if !strings.Contains(string(b), "org.Recovery") && !strings.Contains(string(b), "org.Note") && !strings.Contains(string(b), ".note(") && !strings.Contains(string(b), "Action ") {
			return nil
		}
		code += string(b)
		for _, r := range actionNames {
			for _, m := range r.FindAllStringSubmatch(string(b), -1) {
				done[m[1]] = true
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range done {
		if !strings.Contains(table, "`"+name+"`") {
			t.Errorf("%s is written into the recovery log and not in the table of docs/operating.md", name)
		}
	}
	named := 0
	for _, row := range strings.Split(table, "\n") {
		cells := strings.Split(row, "|")
		if len(cells) < 5 {
			continue
		}
		for _, m := range regexp.MustCompile("`([A-Z]\\w+)`").FindAllStringSubmatch(cells[2], -1) {
			named++
			if !strings.Contains(code, `"`+m[1]+`"`) {
				t.Errorf("the table names %s, which no code does", m[1])
			}
		}
	}
	if len(done) < 20 || named < 25 {
		t.Errorf("only %d actions in code, %d in the table: the test does not see them", len(done), named)
	}
}
