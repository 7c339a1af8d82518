package internal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// floors is the house from the ground up (docs/architecture.md). A package
// may import packages of lower floors and of its own room, nothing else.
var floors = [][]string{
	{"org"},
	{"mail"},
	{"base", "sizing"},
	{"cluster", "health", "notify"},
	{"directory", "mailbox", "archive"},
	{"transport"},
	{"active", "continuity", "addressbook", "migrate"},
	{"access", "admin"},
	{"node", "lab"},
	{"sim"},
}

const module = "github.com/postern-mail/postern/internal/"

// open rooms have no front door: each of their packages is one.
var open = map[string]bool{"base": true, "access": true, "admin": true}

func floorOf(room string) int {
	for i, rooms := range floors {
		for _, r := range rooms {
			if r == room {
				return i
			}
		}
	}
	return -1
}

// TestFloors holds the three rules of the house: imports go to lower floors
// only, rooms of one floor do not know each other, and a package inside a room
// is private to it. It parses the files itself, so it cannot pass from a cache
// of somebody else's work.
func TestFloors(t *testing.T) {
	files := 0
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, ".go") || filepath.Dir(path) == "." {
			return err
		}
		files++
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		room, _, _ := strings.Cut(filepath.ToSlash(path), "/")
		if bad := misplaced(room, importsOf(f.Imports)); bad != "" {
			t.Errorf("%s: %s", path, bad)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 5 {
		t.Fatalf("only %d files parsed: the test does not see the house", files)
	}
}

// misplaced says which rule an import of a file in room breaks, empty for none.
func misplaced(room string, imports []string) string {
	mine := floorOf(room)
	if mine < 0 {
		return "room " + room + " is on no floor"
	}
	for _, imp := range imports {
		rest, inside := strings.CutPrefix(imp, module)
		if !inside {
			continue
		}
		other, inner, _ := strings.Cut(rest, "/")
		theirs := floorOf(other)
		switch {
		case other == room:
		case theirs < 0:
			return imp + " is on no floor"
		case theirs >= mine:
			return imp + " is not on a lower floor"
		case inner != "" && !open[other]:
			return imp + " is private to its room"
		}
	}
	return ""
}

func importsOf(specs []*ast.ImportSpec) []string {
	var out []string
	for _, s := range specs {
		p, _ := strconv.Unquote(s.Path.Value)
		out = append(out, p)
	}
	return out
}

// TestFloorsRefuse shows that the rules can fail.
func TestFloorsRefuse(t *testing.T) {
	for _, c := range []struct{ room, imp string }{
		{"mailbox", "active"},
		{"mailbox", "directory"},
		{"mail", "base/kind"},
		{"active", "mailbox/journal"},
		{"nowhere", "mail"},
		{"node", "attic"},
	} {
		if misplaced(c.room, []string{module + c.imp}) == "" {
			t.Errorf("%s may import %s", c.room, c.imp)
		}
	}
	if bad := misplaced("mailbox", []string{module + "mailbox/journal", module + "cluster", module + "base/fsx"}); bad != "" {
		t.Error(bad)
	}
}
