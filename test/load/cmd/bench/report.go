package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

func (x row) print(w io.Writer) {
	fmt.Fprintf(w, "  %-44s %8s/s", x.Name, rate(x.Rate))
	if x.Visible > 0 {
		fmt.Fprintf(w, "  visible %s/s", rate(x.Visible))
	}
	fmt.Fprintf(w, "  p50 %s p95 %s p99 %s  cpu %s", short(x.P50), short(x.P95), short(x.P99), short(x.CPU))
	if x.Syncs > 0 {
		fmt.Fprintf(w, "  %.2f syncs per message and copy", x.Syncs)
	}
	if x.Errors > 0 {
		fmt.Fprintf(w, "  %d errors", x.Errors)
	}
	fmt.Fprintln(w)
}

// rate with as many digits as say something.
func rate(r float64) string {
	if r < 10 {
		return fmt.Sprintf("%.2f", r)
	}
	return fmt.Sprintf("%.0f", r)
}

func short(d time.Duration) string {
	switch {
	case d == 0:
		return "-"
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.2f µs", float64(d.Nanoseconds())/1000)
	case d < time.Millisecond:
		return fmt.Sprintf("%d µs", d.Microseconds())
	case d < time.Second:
		return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
	}
	return fmt.Sprintf("%.2f s", d.Seconds())
}

func ratio(a, b float64) string {
	if b == 0 || a == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", a/b)
}

// report prints all tables.
func (f figures) report(w io.Writer) {
	fmt.Fprintf(w, "\n==== figures, after %s\n", f.Took.Round(time.Second))
	f.print(w)
	f.Disk.print(w)
	tw := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	for _, table := range []func(io.Writer){f.rates, f.growth, f.pauses, f.memory, f.aims} {
		table(tw)
		_ = tw.Flush() // to a terminal
	}
	if f.Incomplete != "" {
		fmt.Fprintln(w, "\nNOT COMPLETE:", f.Incomplete)
	}
}

// rates shows both systems side by side, and what the first makes of the disk.
func (f figures) rates(w io.Writer) {
	if len(f.Postern.Rows) == 0 {
		return
	}
	pair := func(a, b time.Duration) string {
		if f.Peer == nil {
			return short(a)
		}
		return short(a) + " : " + short(b)
	}
	fmt.Fprintln(w, "\nROW\tRATE/S\tTHEIRS\tRATIO\tVISIBLE\tP50\tP95\tP99\tCPU EACH\tRATIO\tSYNCS\tOF DISK\tERRORS")
	for _, x := range f.Postern.Rows {
		y, ok := f.Peer.find(x.Name)
		theirs := "-"
		if ok {
			theirs = rate(y.Rate)
		}
		syncs, bad := "", ""
		if x.Syncs > 0 {
			syncs = fmt.Sprintf("%.2f", x.Syncs)
		}
		if x.Errors+y.Errors > 0 {
			bad = fmt.Sprintf("%d : %d", x.Errors, y.Errors)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", x.Name, rate(x.Rate), theirs, ratio(x.Rate, y.Rate),
			ratio(x.Visible, y.Visible), pair(x.P50, y.P50), pair(x.P95, y.P95), pair(x.P99, y.P99), pair(x.CPU, y.CPU),
			ratio(float64(x.CPU), float64(y.CPU)), syncs, ofDisk(x, f.Disk), bad)
	}
	fmt.Fprintln(w, "(ours : theirs, RATIO and VISIBLE are ours divided by theirs; three copies against one. OF DISK: bytes of messages times copies, of what the disk writes alone)")
}

// ofDisk is which part of the disk's bandwidth the copies of accepted
// messages alone are.
func ofDisk(x row, d disk) string {
	if x.Bytes == 0 || d.Bandwidth == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f %%", 300*x.Bytes/d.Bandwidth)
}

// growth shows rows that differ in scale only, next to the first of them.
func (f figures) growth(w io.Writer) {
	head := true
	for _, r := range []*results{f.Postern, f.Peer} {
		if r == nil {
			continue
		}
		families := map[string][]row{}
		var order []string
		for _, x := range r.Rows {
			if x.Family == "" {
				continue
			}
			if families[x.Family] == nil {
				order = append(order, x.Family)
			}
			families[x.Family] = append(families[x.Family], x)
		}
		for _, name := range order {
			list := families[name]
			if len(list) < 2 {
				continue
			}
			if head {
				fmt.Fprintln(w, "\nGROWTH\tSYSTEM\tAT\tRATE/S\tP50\tP99\tCPU EACH\tRATE TO FIRST\tCPU TO FIRST")
				head = false
			}
			for i, x := range list {
				label, system := "", ""
				if i == 0 {
					label, system = name, r.System
				}
				fmt.Fprintf(w, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t%s\n", label, system, x.Scale, rate(x.Rate), short(x.P50), short(x.P99), short(x.CPU),
					ratio(x.Rate, list[0].Rate), ratio(float64(x.CPU), float64(list[0].CPU)))
			}
		}
	}
}

// pauses shows how long clients of survivors waited.
func (f figures) pauses(w io.Writer) {
	if len(f.Postern.Pauses) == 0 {
		return
	}
	fmt.Fprintln(w, "\nPAUSES OF CLIENTS OF SURVIVORS\tTIMES\tCLIENTS\tMEDIAN\tP95\tWORST\tFAILED")
	for _, x := range f.Postern.Pauses {
		fmt.Fprintf(w, "%s\t%d\t%d\t%s\t%s\t%s\t%d\n", x.Kind, x.Faults, x.Clients, short(x.Median), short(x.P95), short(x.Worst), x.Failed)
	}
}

// memory shows what servers hold, together and each.
func (f figures) memory(w io.Writer) {
	head := true
	for _, r := range []*results{f.Postern, f.Peer} {
		if r == nil {
			continue
		}
		for _, m := range r.Memory {
			if head {
				fmt.Fprintln(w, "\nMEMORY\tSYSTEM\tTOGETHER\tEACH SERVER\tLIVE HEAP EACH")
				head = false
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", m.Name, r.System, size(m.total()), sizes(m.Servers), sizes(m.Heap))
		}
	}
}

// aims shows what was wanted.
func (f figures) aims(w io.Writer) {
	if len(f.Aims) == 0 {
		return
	}
	fmt.Fprintln(w, "\nAIM\tWANTED\tMEASURED\t")
	missed := 0
	for _, a := range f.Aims {
		word := "reached"
		if !a.Reached {
			word = "NOT REACHED"
			missed++
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", a.What, a.Want, a.Got, word)
	}
	fmt.Fprintf(w, "%d of %d aims reached\n", len(f.Aims)-missed, len(f.Aims))
}
