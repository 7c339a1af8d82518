package health

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Limits of notes.
const (
	noteGather  = 2 * time.Second // until what comes together is one entry
	noteLook    = time.Second
	noteEvery   = time.Minute // between two entries, where a note says nothing else
	noteKeys    = 256         // actions and targets
	noteProofs  = 10
	noteObjects = 400 // bytes of names in a result
	noteAtOnce  = 20  // rows in one transaction
	noteLast    = 3 * time.Second
	noteMost    = 30 // entries of a server in a minute; what is more is one entry
	noteMinute  = time.Minute
	actMore     = "More" // the action of that entry
)

// Notes gathers what rooms of a server do by themselves into entries of the
// recovery log, which the Desk writes. Nobody waits for that: Take is a line in a
// table. What is repeated is one entry with a count, so that a disk that is full
// of errors or a copy that comes and goes does not fill the log. The zero value is
// not ready: NewNotes.
type Notes struct {
	log     *slog.Logger
	stretch time.Duration // what pauses are divided by

	mu   sync.Mutex // guards the rest
	open map[noteKey]*gathered
	lost int // notes that found no room
	// minute is since when written entries were made; more is the entry of what
	// was left out, over their number.
	minute        time.Time
	written, over int
	more          org.Recovery
}

// noteKey is what an entry is about.
type noteKey struct {
	action, target  string
	refused, failed bool
}

// gathered is an entry that grows.
type gathered struct {
	count   int // notes in it, 0 while nothing came since the last entry
	objects []string
	every   time.Duration
	due     time.Time // of the entry, or, while there is none, from when on the next may be
	row     org.Recovery
}

// NewNotes makes an empty table. With fast its pauses are short, for tests.
func NewNotes(log *slog.Logger, fast bool) *Notes {
	return &Notes{log: log, stretch: paceOf(Config{Fast: fast}).stretch, open: map[noteKey]*gathered{}}
}

// Take has a note written soon. It never blocks, and is safe for concurrent use.
func (n *Notes) Take(x org.Note) { n.take(x, time.Now()) }

func (n *Notes) take(x org.Note, now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	k := noteKey{x.Action, x.Target, x.Refused != "", x.Failed}
	g := n.open[k]
	if g == nil {
		if len(n.open) >= noteKeys && !n.makeRoom(now) {
			n.lost++
			return
		}
		g = &gathered{}
		n.open[k] = g
	}
	at := now.UTC()
	if g.count == 0 {
		g.row = org.Recovery{Action: x.Action, Target: x.Target, Responder: x.Responder, Begun: at, Cause: shorten(x.Cause, 512)}
		g.objects, g.every = nil, cmp.Or(x.Every, noteEvery)/n.stretch
		if due := now.Add(noteGather); due.After(g.due) {
			g.due = due
		}
	}
	g.count++
	g.row.Ended, g.row.Allowed, g.row.Failed = at, x.Refused == "", x.Failed
	g.row.Refused, g.row.Result = shorten(x.Refused, 512), x.Result
	for _, e := range x.Evidence {
		if e.At.IsZero() {
			e.At = at
		}
		e.Text = shorten(e.Text, maxResultText)
		if len(g.row.Evidence) < noteProofs {
			g.row.Evidence = append(g.row.Evidence, e)
		}
		if e.Target != "" && !slices.Contains(g.objects, e.Target) && len(g.objects) < noteKeys {
			g.objects = append(g.objects, e.Target)
		}
	}
}

// makeRoom forgets what is only remembered for its pause, the oldest.
func (n *Notes) makeRoom(now time.Time) bool {
	var oldest noteKey
	found := false
	for k, g := range n.open {
		if g.count == 0 && (!found || g.due.Before(n.open[oldest].due)) {
			oldest, found = k, true
		}
	}
	if found {
		delete(n.open, oldest)
	}
	return found
}

