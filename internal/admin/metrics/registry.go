package metrics

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// Metric describes one metric.
type Metric struct {
	Name   string
	Help   string
	Labels []string
}

// Registry takes the collectors of all rooms. It is a prometheus.Registerer
// and a prometheus.Gatherer.
type Registry struct {
	prometheus.Gatherer
	prom *prometheus.Registry

	mu    sync.Mutex // guards known
	known map[string]Metric
}

var _ interface {
	prometheus.Registerer
	prometheus.Gatherer
} = (*Registry)(nil)

// New returns a registry that counts the process and the Go runtime.
func New() (*Registry, error) {
	prom := prometheus.NewRegistry()
	r := &Registry{Gatherer: prom, prom: prom, known: map[string]Metric{}}
	// Both describe themselves well; their names are Prometheus' own.
	for _, c := range []prometheus.Collector{collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{})} {
		if err := r.prom.Register(c); err != nil {
			return nil, err
		}
	}
	return r, nil
}

var nameRE = regexp.MustCompile(`^postern_[a-z][a-z0-9_]*[a-z0-9]$`)

// Register adds a collector. Each of its metrics is named postern_<room>_...
// and has a help text.
func (r *Registry) Register(c prometheus.Collector) error {
	found, err := Describe(c)
	if err != nil {
		return err
	}
	for _, m := range found {
		if !nameRE.MatchString(m.Name) {
			return fmt.Errorf("metric %s: want a name as postern_room_thing", m.Name)
		}
		if m.Help == "" {
			return fmt.Errorf("metric %s: no help", m.Name)
		}
	}
	if err := r.prom.Register(c); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range found {
		r.known[m.Name] = m
	}
	return nil
}

// RegisterAll adds collectors and stops at the first error.
func (r *Registry) RegisterAll(cs ...prometheus.Collector) error {
	for _, c := range cs {
		if err := r.Register(c); err != nil {
			return err
		}
	}
	return nil
}

// MustRegister adds collectors and panics where Register returns an error.
// It is there for libraries that want a prometheus.Registerer.
func (r *Registry) MustRegister(cs ...prometheus.Collector) {
	if err := r.RegisterAll(cs...); err != nil {
		panic(err)
	}
}

// Unregister takes a collector away; its description stays.
func (r *Registry) Unregister(c prometheus.Collector) bool { return r.prom.Unregister(c) }

// List returns what is registered by the program itself, by name.
func (r *Registry) List() []Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]Metric, 0, len(r.known))
	for _, m := range r.known {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b Metric) int { return cmp.Compare(a.Name, b.Name) })
	return out
}

// maxDescribed bounds the metrics of one collector.
const maxDescribed = 10_000

var (
	descRE  = regexp.MustCompile(`^Desc\{fqName: ("(?:[^"\\]|\\.)*"), help: ("(?:[^"\\]|\\.)*"), .*variableLabels: \{(.*)\}\}$`)
	labelRE = regexp.MustCompile(`c\(([^,)]*),[^)]*\)`)
)

// Describe lists the metrics of a collector. The library keeps names private,
// so they are read from its printed form; a test fails if that changes.
func Describe(c prometheus.Collector) ([]Metric, error) {
	ch := make(chan *prometheus.Desc)
	go func() {
		defer close(ch)
		c.Describe(ch)
	}()
	var out []Metric
	var err error
	for d := range ch {
		m, bad := parseDesc(d.String())
		if bad != nil && err == nil {
			err = bad
		}
		if len(out) < maxDescribed {
			out = append(out, m)
		}
	}
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("collector %T describes nothing", c)
	}
	return out, err
}

func parseDesc(s string) (Metric, error) {
	m := descRE.FindStringSubmatch(s)
	if m == nil {
		return Metric{}, fmt.Errorf("metric description %q not understood", s)
	}
	name, err := strconv.Unquote(m[1])
	if err != nil {
		return Metric{}, fmt.Errorf("metric name %s: %w", m[1], err)
	}
	help, err := strconv.Unquote(m[2])
	if err != nil {
		return Metric{}, fmt.Errorf("metric %s: help: %w", name, err)
	}
	labels := labelRE.ReplaceAllString(m[3], "$1")
	return Metric{name, help, strings.FieldsFunc(labels, func(r rune) bool { return r == ',' || r == ' ' })}, nil
}

// Markdown is docs/metrics.md.
func (r *Registry) Markdown() string {
	var b strings.Builder
	b.WriteString("# Metrics\n\nMade from the code by `postern docs`; do not edit. Besides these there are the metrics `go_*` and\n" +
		"`process_*` of the Prometheus client.\n\n| Metric | Labels | Meaning |\n|---|---|---|\n")
	for _, m := range r.List() {
		fmt.Fprintf(&b, "| `%s` | %s | %s |\n", m.Name, strings.Join(m.Labels, ", "), strings.ReplaceAll(m.Help, "|", `\|`))
	}
	return b.String()
}
