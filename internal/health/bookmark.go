package health

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/health/monitor"
	"github.com/postern-mail/postern/internal/health/respond"
	"github.com/postern-mail/postern/internal/org"
)

// The Engine's bookmarks, in the file health/state.cbor: what of each monitor is
// not as if it had just been made. A restart goes on from there.

type bookmarks struct {
	Format int        `cbor:"1,keyasint"`
	Saved  time.Time  `cbor:"2,keyasint"` // wall time
	Marks  []bookmark `cbor:"3,keyasint"`
}

type bookmark struct {
	Set      string           `cbor:"1,keyasint"`
	Name     string           `cbor:"2,keyasint"`
	Target   string           `cbor:"3,keyasint,omitempty"`
	Machine  monitor.Bookmark `cbor:"4,keyasint"`
	Progress respond.Progress `cbor:"5,keyasint"` // moments from the time of saving
}

const bookmarkFormat = 1

func (e *Engine) bookmarkPath() string { return filepath.Join(e.deps.Dir, folder, "state.cbor") }

// bookmark saves, now and then or at the end.
func (e *Engine) bookmark(last bool) {
	if !last && time.Since(e.saved) < max(saveEvery/e.pace.stretch, turnEvery) {
		return
	}
	e.saved = time.Now()
	now := e.now()
	var marks []bookmark
	for k, w := range e.machines {
		m := w.machine.Save(now)
		past := !m.HadRed || m.State == org.HealthOK && m.RedEnd > calm/e.pace.stretch
		if past && len(w.progress.Out) == 0 && !w.progress.Told {
			continue // as if just made
		}
		p := w.progress
		p.Done = cloneTried(p.Done)
		p.Shift(-now)
		marks = append(marks, bookmark{k.set, k.probe, k.target, m, p})
	}
	slices.SortFunc(marks, func(a, b bookmark) int {
		return strings.Compare(a.Set+`\`+a.Name+`\`+a.Target, b.Set+`\`+b.Name+`\`+b.Target)
	})
	raw := codec.MustMarshal(marks)
	if bytes.Equal(raw, e.kept) {
		return // nothing to tell: an idle server writes nothing
	}
	if err := respond.ReplaceFile(e.bookmarkPath(), codec.MustMarshal(bookmarks{bookmarkFormat, e.saved.Round(0), marks}), false); err != nil {
		e.deps.Log.Warn("the health bookmarks were not written", "error", err)
		return
	}
	e.kept = raw
}

func cloneTried(m map[string]respond.Tried) map[string]respond.Tried {
	out := make(map[string]respond.Tried, len(m))
	for k, v := range m {
		out[k] = v
	}
	return out
}

// maxBookmarks is how large a file is read.
const maxBookmarks = 16 << 20

// restore goes on from the bookmarks. A file that cannot be read, or is of
// another format, is left alone: ladders begin anew.
func (e *Engine) restore() {
	st, err := os.Stat(e.bookmarkPath())
	if err != nil || st.Size() > maxBookmarks {
		return
	}
	raw, err := os.ReadFile(e.bookmarkPath())
	var b bookmarks
	if err != nil || codec.Unmarshal(raw, &b) != nil || b.Format != bookmarkFormat {
		e.deps.Log.Warn("the health bookmarks cannot be read; ladders begin anew", "error", err)
		return
	}
	away := min(max(time.Since(b.Saved), 0), 24*time.Hour) // a clock that jumped changes no more than this
	for _, x := range b.Marks {
		for _, m := range e.items.Monitors {
			if m.Set == x.Set && m.Name == x.Name {
				e.goOn(m, x, away)
			}
		}
	}
}

// goOn makes a monitor as its bookmark says. After a long absence only what was
// taken out is remembered, so that it is given back.
func (e *Engine) goOn(m Monitor, x bookmark, away time.Duration) {
	w := e.watchedOf(m, x.Target)
	if w == nil {
		return
	}
	now := e.now()
	if away > calm/e.pace.stretch {
		w.progress.Out, w.progress.Told = x.Progress.Out, x.Progress.Told
		return
	}
	w.machine = monitor.Restore(x.Machine, away, now)
	w.progress = x.Progress
	w.progress.Shift(now - away)
	state, since := w.machine.State()
	w.shown, w.since = state, since
	if state == org.UnInitialized {
		w.since = now
	}
}