// due takes out the entries whose time has come, or with all every one, oldest
// first.
func (n *Notes) due(now time.Time, all bool, id func(time.Time) string) []org.Recovery {
	n.mu.Lock()
	defer n.mu.Unlock()
	var out []org.Recovery
	for k, g := range n.open {
		switch {
		case g.count == 0 && now.After(g.due):
			delete(n.open, k)
		case g.count > 0 && (all || !now.Before(g.due)):
			out = append(out, g.entry())
			g.count, g.due, g.row = 0, now.Add(g.every), org.Recovery{}
		}
	}
	slices.SortFunc(out, func(a, b org.Recovery) int {
		return cmp.Or(a.Begun.Compare(b.Begun), cmp.Compare(a.Action, b.Action), cmp.Compare(a.Target, b.Target))
	})
	out = n.limit(out, now, all)
	for i := range out {
		out[i].ID = id(out[i].Begun)
	}
	if n.lost > 0 {
		n.log.Warn("the recovery log lacks entries: too much was done at once", "notes", n.lost)
		n.lost = 0
	}
	return out
}

// limit keeps the entries that a minute has room for. What is more is counted,
// with the first proofs of it, and told in one entry when the minute is over.
func (n *Notes) limit(rows []org.Recovery, now time.Time, all bool) (out []org.Recovery) {
	if now.Sub(n.minute) >= noteMinute/n.stretch {
		out = n.told(out)
		n.minute, n.written = now, 0
	}
	for _, r := range rows {
		if n.written < noteMost {
			n.written++
			out = append(out, r)
			continue
		}
		if n.over++; n.over == 1 {
			n.more = org.Recovery{Action: actMore, Responder: "RecoveryLog", Begun: r.Begun, Allowed: true, Note: true,
				Cause: fmt.Sprintf("more than %d entries in a minute", noteMost)}
		}
		n.more.Ended = r.Ended
		if len(n.more.Evidence) < noteProofs {
			n.more.Evidence = append(n.more.Evidence, org.RecoveryEvidence{At: r.Ended, Item: r.Responder, Target: r.Target, Result: r.Action, Text: shorten(r.Cause, maxResultText)})
		}
	}
	if all {
		out = n.told(out)
	}
	return out
}

// told adds the entry of what was left out, if there is any.
func (n *Notes) told(out []org.Recovery) []org.Recovery {
	if n.over == 0 {
		return out
	}
	n.more.Result = fmt.Sprintf("and %d more", n.over)
	out, n.over, n.more = append(out, n.more), 0, org.Recovery{}
	return out
}

// entry is the row of what was gathered.
func (g *gathered) entry() org.Recovery {
	r := g.row
	r.Note = true
	if g.count > 1 {
		names := strings.Join(g.objects, " ")
		r.Result = fmt.Sprintf("%d times (%s); the last: %s", g.count, shorten(names, noteObjects), r.Result)
	}
	r.Result = shorten(r.Result, 1024)
	return r
}

// shorten keeps the first n bytes of a text.
func shorten(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-3], "") + "..."
}

// writeNotes writes what rooms tell until ctx ends, and then what is left.
func (d *Desk) writeNotes(ctx context.Context) {
	t := time.NewTicker(noteLook)
	defer t.Stop()
	for {
		d.noteRows(ctx, false)
		select {
		case <-t.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), noteLast)
			d.noteRows(last, true)
			cancel()
			return
		}
	}
}

func (d *Desk) noteRows(ctx context.Context, all bool) {
	rows := d.deps.Notes.due(time.Now(), all, d.gate.NewID)
	for batch := range slices.Chunk(rows, noteAtOnce) {
		for i := range batch {
			batch[i].Server = d.deps.Server
		}
		if err := d.gate.RecordAll(ctx, batch); err != nil {
			d.deps.Log.Warn("the recovery log was not written", "error", err)
		}
		for _, r := range batch {
			d.figures.deed(r)
		}
	}
}
