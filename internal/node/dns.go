package node

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"

	"github.com/postern-mail/postern/internal/access/dnsd"
	"github.com/postern-mail/postern/internal/admin/sock"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/logging"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// What the DNS door has to know of each server: where clients reach it is a row
// of the agreed state, whether its doors are open it tells over the mesh.
const (
	dnsPrefix      = "dns/server/"
	servingSection = "serving"
	dnsTurn        = time.Second
	dnsPath        = "/dns/servers"
	// dnsPatience is how long a DNS door of its own goes on with what it last
	// heard; after that all addresses are answered.
	dnsPatience = time.Minute
)

// dnsRow is the row dns/server/<name>.
type dnsRow struct {
	Addresses []netip.Addr      `json:"addresses"`
	Ports     map[string]uint16 `json:"ports"`
	DNS       bool              `json:"dns,omitempty"`
}

// dnsRow is what this server's configuration says.
func (c Config) dnsRow() dnsRow {
	r := dnsRow{Ports: map[string]uint16{}, DNS: len(c.DNS.Listen) > 0}
	addrs := c.DNS.Addresses
	if len(addrs) == 0 {
		host, _, err := net.SplitHostPort(c.Address)
		if err != nil || net.ParseIP(host) == nil {
			host = ownAddress()
		}
		addrs = []string{host}
	}
	for _, a := range addrs {
		if ip, err := netip.ParseAddr(a); err == nil {
			r.Addresses = append(r.Addresses, ip.Unmap())
		}
	}
	for label, listen := range map[string][]string{"_imap": c.IMAP.StartTLS.Listen, "_imaps": c.IMAP.TLS.Listen,
		"_submission": c.SMTP.Submission.Listen, "_submissions": c.SMTP.Submissions.Listen} {
		if len(listen) == 0 {
			continue
		}
		_, port, err := net.SplitHostPort(listen[0])
		if n, bad := strconv.ParseUint(port, 10, 16); err == nil && bad == nil {
			r.Ports[label] = uint16(n)
		}
	}
	return r
}

// tellServing says every second whether the doors are open, and keeps this
// server's row.
func (w *mailWorker) tellServing(ctx context.Context) error {
	want, err := json.Marshal(w.cfg.dnsRow())
	if err != nil {
		return fmt.Errorf("write the addresses of this server: %w", err)
	}
	key := dnsPrefix + string(w.cluster.Name())
	tick := time.NewTicker(dnsTurn)
	defer tick.Stop()
	for {
		w.cluster.Publish(servingSection, []byte(strconv.FormatBool(w.serving.Load())))
		if it, _ := w.cluster.View().Get(key); !bytes.Equal(it.Value, want) && w.cluster.Quorum() {
			once, cancel := context.WithTimeout(ctx, 3*time.Second)
			_, err := w.cluster.Commit(once, cluster.Txn{Then: []cluster.Op{{Key: key, Value: want}}})
			cancel()
			if err != nil && ctx.Err() == nil {
				w.log.Warn("addresses of this server are not written", "err", err)
			}
		}
		select {
		case <-ctx.Done():
			w.cluster.Publish(servingSection, []byte("false"))
			return nil
		case <-tick.C:
		}
	}
}

// dnsServers lists the servers as the DNS door answers with them.
func (w *mailWorker) dnsServers() []dnsd.Server {
	v := w.cluster.View()
	var out []dnsd.Server
	for _, s := range v.Servers() {
		if s.Witness {
			continue
		}
		var row dnsRow
		it, ok := v.Get(dnsPrefix + string(s.Name))
		if !ok || json.Unmarshal(it.Value, &row) != nil {
			continue // it has not told its addresses yet
		}
		x := dnsd.Server{Name: s.Name, Addrs: row.Addresses, Ports: row.Ports, DNS: row.DNS, Good: map[dnsd.Service]bool{}}
		if x.Why = w.notServing(s.Name); x.Why == "" {
			if state := w.components.Of(s.Name, org.DNSComponent); state != org.Active {
				x.Why = fmt.Sprintf("%s is %s", org.DNSComponent, state)
			}
		}
		if x.Why == "" {
			for service, c := range map[dnsd.Service]org.Component{dnsd.SMTP: org.SMTPComponent, dnsd.Submission: org.Submission, dnsd.IMAP: org.IMAPComponent} {
				state := w.components.Of(s.Name, c)
				x.Good[service] = state == org.Active
				if state != org.Active {
					x.Why = cmp.Or(x.Why, fmt.Sprintf("%s is %s", c, state))
				}
			}
		}
		out = append(out, x)
	}
	return out
}

