package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// A light load: it shows pauses without making them.
const (
	lightSenders  = 8
	lightSessions = 8
	lightPause    = 20 * time.Millisecond
)

const (
	// killRest is how long a killed server stays away: longer than the others
	// may need to take over.
	killRest = 6 * time.Second
	// calm is between a server's return and the next fault.
	calm = 2 * time.Second
	// syncPatience is how long a server may need to catch up.
	syncPatience = 2 * time.Minute
)

// failoverRows moves databases and kills servers under a light load and
// measures how long clients of the other servers waited.
func failoverRows(ctx context.Context, o options, s system, r *results) error {
	h := load.NewHistory()
	stop := load.Crowd{Target: s.target, History: h, Senders: lightSenders, Sessions: lightSessions, Sizes: load.Size4K,
		Pause: lightPause, SendPause: lightPause}.Start(ctx)
	moves, err := allMoves(ctx, o, s)
	var kills []load.Fault
	if err == nil {
		kills, err = allKills(ctx, o, s)
	}
	stop()
	for _, k := range []struct {
		kind   string
		faults []load.Fault
	}{{"move", moves}, {"kill -9", kills}} {
		if len(k.faults) == 0 {
			continue
		}
		fmt.Println()
		sum := load.PrintPauses(os.Stdout, h, k.faults)
		r.Pauses = append(r.Pauses, pauses{Kind: k.kind, Faults: len(k.faults), Clients: sum.Clients, Median: sum.Median,
			P95: sum.P95, Worst: sum.Worst, Failed: troubles(h, k.faults)})
	}
	if err == nil {
		err = ctx.Err()
	}
	return err
}

func allMoves(ctx context.Context, o options, s system) (out []load.Fault, err error) {
	if err := load.Rest(ctx, calm); err != nil {
		return nil, err
	}
	for i := range o.moves {
		f, err := s.lab.Move(ctx, i)
		if err != nil {
			return out, err
		}
		out = append(out, f)
		if (i+1)%5 == 0 {
			fmt.Printf("  %d of %d moves\n", i+1, o.moves)
		}
	}
	return out, nil
}

// allKills kills the server with the most active databases, again and again.
func allKills(ctx context.Context, o options, s system) (out []load.Fault, err error) {
	for i := range o.kills {
		server, held, err := s.lab.MostActive(ctx)
		if err != nil {
			return out, err
		}
		s.target.SetDown(server, true)
		f := load.Fault{At: time.Now(), Kind: "kill -9", Server: server, What: held}
		if n := len(out); n > 0 {
			out[n-1].EndBefore(f.At)
		}
		out = append(out, f)
		if err := s.lab.Order(ctx, "kill", server); err != nil {
			return out, err
		}
		if err := load.Rest(ctx, killRest); err != nil {
			return out, err
		}
		begun := time.Now()
		if err := s.lab.Order(ctx, "start", server, "--wait"); err != nil {
			return out, err
		}
		s.target.SetDown(server, false)
		if err := s.lab.InSync(ctx, s.copies, syncPatience); err != nil {
			return out, fmt.Errorf("%s is not in sync again: %w", server, err)
		}
		fmt.Printf("  %d of %d: %s with %s killed; back and in sync %s after its start\n", i+1, o.kills, server, held, time.Since(begun).Round(100*time.Millisecond))
		if err := load.Rest(ctx, calm); err != nil {
			return out, err
		}
	}
	return out, nil
}

// troubles counts what clients of servers that stayed did not like while the
// faults lasted.
func troubles(h *load.History, faults []load.Fault) int {
	n := 0
	for _, t := range h.Troubles() {
		for i, f := range faults {
			end := f.Until
			if end.IsZero() {
				end = f.At.Add(15 * time.Second)
			}
			if i+1 < len(faults) && faults[i+1].At.Before(end) {
				end = faults[i+1].At
			}
			if !t.At.Before(f.At) && t.At.Before(end) && t.Server != f.Server {
				n++
				break
			}
		}
	}
	return n
}
