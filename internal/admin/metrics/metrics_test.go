package metrics

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestDescribe would notice if the library printed descriptions in another way.
func TestDescribe(t *testing.T) {
	for _, c := range []struct {
		c    prometheus.Collector
		want Metric
	}{
		{prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_a_total", Help: `A "quoted" help.`}), Metric{Name: "postern_a_total", Help: `A "quoted" help.`}},
		{prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "postern_b", Help: "b", ConstLabels: prometheus.Labels{"k": "v"}}, []string{"x", "y"}),
			Metric{"postern_b", "b", []string{"x", "y"}}},
		{prometheus.NewHistogram(prometheus.HistogramOpts{Name: "postern_c", Help: "c, {d}"}), Metric{Name: "postern_c", Help: "c, {d}"}},
	} {
		got, err := Describe(c.c)
		if err != nil || len(got) != 1 || got[0].Name != c.want.Name || got[0].Help != c.want.Help || !slices.Equal(got[0].Labels, c.want.Labels) {
			t.Errorf("%+v, %v; want %+v", got, err, c.want)
		}
	}
}

func TestRegistryRefuses(t *testing.T) {
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []prometheus.CounterOpts{{Name: "postern_x_total"}, {Name: "other_total", Help: "h"}, {Name: "postern_X", Help: "h"}} {
		if err := r.Register(prometheus.NewCounter(o)); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
	good := prometheus.NewCounter(prometheus.CounterOpts{Name: "postern_room_things_total", Help: "Things | all."})
	if err := r.RegisterAll(good); err != nil {
		t.Fatal(err)
	}
	if err := r.Register(good); err == nil {
		t.Error("taken twice")
	}
	if page := r.Markdown(); !strings.Contains(page, "| `postern_room_things_total` |  | Things \\| all. |") {
		t.Errorf("%s", page)
	}
	if !r.Unregister(good) || len(r.List()) != 1 {
		t.Error("not taken away, or its description is gone")
	}
}

func TestServer(t *testing.T) {
	r, err := New()
	if err != nil {
		t.Fatal(err)
	}
	r.MustRegister(prometheus.NewGauge(prometheus.GaugeOpts{Name: "postern_room_size", Help: "Size."}))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var ready atomic.Bool
	s := &Server{Listener: l, Registry: r, Log: slog.New(slog.DiscardHandler), Ready: func() error {
		if !ready.Load() {
			return errors.New("no quorum yet")
		}
		return nil
	}}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	get := func(path string) (int, string) {
		res, err := c.Get("http://" + l.Addr().String() + path)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(b)
	}
	if code, body := get("/metrics"); code != 200 || !strings.Contains(body, "postern_room_size 0") || !strings.Contains(body, "go_goroutines") {
		t.Errorf("metrics %d %s", code, body)
	}
	if code, body := get("/readyz"); code != 503 || body != "no quorum yet\n" {
		t.Errorf("readyz %d %s", code, body)
	}
	ready.Store(true)
	for _, path := range []string{"/readyz", "/healthz"} {
		if code, _ := get(path); code != 200 {
			t.Errorf("%s %d", path, code)
		}
	}
	if code, _ := get("/debug/pprof/"); code != 404 {
		t.Errorf("profiles are open: %d", code)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