// notServing says why a server should get no clients at all.
func (w *mailWorker) notServing(s org.ServerName) string {
	if s == w.cluster.Name() {
		if !w.serving.Load() {
			return "not all doors are open"
		}
		return ""
	}
	if why, dead := w.cluster.Dead(s); dead {
		return why
	}
	if !w.cluster.Alive(s) && w.cluster.Quorum() {
		return "it does not renew its lease"
	}
	if b, _, ok := w.cluster.Published(s, servingSection); ok && string(b) != "true" {
		return "not all doors are open"
	}
	return ""
}

// openDNS opens the DNS door, where one is configured.
func (w *mailWorker) openDNS(ctx context.Context, st *stages) error {
	st.run("serving", w.tellServing)
	if len(w.cfg.DNS.Listen) == 0 {
		return nil
	}
	d, err := newDNSDoor(w.metrics, func() (org.ComponentState, <-chan struct{}) { return w.components.State(org.DNSComponent) },
		func(r prometheus.Registerer) (*dnsd.Door, error) {
			return dnsd.New(w.cfg.DNS, dnsd.Deps{Servers: w.dnsServers, Log: w.log, Events: w.events, Metrics: r})
		})
	if err != nil {
		return err
	}
	w.components.Obeys(org.DNSComponent, d.now)
	st.run("dns", d.run)
	select {
	case <-d.ready:
		return nil
	case <-st.broken:
		return st.cause()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// dnsAnswers tells a DNS door of its own what this server knows.
func (w *mailWorker) dnsAnswers() http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) {
		rw.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(rw).Encode(w.dnsServers()); err != nil {
			w.log.Warn("servers were not told", "err", err)
		}
	})
}

// DNSCommand is `postern dns serve`: the DNS door in a process of its own.
func DNSCommand(version string) *cobra.Command {
	p := &place{version: version}
	c := &cobra.Command{Use: "serve", Short: "answer DNS for the namespace in a process of its own", Args: cobra.NoArgs,
		Long: "The same door as [dns] in a server, beside a member of the group on the same machine: it asks that server's socket each second. " +
			"When there is no answer for a minute it goes on with all addresses. It needs [dns] listen and zone in the configuration; the server itself then has an empty listen.",
		Example: "  postern dns serve --dir /var/lib/postern --config /etc/postern/dns.toml",
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := p.load()
			if err != nil {
				return err
			}
			if len(cfg.DNS.Listen) == 0 {
				return kind.WithHint(kind.Errorf(kind.Invalid, "dns serve: [dns] listen is empty"), `set listen = [":53"] and zone in [dns]`)
			}
			log, _, err := logging.New(c.ErrOrStderr(), cfg.Log)
			if err != nil {
				return err
			}
			return serveDNS(c.Context(), cfg, log)
		}}
	p.flags(c)
	return c
}

func serveDNS(ctx context.Context, cfg Config, log *slog.Logger) error {
	a := &asker{path: sock.Path(cfg.Dir)}
	door, err := dnsd.New(cfg.DNS, dnsd.Deps{Servers: a.servers, Log: log, Events: event.NewLog(log)})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { a.run(ctx, log) })
	err = door.Run(ctx)
	cancel()
	wg.Wait()
	return err
}

// asker keeps what a member's socket says of the servers.
type asker struct {
	path string

	mu    sync.Mutex // guards the rest
	last  []dnsd.Server
	heard time.Time
}

func (a *asker) run(ctx context.Context, log *slog.Logger) {
	tick := time.NewTicker(dnsTurn)
	defer tick.Stop()
	deaf := false
	for {
		list, err := a.ask(ctx)
		if err == nil {
			a.mu.Lock()
			a.last, a.heard = list, time.Now()
			a.mu.Unlock()
		}
		if (err != nil) != deaf && ctx.Err() == nil {
			deaf = err != nil
			log.Info("the server at this machine", "answers", !deaf, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// servers is what was heard last; after a minute of silence nobody is known to be
// good, so that all addresses are answered.
func (a *asker) servers() []dnsd.Server {
	a.mu.Lock()
	defer a.mu.Unlock()
	if time.Since(a.heard) < dnsPatience {
		return a.last
	}
	out := make([]dnsd.Server, len(a.last))
	for i, s := range a.last {
		s.Good, s.Why = nil, "nothing was heard of it for a minute"
		out[i] = s
	}
	return out
}

func (a *asker) ask(ctx context.Context) ([]dnsd.Server, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return sock.Dial(ctx, a.path) }}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://postern"+dnsPath, nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Transport: tr}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("answers %s", res.Status)
	}
	var list []dnsd.Server
	if err := json.NewDecoder(io.LimitReader(res.Body, 1<<20)).Decode(&list); err != nil {
		return nil, fmt.Errorf("read the servers: %w", err)
	}
	return list, nil
}
