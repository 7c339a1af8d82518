package node

import (
	"encoding/json"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is what Grafana imports, as far as it matters here.
type dashboard struct {
	UID    string `json:"uid"`
	Panels []struct {
		ID      int    `json:"id"`
		Title   string `json:"title"`
		Type    string `json:"type"`
		GridPos struct{ X, Y, W, H int }
		Targets []struct {
			Expr string `json:"expr"`
		} `json:"targets"`
	} `json:"panels"`
	Templating struct {
		List []struct {
			Name       string `json:"name"`
			Definition string `json:"definition"`
		} `json:"list"`
	} `json:"templating"`
}

// TestDashboard finds each metric and each label that the dashboard asks for
// among those of the program.
func TestDashboard(t *testing.T) {
	raw, err := os.ReadFile("../../packaging/grafana-transport.json")
	if err != nil {
		t.Fatal(err)
	}
	var d dashboard
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	known := metricLabels(t)
	ids, taken := map[int]bool{}, map[[2]int]string{}
	for _, p := range d.Panels {
		if ids[p.ID] {
			t.Errorf("panel %q: number %d is another's", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := range p.GridPos.W {
			for y := range p.GridPos.H {
				at := [2]int{p.GridPos.X + x, p.GridPos.Y + y}
				if other := taken[at]; other != "" || at[0] >= 24 {
					t.Fatalf("panel %q lies over %q or beyond the edge at %v", p.Title, other, at)
				}
				taken[at] = p.Title
			}
		}
		if p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %q asks nothing", p.Title)
		}
		for _, q := range p.Targets {
			checkQuery(t, p.Title, q.Expr, known)
		}
	}
	for _, v := range d.Templating.List {
		if v.Definition != "" {
			checkQuery(t, "variable "+v.Name, v.Definition, known)
		}
	}
	if d.UID == "" || len(ids) < 10 {
		t.Errorf("the dashboard has uid %q and %d panels", d.UID, len(ids))
	}
}

// metricLabels are the labels of each metric, as docs/metrics.md lists them.
func metricLabels(t *testing.T) map[string][]string {
	t.Helper()
	page, err := metricsPage()
	if err != nil {
		t.Fatal(err)
	}
	known := map[string][]string{}
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z0-9_]+)` \\| ([^|]*) \\|").FindAllStringSubmatch(page, -1) {
		known[m[1]] = words(m[2])
	}
	return known
}

var (
	metricName = regexp.MustCompile(`postern_[a-z0-9_]+`)
	grouping   = regexp.MustCompile(`by \(([^)]*)\)`)
	selector   = regexp.MustCompile(`[{,]\s*([a-z_]+)\s*[=!]`)
	series     = regexp.MustCompile(`_(bucket|sum|count)$`)
)

func checkQuery(t *testing.T, where, expr string, known map[string][]string) {
	t.Helper()
	names := metricName.FindAllString(expr, -1)
	if len(names) == 0 {
		t.Errorf("%s: no metric in %s", where, expr)
	}
	labels := []string{"instance", "job"}
	for _, name := range names {
		of, ok := known[name]
		if base := series.ReplaceAllString(name, ""); !ok && base != name {
			if of, ok = known[base]; ok {
				of = append(slices.Clone(of), "le")
			}
		}
		if !ok {
			t.Errorf("%s: there is no metric %s", where, name)
		}
		labels = append(labels, of...)
	}
	var asked []string
	for _, m := range grouping.FindAllStringSubmatch(expr, -1) {
		asked = append(asked, words(m[1])...)
	}
	for _, m := range selector.FindAllStringSubmatch(expr, -1) {
		asked = append(asked, m[1])
	}
	for _, l := range asked {
		if !slices.Contains(labels, l) {
			t.Errorf("%s: %s has no label %s", where, expr, l)
		}
	}
	if strings.Count(expr, "(") != strings.Count(expr, ")") || strings.Count(expr, "{") != strings.Count(expr, "}") {
		t.Errorf("%s: brackets of %s", where, expr)
	}
}

// words are what commas separate.
func words(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}
