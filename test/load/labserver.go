package load

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/admin/sock"
)

// LabServer is one server of a lab as lab.json tells of it.
type LabServer struct {
	Name    string         `json:"name"`
	Socket  string         `json:"socket"`  // of the admin API
	Metrics string         `json:"metrics"` // host:port
	PID     int            `json:"pid"`     // of the host, 0 when it is down
	Workers map[string]int `json:"worker_pids"`
}

// PIDs are the processes of the server that run.
func (s LabServer) PIDs() []int {
	var out []int
	if s.PID > 0 {
		out = append(out, s.PID)
	}
	for _, p := range s.Workers {
		if p > 0 {
			out = append(out, p)
		}
	}
	return out
}

// Servers are the servers of a lab as they are now.
func (l *Lab) Servers() ([]LabServer, error) {
	var f struct {
		Servers []LabServer `json:"servers"`
	}
	b, err := os.ReadFile(l.File())
	if err != nil {
		return nil, fmt.Errorf("lab: %w", err)
	}
	if err := json.Unmarshal(b, &f); err != nil {
		return nil, fmt.Errorf("lab: %s: %w", l.File(), err)
	}
	return f.Servers, nil
}

// LabProcesses are the process ids of all servers of a lab.
func (l *Lab) LabProcesses() ([]int, error) {
	servers, err := l.Servers()
	var out []int
	for _, s := range servers {
		out = append(out, s.PIDs()...)
	}
	return out, err
}

// metricsTime bounds one look at a server's metrics.
const metricsTime = 5 * time.Second

// Metric sums all samples of a metric, whatever their labels.
func (s LabServer) Metric(ctx context.Context, name string) (float64, error) {
	ctx, cancel := context.WithTimeout(ctx, metricsTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Metrics+"/metrics", nil)
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", s.Name, err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", s.Name, err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err != nil {
		return 0, fmt.Errorf("metrics of %s: %w", s.Name, err)
	}
	sum, found := 0.0, false
	for line := range strings.Lines(string(text)) {
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
		if err != nil {
			return 0, fmt.Errorf("metrics of %s: %s: %w", s.Name, name, err)
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, fmt.Errorf("metrics of %s: no %s", s.Name, name)
	}
	return sum, nil
}

// Admin speaks to the admin API of one server over its socket. It is safe for
// concurrent use.
type Admin struct {
	name string
	http *http.Client
}

// Admin returns a client of the server's admin API; Close it.
func (s LabServer) Admin() *Admin {
	return &Admin{s.Name, &http.Client{Transport: &http.Transport{
		MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sock.Dial(ctx, s.Socket) },
	}}}
}

// Close ends the idle connections.
func (a *Admin) Close() { a.http.CloseIdleConnections() }

// errBusy is an answer after which the same may be asked again.
var errBusy = errors.New("busy")

// Change runs a command that changes something, again while the server says
// that it is busy.
func (a *Admin) Change(ctx context.Context, noun, verb string, in any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return fmt.Errorf("%s %s at %s: %w", noun, verb, a.name, err)
	}
	for {
		err := a.do(ctx, http.MethodPost, "/api/v1/"+noun+"/"+verb, body)
		if err == nil || ctx.Err() != nil || !errors.Is(err, errBusy) {
			return err
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// Collect lets the server's worker look for garbage at once: Go's runtime
// would do so within two minutes of idleness.
func (a *Admin) Collect(ctx context.Context) error {
	return a.do(ctx, http.MethodGet, "/debug/pprof/heap?gc=1", nil)
}

func (a *Admin) do(ctx context.Context, method, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://postern"+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("%s at %s: %w", path, a.name, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("%s at %s: %w", path, a.name, err)
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	switch {
	case err != nil:
		return fmt.Errorf("%s at %s: %w", path, a.name, err)
	case res.StatusCode == http.StatusServiceUnavailable || res.StatusCode == http.StatusTooManyRequests:
		return fmt.Errorf("%s at %s: %w: %s", path, a.name, errBusy, bytes.TrimSpace(answer))
	case res.StatusCode >= 300:
		return fmt.Errorf("%s at %s: %s: %s", path, a.name, res.Status, bytes.TrimSpace(answer))
	}
	return nil
}
