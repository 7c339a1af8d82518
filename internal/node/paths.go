package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/org"
)

// doorsSection is the mesh section in which servers tell where clients reach
// their doors.
const doorsSection = "doors"

// pathPaths is what the health worker asks at the socket.
const pathPaths = "/health/paths"

// doorList is where clients reach the doors of a server, one address each.
type doorList struct {
	At map[org.Component]string `json:"at" cbor:"1,keyasint"`
}

// paths is what the health worker has to know of servers to try their doors.
type paths struct {
	// States are this server's components; those that are not Active are not
	// tried.
	States map[org.Component]org.ComponentState `json:"states"`
	// Others are addresses by <server>/<component>, of servers that are heard and
	// whose component is Active.
	Others map[string]string `json:"others"`
}

// tellDoors publishes where the doors of this server are.
func (w *mailWorker) tellDoors() {
	self, _ := w.cluster.View().Server(w.cluster.Name())
	l := doorList{At: map[org.Component]string{}}
	add := func(c org.Component, addrs, proxied []string) {
		if len(addrs) > 0 && len(proxied) == 0 {
			l.At[c] = reachable(addrs[0], self.ClusterAddr)
		}
	}
	add(org.SMTPComponent, w.cfg.SMTP.Receive.Listen, w.cfg.SMTP.Receive.ProxyFrom)
	add(org.Submission, w.cfg.SMTP.Submission.Listen, w.cfg.SMTP.Submission.ProxyFrom)
	add(org.IMAPComponent, w.cfg.IMAP.StartTLS.Listen, w.cfg.IMAP.StartTLS.ProxyFrom)
	w.cluster.Publish(doorsSection, codec.MustMarshal(l))
}

// reachable is where another machine reaches a listener.
func reachable(listen, cluster string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err != nil || host != "" && (ip == nil || !ip.IsUnspecified()) {
		return listen
	}
	own, _, err := net.SplitHostPort(cluster)
	if err != nil {
		return listen
	}
	return net.JoinHostPort(own, port)
}

// paths answers the health worker.
func (w *mailWorker) paths() paths {
	p := paths{States: map[org.Component]org.ComponentState{}, Others: map[string]string{}}
	if !w.serving.Load() {
		return p
	}
	me := w.cluster.Name()
	for _, c := range org.Components() {
		p.States[c], _ = w.components.State(c)
	}
	for _, s := range (mesh{w.cluster}).Members() {
		if s == me || !(mesh{w.cluster}).Up(s) {
			continue
		}
		b, _, ok := w.cluster.Published(s, doorsSection)
		var l doorList
		if !ok || codec.Unmarshal(b, &l) != nil {
			continue
		}
		for c, at := range l.At {
			if w.components.Of(s, c) == org.Active {
				p.Others[string(s)+"/"+string(c)] = at
			}
		}
	}
	return p
}

func (w *mailWorker) servePaths(rw http.ResponseWriter, _ *http.Request) {
	rw.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(rw).Encode(w.paths()) // the health worker asks again
}

// atlas is what the health worker knows of doors. Nothing is tried before the
// server has served once, so that a start is no alarm.
type atlas struct {
	desk *http.Client

	mu   sync.Mutex // guards now
	now  paths
	when time.Time
}

// atlasFor is how long the last answer counts.
const atlasFor = 30 * time.Second

// follow asks again and again until ctx ends.
func (a *atlas) follow(ctx context.Context) {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		if p, err := a.ask(ctx); err == nil {
			a.mu.Lock()
			a.now, a.when = p, time.Now()
			a.mu.Unlock()
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *atlas) ask(ctx context.Context) (p paths, err error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://postern"+pathPaths, nil)
	if err != nil {
		return p, err
	}
	res, err := a.desk.Do(req)
	if err != nil {
		return p, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return p, fmt.Errorf("the mail worker answers %s", res.Status)
	}
	return p, json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&p)
}

// tried tells whether the doors of a component of this server are to be tried.
func (a *atlas) tried(c org.Component) bool {
	if a == nil {
		return false
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now.States[c] == org.Active && time.Since(a.when) < atlasFor
}

// others are the doors of other servers, by <server>/<component>.
func (a *atlas) others() []string {
	if a == nil {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.when) >= atlasFor {
		return nil
	}
	var out []string
	for k := range a.now.Others {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

func (a *atlas) at(target string) string {
	if a == nil {
		return ""
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now.Others[target]
}

// deskClient speaks with the mail worker, whatever the host in an address is.
func deskClient(dir string) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConns: 4, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sock.Dial(ctx, sock.Path(dir)) }}}
}
