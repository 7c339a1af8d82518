package node

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/notify"
	"github.com/postern-mail/postern/internal/org"
)

// newNotifier builds the room that tells people, and lets it see the events of
// all rooms.
func (w *mailWorker) newNotifier() {
	cfg := notify.Config{}
	if w.cfg.Timers == "fast" {
		cfg = notify.Fast()
	}
	cfg.Hello = w.cfg.SMTP.Hostname
	w.alerts = notify.New(cfg, notify.Deps{Rows: groupRows{w.cluster}, Mesh: groupMesh{w.cluster}, Secrets: w.cluster,
		Names: w.names, Servers: w.servers, Sets: w.sets, Own: w.ownHosts, Log: w.log, Events: w.events, Metrics: w.metrics})
	w.events.Subscribe(w.alerts.Observe)
}

// names are what a sentence may be about.
func (w *mailWorker) names() []string {
	v := w.cluster.View()
	var out []string
	for _, s := range v.Servers() {
		out = append(out, string(s.Name))
	}
	for _, d := range v.Databases() {
		out = append(out, string(d.Name))
	}
	return out
}

// servers are the members, for rules that name some.
func (w *mailWorker) servers() (out []org.ServerName) {
	for _, s := range w.cluster.View().Servers() {
		out = append(out, s.Name)
	}
	return out
}

// sets are the health sets that alerts can be about.
func (w *mailWorker) sets() (out []string) {
	for _, s := range w.desk.Sets() {
		out = append(out, s.Name)
	}
	return out
}

// ownHosts are the hosts of the group.
func (w *mailWorker) ownHosts() []string {
	out := w.cfg.doorNames()
	for _, s := range w.cluster.View().Servers() {
		if host, _, err := net.SplitHostPort(s.ClusterAddr); err == nil {
			out = append(out, host)
		}
	}
	return out
}

// groupRows is the agreed state as notify wants it.
type groupRows struct{ c *cluster.Cluster }

func (g groupRows) Revision() int64 { return g.c.View().Revision() }

func (g groupRows) Prefix(p string) iter.Seq2[string, notify.Row] {
	return func(yield func(string, notify.Row) bool) {
		for k, it := range g.c.View().Prefix(p) {
			if !yield(k, notify.Row{Value: it.Value, Revision: it.Revision}) {
				return
			}
		}
	}
}

func (g groupRows) Commit(ctx context.Context, conds []notify.Cond, writes []notify.Write) error {
	var t cluster.Txn
	for _, c := range conds {
		t.If = append(t.If, cluster.Cond{Key: c.Key, Revision: c.Revision})
	}
	for _, x := range writes {
		t.Then = append(t.Then, cluster.Op{Key: x.Key, Value: x.Value, Delete: x.Value == nil})
	}
	_, err := g.c.Commit(ctx, t)
	return err
}

func (g groupRows) Quorum() bool { return g.c.Quorum() }

// groupMesh is what members tell each other, as notify wants it.
type groupMesh struct{ c *cluster.Cluster }

func (g groupMesh) Me() org.ServerName { return g.c.Name() }

func (g groupMesh) Members() []notify.Member {
	heard := map[org.ServerName]bool{g.c.Name(): true}
	for _, p := range g.c.Peers() {
		heard[p.Server] = p.State == cluster.PeerUp
	}
	var out []notify.Member
	for _, s := range g.c.View().Servers() {
		_, dead := g.c.Dead(s.Name)
		out = append(out, notify.Member{Name: s.Name, Heard: heard[s.Name],
			Alive: s.Name == g.c.Name() || g.c.Alive(s.Name) && !dead})
	}
	return out
}

func (g groupMesh) Publish(section string, v []byte) { g.c.Publish(section, v) }

func (g groupMesh) Published(s org.ServerName, section string) ([]byte, time.Time, bool) {
	return g.c.Published(s, section)
}

// The host and the health worker have event logs of their own. What they emit
// goes to the mail worker over the admin socket, so that it is in the server's
// list of events and can become an alert. While the mail worker is down it waits.
const (
	forwardPath  = "POST /events/forward"
	forwardMost  = 256       // events that wait; the oldest go first
	forwardBody  = 512 << 10 // bytes of one request
	forwardPause = 2 * time.Second
)

// forwardFrom sends what log emits from now on to the mail worker of the data
// folder, until stop is called.
func forwardFrom(log *event.Log, dir string) (stop func()) {
	f := &forwarder{path: sock.Path(dir), kick: make(chan struct{}, 1)}
	log.Subscribe(f.add)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		f.run(ctx)
	}()
	return func() { cancel(); <-done }
}

type forwarder struct {
	path string
	kick chan struct{}

	mu    sync.Mutex // guards queue
	queue []event.Event
}

func (f *forwarder) add(e event.Event) {
	f.mu.Lock()
	f.queue = append(f.queue[max(0, len(f.queue)-forwardMost+1):], e)
	f.mu.Unlock()
	select {
	case f.kick <- struct{}{}:
	default:
	}
}

func (f *forwarder) run(ctx context.Context) {
	tick := time.NewTicker(forwardPause)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.kick:
		case <-tick.C:
		}
		f.mu.Lock()
		some := append([]event.Event(nil), f.queue[:min(len(f.queue), 64)]...)
		f.mu.Unlock()
		if len(some) == 0 || f.post(ctx, some) != nil {
			continue // the mail worker is down: it waits
		}
		f.mu.Lock()
		// The oldest may have been dropped meanwhile.
		for len(some) > 0 && len(f.queue) > 0 {
			if f.queue[0].Time.Equal(some[0].Time) && f.queue[0].Code == some[0].Code {
				f.queue = f.queue[1:]
			}
			some = some[1:]
		}
		f.mu.Unlock()
	}
}

func (f *forwarder) post(ctx context.Context, events []event.Event) error {
	body, err := json.Marshal(events)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sock.Dial(ctx, f.path) }}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://postern/events/forward", bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return fmt.Errorf("answers %s", res.Status)
	}
	return nil
}

// forwarded takes the events of the other processes of this server.
func forwarded(log *event.Log) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(io.LimitReader(r.Body, forwardBody))
		var events []event.Event
		if err != nil || json.Unmarshal(body, &events) != nil || len(events) > forwardMost {
			http.Error(rw, "want a list of events", http.StatusBadRequest)
			return
		}
		for _, e := range events {
			log.Take(e)
		}
		rw.WriteHeader(http.StatusNoContent)
	})
}
