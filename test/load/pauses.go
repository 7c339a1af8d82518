package load

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Fault is something that was done to a server.
type Fault struct {
	At     time.Time
	Until  time.Time // end of the time that counts for it; zero: window after At
	Kind   string    // "kill", "pause", "partition", "move"
	Server string    // whose clients are not survivors; empty where all are
	What   string    // for the table: the databases and roles it had
}

// window is how long after a fault its pauses are looked for.
const window = 15 * time.Second

func (f Fault) end() time.Time {
	if f.Until.IsZero() {
		return f.At.Add(window)
	}
	return f.Until
}

// EndBefore cuts the time that counts for the fault.
func (f *Fault) EndBefore(t time.Time) {
	if f.end().After(t) {
		f.Until = t
	}
}

// Pause is the longest that one client waited for a success around one fault:
// from the first try of a step to its success, new connections included. What
// a client waits by its own will (between steps, in IDLE) does not count.
type Pause struct {
	Client string
	Length time.Duration
}

// Pauses are those of the clients that were not at the fault's server, worst
// first. A client that had no success before or after does not count; if it is
// stuck, the checker and the table of troubles tell.
func (h *History) Pauses(f Fault, prefix string) []Pause {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []Pause
	for name, list := range h.clients {
		if !strings.HasPrefix(name, prefix) || (f.Server != "" && h.wasAt(name, f.Server, f.At, f.end())) {
			continue
		}
		if d, ok := longest(list, f.At, f.end()); ok {
			out = append(out, Pause{name, d})
		}
	}
	slices.SortFunc(out, func(a, b Pause) int { return int(b.Length - a.Length) })
	return out
}

// wasAt tells whether a client worked with a server at any time in [from, to].
func (h *History) wasAt(client, server string, from, to time.Time) bool {
	stays := h.servers[client]
	for i, s := range stays {
		end := to
		if i+1 < len(stays) {
			end = stays[i+1].from
		}
		if s.server == server && s.from.Before(to) && !end.Before(from) {
			return true
		}
	}
	return false
}

// longest is the longest step, first try to success, that was under way at
// any time in [from, to].
func longest(list []Success, from, to time.Time) (time.Duration, bool) {
	i, _ := slices.BinarySearchFunc(list, from, func(s Success, t time.Time) int { return s.At.Compare(t) })
	if i == 0 || i == len(list) {
		return 0, false // began later, or ended before
	}
	var most time.Duration
	for ; i < len(list); i++ {
		begun := list[i].At.Add(-list[i].Latency)
		if begun.After(to) {
			break
		}
		if end := list[i].At; end.After(to) {
			// What lies beyond belongs to the next fault, which may have
			// taken this client's own server away.
			most = max(most, to.Sub(begun))
		} else {
			most = max(most, list[i].Latency)
		}
	}
	return most, true
}

// Quantile of durations, q in [0, 1]. The list is sorted on return.
func Quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return d[min(len(d)-1, int(q*float64(len(d))))]
}

// PauseSummary is over all clients and faults of a kind.
type PauseSummary struct {
	Median, P95, Worst time.Duration
	Clients            int
}

// Summarize joins pauses.
func Summarize(all []Pause) PauseSummary {
	d := make([]time.Duration, len(all))
	for i, p := range all {
		d[i] = p.Length
	}
	return PauseSummary{Median: Quantile(d, 0.5), P95: Quantile(d, 0.95), Worst: Quantile(d, 1), Clients: len(d)}
}

// PrintPauses writes the table of faults and returns the summary of all.
func PrintPauses(w io.Writer, h *History, faults []Fault) PauseSummary {
	tw := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(tw, "ROUND\tFAULT\tSERVER\tHELD\tCLIENTS\tMEDIAN\tP95\tWORST\tWHOSE")
	var all []Pause
	for i, f := range faults {
		p := h.Pauses(f, "")
		all = append(all, p...)
		s := Summarize(p)
		whose := ""
		if len(p) > 0 {
			whose = p[0].Client
		}
		fmt.Fprintf(tw, "%d\t%s\t%s\t%s\t%d\t%s\t%s\t%s\t%s\n", i+1, f.Kind, f.Server, f.What, s.Clients,
			ms(s.Median), ms(s.P95), ms(s.Worst), whose)
	}
	s := Summarize(all)
	fmt.Fprintf(tw, "all\t\t\t\t%d\t%s\t%s\t%s\t\n", s.Clients, ms(s.Median), ms(s.P95), ms(s.Worst))
	_ = tw.Flush() // to a terminal or a test's buffer
	return s
}

func ms(d time.Duration) string { return fmt.Sprintf("%d ms", d.Milliseconds()) }
