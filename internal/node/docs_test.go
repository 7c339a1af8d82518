package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestDocsAreCurrent compares what the program says of itself with the pages
// in docs/ and the sample configuration.
func TestDocsAreCurrent(t *testing.T) {
	pages := map[string]func() (string, error){"../../examples/postern.toml": Sample}
	for name, page := range Docs() {
		pages[filepath.Join("../../docs", name)] = page
	}
	for file, page := range pages {
		t.Run(filepath.Base(file), func(t *testing.T) {
			want, err := page()
			if err != nil {
				t.Fatal(err)
			}
			got, err := os.ReadFile(file)
			if err != nil {
				t.Fatalf("%v (hint: make docs sample)", err)
			}
			if string(got) != want {
				t.Errorf("%s does not say what the program does: %s (hint: make docs sample)", file, firstDifference(string(got), want))
			}
		})
	}
}

// firstDifference shows the first line in which two texts differ.
func firstDifference(got, want string) string {
	g, w := strings.Split(got, "\n"), strings.Split(want, "\n")
	for i := range min(len(g), len(w)) {
		if g[i] != w[i] {
			return "it has " + g[i] + ", the program " + w[i]
		}
	}
	return "one of them is longer"
}

// TestMetricsOfAllRooms finds a figure of each room that has some, so that a
// room that is forgotten is found out.
func TestMetricsOfAllRooms(t *testing.T) {
	page, err := metricsPage()
	if err != nil {
		t.Fatal(err)
	}
	for _, prefix := range []string{"mailbox", "smtp", "imap", "admin", "certificate", "cluster", "health", "notify", "transport"} {
		if !strings.Contains(page, "`postern_"+prefix+"_") {
			t.Errorf("no metric postern_%s_...", prefix)
		}
	}
}
