package health

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health/probe"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// Limits of what the Engine may send.
const (
	maxMonitors = 10_000
	maxEvents   = 100
	maxSights   = 1000
)

// Handlers are the paths that the Engine uses. They belong at the admin socket
// only, which is open to this server's own user and root.
func (d *Desk) Handlers() map[string]http.Handler {
	return map[string]http.Handler{
		"GET " + pathResults: http.HandlerFunc(d.serveResults),
		"POST " + pathState:  http.HandlerFunc(d.serveState),
		"POST " + pathAct:    http.HandlerFunc(d.serveAct),
		"POST " + pathLog:    http.HandlerFunc(d.serveLog),
	}
}

func (d *Desk) serveResults(w http.ResponseWriter, r *http.Request) {
	after, err := strconv.ParseUint(r.URL.Query().Get("after"), 10, 64)
	if err != nil {
		http.Error(w, "after is no number", http.StatusBadRequest)
		return
	}
	if boot, _ := strconv.ParseUint(r.URL.Query().Get("boot"), 10, 64); boot != d.results.boot {
		after = 0
	}
	all, next := d.results.after(after, ringSize)
	n := news{Boot: d.results.boot, Next: next, Results: cross(all, time.Now()), Targets: d.targets()}
	d.mu.Lock()
	n.Rules = d.rules
	d.mu.Unlock()
	reply(w, n)
}

// targets are those that inside probes have now.
func (d *Desk) targets() map[string][]string {
	out := map[string][]string{}
	for _, p := range d.items.Probes {
		if p.Where == Inside && p.Targets != nil {
			out[p.Set+`\`+p.Name] = probe.TargetsOf(p)
		}
	}
	return out
}

func (d *Desk) serveState(w http.ResponseWriter, r *http.Request) {
	var rep report
	if !read(w, r, &rep) {
		return
	}
	if len(rep.Monitors) > maxMonitors || len(rep.Seen) > maxSights || len(rep.Events) > maxEvents {
		http.Error(w, "the report is too long", http.StatusRequestEntityTooLarge)
		return
	}
	d.mu.Lock()
	d.report, d.reported = rep, time.Now()
	d.mu.Unlock()
	known := []event.Definition{evChanged, evWell, evHung}
	for _, e := range rep.Events {
		if i := slices.IndexFunc(known, func(k event.Definition) bool { return k.Code == e.Code }); i >= 0 {
			d.deps.Events.Emit(known[i], "%s", e.Sentence)
		}
	}
	w.WriteHeader(http.StatusNoContent)
}

func (d *Desk) serveAct(w http.ResponseWriter, r *http.Request) {
	var o order
	if !read(w, r, &o) {
		return
	}
	// The deed goes on when the health worker goes away, and ends with the Desk.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	go func() {
		select {
		case <-d.stopping:
			cancel()
		case <-ctx.Done():
		}
	}()
	row, err := d.gate.Do(ctx, o)
	a := answer{Row: row}
	if err != nil {
		a.Error, a.Busy = err.Error(), kind.Is(err, kind.Busy)
	}
	reply(w, a)
}

// serveLog takes rows of the recovery log that the Engine has of its own: what it
// ordered from the host while the mail worker did not answer.
func (d *Desk) serveLog(w http.ResponseWriter, r *http.Request) {
	var row org.Recovery
	if !read(w, r, &row) {
		return
	}
	if row.ID == "" || row.Server != d.deps.Server {
		http.Error(w, "no row of this server", http.StatusBadRequest)
		return
	}
	raw, err := json.Marshal(row)
	if err == nil {
		err = d.deps.Rows.Commit(r.Context(), []Op{{Key: respond.RowKey(row.ID), Value: raw}})
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	d.said(row)
	w.WriteHeader(http.StatusNoContent)
}

// read decodes a body of bounded size.
func read(w http.ResponseWriter, r *http.Request, v any) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err == nil {
		err = codec.Unmarshal(body, v)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return false
	}
	return true
}

func reply(w http.ResponseWriter, v any) {
	body, err := codec.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/cbor")
	_, _ = w.Write(body) // the Engine asks again when its connection broke
}
