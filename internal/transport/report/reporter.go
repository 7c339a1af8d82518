package report

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/transport/authn"
	"github.com/postern-mail/postern/internal/transport/settings"
)

const (
	aDay = 24 * time.Hour
	// spread is the time after midnight in which servers report, each at its
	// own time (RFC 8460 section 4.1 asks for up to four hours).
	spread     = 4 * time.Hour
	turn       = time.Minute
	saveEvery  = 10 * time.Minute
	retryEvery = 30 * time.Minute
	// giveUp is how long after its end a day's reports are tried.
	giveUp = aDay
	// atOnce are the domains that are dealt with at a time, each for perDomain
	// at most.
	atOnce    = 8
	perDomain = 2 * time.Minute
)

// Deps are what a Reporter works with.
type Deps struct {
	Resolver authn.Resolver
	// Submit puts a message into the queue.
	Submit func(ctx context.Context, s mail.Submission) error
	// Server tells this server from others that have its host name.
	Server string
	// Hostname is who reports: the domain of the sender, which SPF or a DKIM key
	// should prove (RFC 9990 section 3.5.2). A name without a dot is nobody's,
	// and nothing is counted.
	Hostname string
	// Contact is where questions about reports go; empty: postmaster there.
	Contact string
	// Version of the program, for the reports.
	Version  string
	Dir      string // of the file, which exists
	FS       fsx.FS
	Settings func() settings.Group
	// Private allows reports by https to addresses that are not public.
	Private bool
	// Roots verify web servers; nil: the system's.
	Roots *x509.CertPool
	// Dial opens connections to web servers; nil is a plain net.Dialer.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	Now  func() time.Time // nil: time.Now
	Log  *slog.Logger     // nil: none
}

// Reporter counts and reports. Its methods may be called from any goroutine.
type Reporter struct {
	d Deps

	mu    sync.Mutex // guards today and dirty
	today *tally
	dirty bool

	// done are days that are over, oldest first; only Run touches them.
	done []*tally
}

// New makes a Reporter that goes on with what the file says. It starts nothing.
func New(d Deps) *Reporter {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Log == nil {
		d.Log = slog.New(slog.DiscardHandler)
	}
	if d.Dial == nil {
		d.Dial = (&net.Dialer{}).DialContext
	}
	if d.Contact == "" {
		d.Contact = "postmaster@" + d.Hostname
	}
	r := &Reporter{d: d}
	days, err := r.load()
	if err != nil {
		d.Log.Warn("counters for reports are lost", "err", err)
	}
	r.today = newTally(dayOf(d.Now()))
	for _, t := range days {
		if t.day.Equal(r.today.day) {
			r.today = t
		} else if t.day.Before(r.today.day) {
			r.done = append(r.done, t)
		}
	}
	return r
}

// wants tells whether reports of a kind are to be sent.
func (r *Reporter) wants(setting *bool) bool { return *setting && strings.Contains(r.d.Hostname, ".") }

// dayOf is the start of the UTC day of a time.
func dayOf(t time.Time) time.Time { return t.UTC().Truncate(aDay) }

// Run sends reports and keeps the file until ctx ends, and saves the counters a
// last time then.
func (r *Reporter) Run(ctx context.Context) error {
	tick := time.NewTicker(turn)
	defer tick.Stop()
	var saved, tried time.Time
	for {
		now := r.d.Now()
		r.rotate(now)
		if slices.ContainsFunc(r.done, func(t *tally) bool { return r.due(t, now) }) && now.Sub(tried) >= retryEvery {
			r.send(ctx, now)
			tried, saved = r.d.Now(), time.Time{}
		}
		if r.changed() && now.Sub(saved) >= saveEvery {
			r.save()
			saved = now
		}
		select {
		case <-ctx.Done():
			r.save()
			return nil
		case <-tick.C:
		}
	}
}

// rotate begins a new day.
func (r *Reporter) rotate(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if day := dayOf(now); day.After(r.today.day) {
		if !r.today.empty() {
			r.done = append(r.done, r.today)
		}
		r.today, r.dirty = newTally(day), true
	}
	r.done = slices.DeleteFunc(r.done, func(t *tally) bool {
		late := now.Sub(t.day) > aDay+giveUp
		if late {
			r.d.Log.Warn("reports of a day are given up", "day", t.day.Format(time.DateOnly), "dmarc", len(t.dmarc), "tls", len(t.tls))
			r.dirty = true
		}
		return late
	})
}

// due tells whether a day may be reported: each server of the world has its own
// moment after midnight.
func (r *Reporter) due(t *tally, now time.Time) bool {
	h := sha256.Sum256([]byte(r.d.Server + "\x00" + r.d.Hostname))
	wait := time.Duration(binary.BigEndian.Uint64(h[:8]) % uint64(spread))
	return !now.Before(t.day.Add(aDay + wait))
}

func (r *Reporter) changed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dirty
}

// job is one report to be sent.
type job struct {
	domain string
	what   string
	do     func(ctx context.Context) (sent int, err error)
	forget func()
}

// send sends what days that are due have to say. What cannot be sent now stays.
func (r *Reporter) send(ctx context.Context, now time.Time) {
	for _, t := range r.done {
		if !r.due(t, now) {
			continue
		}
		jobs := r.jobs(t)
		var mu sync.Mutex // guards the numbers and t
		sent, later := 0, 0
		var g errgroup.Group
		g.SetLimit(atOnce)
		for _, j := range jobs {
			g.Go(func() error {
				ctx, cancel := context.WithTimeout(ctx, perDomain)
				defer cancel()
				n, err := j.do(ctx)
				mu.Lock()
				defer mu.Unlock()
				sent += n
				if err != nil && (kind.Is(err, kind.Busy) || ctx.Err() != nil) {
					r.d.Log.Debug("a report is sent later", "report", j.what, "domain", j.domain, "err", err)
					later++
					return nil
				}
				if err != nil {
					r.d.Log.Info("a report is not sent", "report", j.what, "domain", j.domain, "err", err)
				}
				j.forget()
				return nil
			})
		}
		g.Wait()
		r.d.Log.Info("reports sent", "day", t.day.Format(time.DateOnly), "domains", len(jobs), "reports", sent, "later", later)
	}
	r.done = slices.DeleteFunc(r.done, (*tally).empty)
	r.mu.Lock()
	r.dirty = true
	r.mu.Unlock()
}

// jobs are the reports of a day. What settings do not want is dropped.
func (r *Reporter) jobs(t *tally) (out []job) {
	g := r.d.Settings()
	if !r.wants(g.DMARCReports) {
		clear(t.dmarc)
	}
	if !r.wants(g.TLSReports) {
		clear(t.tls)
	}
	for domain, c := range t.dmarc {
		out = append(out, job{domain, "DMARC", func(ctx context.Context) (int, error) { return r.sendDMARC(ctx, t.day, domain, c) },
			func() { delete(t.dmarc, domain) }})
	}
	for domain, c := range t.tls {
		out = append(out, job{domain, "TLS", func(ctx context.Context) (int, error) { return r.sendTLS(ctx, t.day, domain, c) },
			func() { delete(t.tls, domain) }})
	}
	return out
}

// identity names a report of this server for all time.
func (r *Reporter) identity(what string, day time.Time, domain string) string {
	h := sha256.Sum256(fmt.Appendf(nil, "postern %s report\x00%s\x00%s\x00%s\x00%s", what, r.d.Server, r.d.Hostname, day.Format(time.DateOnly), domain))
	return hex.EncodeToString(h[:16])
}
