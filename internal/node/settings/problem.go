package settings

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Problem is one thing wrong with a file.
type Problem struct {
	File   string
	Line   int    // 0 where no line is to blame
	Key    string // dotted path, empty for a syntax error
	Reason string
	Remedy string
}

func (p Problem) String() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": ")
	if p.Key != "" {
		b.WriteString(p.Key + ": ")
	}
	b.WriteString(p.Reason)
	if p.Remedy != "" {
		b.WriteString(" (hint: " + p.Remedy + ")")
	}
	return b.String()
}

// Problems are all things wrong with a file.
type Problems []Problem

// Error has one line per problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// sorted is the problems in the order of the file, nil for none.
func (ps Problems) sorted() error {
	if len(ps) == 0 {
		return nil
	}
	slices.SortStableFunc(ps, func(a, b Problem) int { return cmp.Compare(a.Line, b.Line) })
	return ps
}

// nearest returns the known word closest to what was written, empty when none
// is close enough to be what was meant.
func nearest(word string, known []string) string {
	best, dist := "", 1+len(word)/3
	for _, k := range known {
		if d := distance(word, k, dist); d <= dist && (best == "" || d < dist) {
			best, dist = k, d
		}
	}
	return best
}

// distance is Levenshtein's, given up beyond limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diag, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diag+cost)
		}
	}
	return row[len(b)]
}
