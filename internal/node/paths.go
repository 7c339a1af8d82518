package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
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
	// Server is this one's name, Mounted the databases that servers which are
	// heard have active, and Secret makes logins to their health mailboxes.
	Server  org.ServerName                        `json:"server"`
	Mounted map[org.ServerName][]org.DatabaseName `json:"mounted"`
	Secret  []byte                                `json:"secret"`
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
	me := w.cluster.Name()
	p := paths{States: map[org.Component]org.ComponentState{}, Others: map[string]string{}, Server: me, Mounted: map[org.ServerName][]org.DatabaseName{}}
	if !w.serving.Load() {
		return p
	}
	p.Secret = w.healthSecret()
	for _, mt := range w.cluster.View().Mounts() {
		if mt.Active != "" && (mesh{w.cluster}).Up(mt.Active) {
			p.Mounted[mt.Active] = append(p.Mounted[mt.Active], mt.Database)
		}
	}
	for _, c := range org.Components() {
		if w.mover != nil || c == org.AdminAPI { // a witness has no other doors
			p.States[c], _ = w.components.State(c)
		}
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

// atlas is what probes know of doors, in the health worker by asking the mail worker. Nothing is tried before the
// server has served once, so that a start is no alarm.
type atlas struct {
	desk *http.Client
	live func() paths // in the mail worker, for probes that are run by hand

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

// known is the last answer, where there is one that counts.
func (a *atlas) known() (paths, bool) {
	switch {
	case a == nil:
		return paths{}, false
	case a.live != nil:
		return a.live(), true
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.now, time.Since(a.when) < atlasFor
}

// tried tells whether the doors of a component of this server are to be tried.
func (a *atlas) tried(c org.Component) bool {
	p, ok := a.known()
	return ok && p.States[c] == org.Active
}

// boxes are the databases whose health mailboxes are used to try the doors of a
// server: those it has active, so that no other server is in the way, else all.
func (a *atlas) boxes(server org.ServerName) (secret []byte, dbs []org.DatabaseName) {
	p, _ := a.known()
	if dbs = p.Mounted[server]; len(dbs) > 0 {
		return p.Secret, dbs
	}
	for _, s := range slices.Sorted(maps.Keys(p.Mounted)) {
		dbs = append(dbs, p.Mounted[s]...)
	}
	return p.Secret, dbs
}

// me is this server's name.
func (a *atlas) me() org.ServerName {
	p, _ := a.known()
	return p.Server
}

// others are the doors of other servers, by <server>/<component>.
func (a *atlas) others() []string {
	p, ok := a.known()
	if !ok {
		return nil
	}
	return slices.Sorted(maps.Keys(p.Others))
}

func (a *atlas) at(target string) string {
	p, _ := a.known()
	return p.Others[target]
}

// healthSecret makes logins to health mailboxes, the same on all servers.
func (w *mailWorker) healthSecret() []byte { return w.cluster.DeriveSecret("health mailboxes") }

// near tells whether an address is one of this machine or of a server of the
// group: only from there may a probe log in.
func (w *mailWorker) near(a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	if a.IsLoopback() {
		return true
	}
	for _, s := range w.cluster.View().Servers() {
		if at, err := netip.ParseAddrPort(s.ClusterAddr); err == nil && at.Addr().Unmap() == a {
			return true
		}
		if slices.ContainsFunc(s.Interfaces, func(i org.Interface) bool { return i.Addr.Addr().Unmap() == a }) {
			return true
		}
	}
	return false
}

// deskClient speaks with the mail worker, whatever the host in an address is.
func deskClient(dir string) *http.Client {
	return &http.Client{Transport: &http.Transport{MaxIdleConns: 4, IdleConnTimeout: time.Minute,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sock.Dial(ctx, sock.Path(dir)) }}}
}
