package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/postern-mail/postern/test/load"
)

// figures are everything that was measured.
type figures struct {
	Begun      time.Time     `json:"begun"`
	Took       time.Duration `json:"took_ns"`
	Machine    string        `json:"machine"`
	Disk       disk          `json:"disk"`
	Postern    *results      `json:"postern"`
	Peer       *results      `json:"peer,omitempty"`
	Aims       []aim         `json:"aims"`
	Incomplete string        `json:"incomplete,omitempty"` // what went wrong
}

func (f figures) print(w io.Writer) { fmt.Fprintln(w, f.Machine) }

// machine describes what all of it ran on.
func machine() string {
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		kernel = unix.ByteSliceToString(u.Release[:])
	}
	return fmt.Sprintf("%d processors, Linux %s, %s", runtime.NumCPU(), kernel, runtime.Version())
}

// write puts all figures into a file.
func (f figures) write(path string) error {
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(b, '\n'), 0o644)
}

// results are all rows of one system.
type results struct {
	System string   `json:"system"`
	Rows   []row    `json:"rows"`
	Memory []memory `json:"memory"`
	Pauses []pauses `json:"pauses,omitempty"`
	// Loopback is what one connection on this machine carries, in bytes per second.
	Loopback float64 `json:"loopback_bytes_per_s,omitempty"`
}

// row is one measurement.
type row struct {
	Group string `json:"group"`
	Name  string `json:"name"`
	// Family joins rows that differ in Scale only: their growth is shown.
	Family string `json:"family,omitempty"`
	Scale  int    `json:"scale,omitempty"`

	Rate    float64       `json:"rate"`              // per second at the 250 or OK
	Visible float64       `json:"visible,omitempty"` // per second until visible by IMAP, SMTP only
	P50     time.Duration `json:"p50_ns"`
	P95     time.Duration `json:"p95_ns"`
	P99     time.Duration `json:"p99_ns"`
	CPU     time.Duration `json:"cpu_ns"`                // per message or operation, all servers
	Bytes   float64       `json:"bytes_per_s,omitempty"` // SMTP only: of messages accepted
	Syncs   float64       `json:"syncs,omitempty"`       // per message and copy, where counted
	Count   int           `json:"count"`
	Errors  int           `json:"errors,omitempty"`
}

// memory is what processes hold at one point.
type memory struct {
	Name string `json:"name"`
	// Per, where it is not 0: the figures are the growth since the first idle moment
	// divided by it.
	Per     int     `json:"per,omitempty"`
	Servers []int64 `json:"servers"`        // bytes of each server, shared pages in proportion
	Heap    []int64 `json:"heap,omitempty"` // bytes of each server's live objects, where known
}

func (m memory) total() int64 { return sum(m.Servers) }

func sum(list []int64) int64 {
	var n int64
	for _, x := range list {
		n += x
	}
	return n
}

// each is what one of so many things costs when a system grew from before to m.
func (m memory) each(name string, before memory, n int) memory {
	out := memory{Name: name, Per: n}
	less := func(a, b []int64) (d []int64) {
		for i := range min(len(a), len(b)) {
			d = append(d, (a[i]-b[i])/int64(max(n, 1)))
		}
		return d
	}
	out.Servers, out.Heap = less(m.Servers, before.Servers), less(m.Heap, before.Heap)
	return out
}

// pauses are how long clients waited around all faults of a kind.
type pauses struct {
	Kind    string        `json:"kind"`
	Faults  int           `json:"faults"`
	Clients int           `json:"clients"` // measured pauses: clients of survivors, over all faults
	Median  time.Duration `json:"median_ns"`
	P95     time.Duration `json:"p95_ns"`
	Worst   time.Duration `json:"worst_ns"`
	Failed  int           `json:"failed"` // answers NO and connections lost at survivors
}

func (r *results) find(name string) (row, bool) {
	if r == nil {
		return row{}, false
	}
	i := slices.IndexFunc(r.Rows, func(x row) bool { return x.Name == name })
	if i < 0 {
		return row{}, false
	}
	return r.Rows[i], true
}

// add keeps a row and shows it.
func (r *results) add(x row) {
	r.Rows = append(r.Rows, x)
	x.print(os.Stdout)
}

// keep keeps a figure of memory and shows it.
func (r *results) keep(m memory) {
	r.Memory = append(r.Memory, m)
	fmt.Printf("  %-44s %s together, each %s\n", m.Name, size(m.total()), sizes(m.Servers))
}

// fill computes rate, quantiles and processor time.
func (x *row) fill(lat []time.Duration, took, cpu time.Duration, n int) {
	x.Count = n
	x.Rate = float64(n) / took.Seconds()
	x.P50, x.P95, x.P99 = load.Quantile(lat, 0.5), load.Quantile(lat, 0.95), load.Quantile(lat, 0.99)
	x.CPU = cpu / time.Duration(max(n, 1))
}
