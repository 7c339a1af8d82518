package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/test/load"
)

// row is one measurement.
type row struct {
	name    string
	rate    float64 // per second at the 250 or OK
	visible float64 // per second until visible by IMAP, SMTP only
	p50     time.Duration
	p95     time.Duration
	p99     time.Duration
	cpu     time.Duration // per message or operation, all servers
	bytes   float64       // per second, SMTP only: bytes of messages accepted
	syncs   float64       // per message and copy, where counted
	errors  int
}

// results are all rows of one system.
type results struct {
	system string
	rows   []row
	memory []figure
}

// figure is one number of memory.
type figure struct {
	name  string
	bytes int64
}

func (r *results) find(name string) (row, bool) {
	for _, x := range r.rows {
		if x.name == name {
			return x, true
		}
	}
	return row{}, false
}

// measure runs all rows on one system.
func measure(ctx context.Context, o options, s system) (*results, error) {
	r := &results{system: s.name}
	fmt.Println("\nmeasuring", s.name)
	r.memory = append(r.memory, figure{"all idle processes", load.Memory(s.pids())})
	if o.only == "" || o.only == "smtp" {
		for _, size := range o.sizes {
			for _, n := range o.conns {
				x, err := smtpRow(ctx, o, s, load.Sizes(size), n)
				if err != nil {
					return r, fmt.Errorf("%s: %w", s.name, err)
				}
				r.rows = append(r.rows, x)
				x.print(os.Stdout)
			}
		}
	}
	if o.only == "" || o.only == "imap" {
		if err := imapRows(ctx, o, s, r); err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
	}
	if o.only == "" || o.only == "memory" {
		f, err := idleSessions(ctx, o, s)
		if err != nil {
			return r, fmt.Errorf("%s: %w", s.name, err)
		}
		r.memory = append(r.memory, f)
	}
	return r, ctx.Err()
}

// smtpRow sends with n connections for a while, then waits until all of it is
// visible over IMAP.
func smtpRow(ctx context.Context, o options, s system, size load.Sizes, n int) (row, error) {
	x := row{name: fmt.Sprintf("smtp %s %d connections", size, n)}
	before, err := load.CountAll(s.target)
	if err != nil {
		return x, err
	}
	h := load.NewHistory()
	syncs := 0.0
	if s.syncs != nil {
		syncs = s.syncs()
	}
	cpu := load.CPU(s.pids())
	sctx, cancel := context.WithTimeout(ctx, o.each)
	defer cancel()
	begun := time.Now()
	var wg sync.WaitGroup
	var mu sync.Mutex // guards sent
	var sent int64
	for i := range n {
		snd := &load.Sender{Name: fmt.Sprintf("b%d-%d", begun.UnixNano(), i), Number: i, Target: s.target, History: h, Sizes: size, OneRecipient: true,
			Sent: func(n int) { mu.Lock(); sent += int64(n); mu.Unlock() }}
		wg.Go(func() { snd.Run(sctx) })
	}
	wg.Wait()
	took := time.Since(begun)
	confirmed, _, _ := h.Messages()
	if confirmed == 0 {
		return x, errors.New("nothing was accepted")
	}
	if err := untilVisible(ctx, s.target, before+confirmed); err != nil {
		return x, err
	}
	all := time.Since(begun)
	x.fill(h.Latencies(""), took, load.CPU(s.pids())-cpu, confirmed)
	x.visible = float64(confirmed) / all.Seconds()
	x.bytes = float64(sent) / took.Seconds()
	if s.syncs != nil {
		x.syncs = (s.syncs() - syncs) / float64(confirmed) / float64(s.copies)
	}
	x.errors = len(h.Troubles())
	return x, nil
}

