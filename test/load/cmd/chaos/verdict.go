package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// summary prints what was done and how long clients waited.
func (g *game) summary(took time.Duration) {
	confirmed, refused, unknown := g.history.Messages()
	fmt.Printf("\n%s of load: %d messages confirmed, %d refused, %d without an answer\n", took.Round(time.Second), confirmed, refused, unknown)
	counts := g.history.Counts()
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		fmt.Printf("  %-12s %d\n", what, counts[what])
	}
	fmt.Println("\nlongest time without service of clients of the other servers:")
	var kills, moves []load.Fault
	for _, f := range g.faults {
		if f.Kind == "move" {
			moves = append(moves, f)
		} else {
			kills = append(kills, f)
		}
	}
	s := load.PrintPauses(os.Stdout, g.history, kills)
	if g.opt.median > 0 && s.Median > g.opt.median {
		g.broke("median pause %s is over %s", s.Median, g.opt.median)
	}
	if g.opt.worst > 0 && s.Worst > g.opt.worst {
		g.broke("worst pause %s is over %s", s.Worst, g.opt.worst)
	}
	if len(moves) > 0 {
		fmt.Println("\nplanned moves:")
		load.PrintPauses(os.Stdout, g.history, moves)
	}
	g.troubles()
}

// troubles counts what clients did not like, apart by whether a fault excuses it.
func (g *game) troubles() {
	bad, excused := map[string]int{}, map[string]int{}
	var first []string
	for _, t := range g.history.Troubles() {
		key := string(t.Kind)
		if g.excused(t) {
			excused[key]++
			continue
		}
		bad[key]++
		if len(first) < 15 {
			first = append(first, fmt.Sprintf("%s %s at %s: %s: %s", t.At.Format("15:04:05.000"), t.Client, t.Server, t.Kind, t.Text))
		}
	}
	fmt.Printf("\ntroubles of clients on survivors: %v; at servers that were taken away: %v\n", bad, excused)
	for _, line := range first {
		fmt.Println("  " + line)
	}
	for _, k := range []load.TroubleKind{load.Disconnect, load.FailedNO, load.WrongView, load.NoConnect} {
		if n := bad[string(k)]; n > 0 {
			g.broke("%d times %s on servers that were there", n, k)
		}
	}
}

// excused tells whether the server was away when it happened. A wrong view is
// never excused.
func (g *game) excused(t load.Trouble) bool {
	if t.Kind == load.WrongView {
		return false
	}
	return g.away(t.Server, t.At)
}

// away tells whether a server was taken away at a moment.
func (g *game) away(server string, at time.Time) bool {
	for _, d := range g.down {
		if d.server == server && !at.Before(d.from.Add(-time.Second)) && !at.After(d.to.Add(time.Second)) {
			return true
		}
	}
	return false
}

// verdict reads everything back.
func (g *game) verdict(ctx context.Context) error {
	fmt.Println("\nreading all mailboxes back")
	r, err := load.CheckAll(g.target, g.history, g.outside(ctx))
	if err != nil {
		return err
	}
	r.Print(os.Stdout)
	if !r.Good() {
		g.broke("lost %d, doubled %d, damaged %d, wrong %d", len(r.Lost), len(r.Doubled), len(r.Damaged), len(r.Wrong))
	}
	g.verifyQueue(ctx)
	if err := g.lab.Command(ctx, nil, "copy", "verify"); err != nil {
		g.broke("copies are not identical: %v", err)
	} else {
		fmt.Println("all copies are identical (postern copy verify)")
	}
	if len(g.broken) > 0 {
		return fmt.Errorf("%w: %s", errFailed, strings.Join(g.broken, "; "))
	}
	return nil
}
