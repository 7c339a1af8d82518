package safetynet

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

// Prefix is what the keys of requests and their parts begin with.
const Prefix = "safetynet/"

// MaxRequests is how many requests are kept.
const MaxRequests = 1000

// history is how long a request stays listed when nothing is kept any more of
// its interval.
const history = 7 * 24 * time.Hour

func requestKey(id string) string { return Prefix + id }

// partKey is the key of what server did for a request, for whose messages;
// empty: its own.
func partKey(id string, server, whose org.ServerName) string {
	k := Prefix + id + "/" + string(server)
	if whose != "" {
		k += "/" + string(whose)
	}
	return k
}

// RequestOp writes a request.
func RequestOp(r org.SafetyNetRequest) cluster.Op { return put(requestKey(r.ID), r) }

// put is an Op that writes a row. The rows of this package always encode.
func put(key string, row any) cluster.Op {
	b, err := json.Marshal(row)
	if err != nil {
		panic("safetynet: encode " + key + ": " + err.Error())
	}
	return cluster.Op{Key: key, Value: b}
}

// AfterLoss is the request for what a database lacks after a lossy mount: all
// that was delivered since then, or everything that is kept where since is zero.
// What an earlier request brought may be lost as well, so its interval counts.
func AfterLoss(v *cluster.View, g settings.Group, now time.Time, db org.DatabaseName, since time.Time, why string) org.SafetyNetRequest {
	oldest := now.Add(-g.HoldTime.Std())
	from := since
	for _, e := range entries(v) {
		if e.bad == nil && e.request.Database == db && !e.before(since) && e.request.From.Before(from) {
			from = e.request.From
		}
	}
	if from.Before(oldest) {
		from = oldest
	}
	if from.After(now) {
		from = now
	}
	return finished(org.SafetyNetRequest{Database: db, From: from, To: now, Why: why}, g, now)
}

// finished fills in what every new request has.
func finished(r org.SafetyNetRequest, g settings.Group, now time.Time) org.SafetyNetRequest {
	r.ID = mail.NewTraceID(now).String()
	r.From, r.To, r.Created = r.From.UTC(), r.To.UTC(), now.UTC()
	r.Expires = r.Created.Add(g.HoldTime.Std() + history)
	return r
}

// entry is a request with its parts, in the order of their keys.
type entry struct {
	request  org.SafetyNetRequest
	revision int64
	parts    []org.SafetyNetPart
	keys     []string // of the parts
	bad      error    // the row cannot be read
}

// before tells whether nothing was delivered for the request since t.
func (e *entry) before(t time.Time) bool {
	if len(e.parts) == 0 || !e.request.Created.Before(t) {
		return false
	}
	return !slices.ContainsFunc(e.parts, func(p org.SafetyNetPart) bool {
		return p.State == org.SafetyNetRunning || !p.Updated.Before(t)
	})
}

// entries are all requests of a view, oldest first.
func entries(v *cluster.View) []*entry { return entriesOf(v, "") }

// entriesOf are the requests whose identity begins with id.
func entriesOf(v *cluster.View, id string) []*entry {
	var out []*entry
	for key, it := range v.Prefix(Prefix + id) {
		id, rest, isPart := strings.Cut(strings.TrimPrefix(key, Prefix), "/")
		n := len(out)
		if !isPart {
			e := &entry{revision: it.Revision}
			e.bad = json.Unmarshal(it.Value, &e.request)
			e.request.ID = id
			out = append(out, e)
			continue
		}
		if n == 0 || out[n-1].request.ID != id {
			continue // of a request that was cancelled
		}
		var p org.SafetyNetPart
		if err := json.Unmarshal(it.Value, &p); err != nil {
			p.State, p.Error = org.SafetyNetFailed, "its row cannot be read"
			server, whose, _ := strings.Cut(rest, "/")
			p.Server, p.For = org.ServerName(server), org.ServerName(whose)
		}
		out[n-1].parts, out[n-1].keys = append(out[n-1].parts, p), append(out[n-1].keys, key)
	}
	return out
}

// find returns one request.
func find(v *cluster.View, id string) (*entry, error) {
	for _, e := range entriesOf(v, id) {
		if e.request.ID == id {
			return e, nil
		}
	}
	return nil, kind.WithHint(kind.Errorf(kind.NotFound, "there is no Safety Net request %.40s", id), "postern safetynet list")
}