// fill computes rate, quantiles and processor time.
func (x *row) fill(lat []time.Duration, took, cpu time.Duration, n int) {
	x.rate = float64(n) / took.Seconds()
	x.p50, x.p95, x.p99 = load.Quantile(lat, 0.5), load.Quantile(lat, 0.95), load.Quantile(lat, 0.99)
	x.cpu = cpu / time.Duration(max(n, 1))
}

// untilVisible waits until the mailboxes hold so many messages; senders that
// were stopped in the middle of one may have left more.
func untilVisible(ctx context.Context, t *load.Target, want int) error {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	end := time.NewTimer(5 * time.Minute)
	defer end.Stop()
	for {
		n, err := load.CountAll(t)
		if err == nil && n >= want {
			return nil
		}
		select {
		case <-tick.C:
		case <-end.C:
			return fmt.Errorf("%d of %d messages visible after five minutes: %w", n, want, err)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// countSyncs sums the syncs of all logs of a lab.
func countSyncs(lab *load.Lab) float64 {
	var f struct {
		Servers []struct {
			Metrics string `json:"metrics"`
		} `json:"servers"`
	}
	b, err := os.ReadFile(lab.File())
	if err != nil || json.Unmarshal(b, &f) != nil {
		return 0
	}
	var sum float64
	c := http.Client{Timeout: 5 * time.Second}
	for _, s := range f.Servers {
		res, err := c.Get("http://" + s.Metrics + "/metrics")
		if err != nil {
			continue
		}
		text, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
		res.Body.Close()
		if err != nil {
			continue
		}
		for line := range strings.Lines(string(text)) {
			if strings.HasPrefix(line, "postern_mailbox_log_syncs_total") {
				if i := strings.LastIndexByte(line, ' '); i > 0 {
					v, _ := strconv.ParseFloat(strings.TrimSpace(line[i:]), 64) // the format's own number
					sum += v
				}
			}
		}
	}
	return sum
}

// imapRows measures operations on the mailboxes that the SMTP rows filled.
func imapRows(ctx context.Context, o options, s system, r *results) error {
	if err := seed(ctx, s); err != nil {
		return err
	}
	for _, op := range load.Ops() {
		cpu := load.CPU(s.pids())
		begun := time.Now()
		lat, fails, err := load.RunOp(ctx, s.target, op, o.sessions, o.each)
		if err != nil {
			return fmt.Errorf("%s: %w", op.Name, err)
		}
		x := row{name: "imap " + op.Name, errors: fails}
		x.fill(lat, time.Since(begun), load.CPU(s.pids())-cpu, len(lat))
		r.rows = append(r.rows, x)
		x.print(os.Stdout)
	}
	return nil
}

// seed makes sure that each mailbox has messages to read.
func seed(ctx context.Context, s system) error {
	n, err := load.CountAll(s.target)
	if err != nil || n >= 100*len(s.target.Users) {
		return err
	}
	h := load.NewHistory()
	sctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for i := range 16 {
		snd := &load.Sender{Name: fmt.Sprintf("seed%d-%d", time.Now().UnixNano(), i), Number: i, Target: s.target, History: h, Sizes: load.Size4K, OneRecipient: true}
		wg.Go(func() { snd.Run(sctx) })
	}
	wg.Wait()
	confirmed, _, _ := h.Messages()
	return untilVisible(ctx, s.target, n+confirmed)
}

// idleSessions measures what an idle IMAP session costs.
func idleSessions(ctx context.Context, o options, s system) (figure, error) {
	f := figure{name: fmt.Sprintf("one of %d idle IMAP sessions", o.idle)}
	// Tickets would let sessions share what a stranger's could not.
	t := &load.Target{Servers: s.target.Servers, Users: s.target.Users, TLS: s.target.TLS.Clone()}
	t.TLS.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	before := load.Memory(s.pids())
	stop, err := load.HoldIdle(ctx, t, o.idle)
	if err != nil {
		return f, err
	}
	defer stop()
	f.bytes = (load.Memory(s.pids()) - before) / int64(o.idle)
	return f, nil
}
