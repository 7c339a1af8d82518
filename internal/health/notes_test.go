package health

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// evicted is a note about a database of a server.
func evicted(server, db string) org.Note {
	return org.Note{Action: "Evict", Target: server, Responder: "InSync", Cause: server + " is gone", Every: time.Minute,
		Evidence: []org.RecoveryEvidence{{Item: "InSync", Target: db, Result: "removed", Text: "its connection is gone"}}, Result: db + " goes on with MBX1"}
}

// TestNotesGather: what comes together is one entry; what is repeated soon is one
// more when its pause is over.
func TestNotesGather(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	n := NewNotes(slog.New(slog.DiscardHandler), false)
	due := func(after time.Duration) (out []string) {
		for _, r := range n.due(at.Add(after), false, func(at time.Time) string { return at.Format("150405") }) {
			out = append(out, fmt.Sprintf("%s %s %s: %s, %d results, ended %s", r.ID, r.Action, r.Target, r.Result, len(r.Evidence), r.Ended.Format("150405")))
		}
		return out
	}
	for i := range 12 {
		n.take(evicted("MBX2", fmt.Sprintf("DB%02d", i)), at)
	}
	n.take(evicted("MBX3", "DB01"), at.Add(time.Second))
	for _, c := range []struct {
		after time.Duration
		want  string
	}{
		{time.Second, ""},
		{2 * time.Second, "120000 Evict MBX2: 12 times (DB00 DB01 DB02 DB03 DB04 DB05 DB06 DB07 DB08 DB09 DB10 DB11); the last: DB11 goes on with MBX1, 10 results, ended 120000"},
		{3 * time.Second, "120001 Evict MBX3: DB01 goes on with MBX1, 1 results, ended 120001"},
	} {
		if got := strings.Join(due(c.after), "\n"); got != c.want {
			t.Errorf("after %v: %q, want %q", c.after, got, c.want)
		}
	}
	n.take(evicted("MBX2", "DB01"), at.Add(10*time.Second))
	n.take(evicted("MBX2", "DB01"), at.Add(20*time.Second))
	if got := due(61 * time.Second); got != nil {
		t.Errorf("within its pause: %q", got)
	}
	if got := due(62 * time.Second); len(got) != 1 || got[0] != "120010 Evict MBX2: 2 times (DB01); the last: DB01 goes on with MBX1, 2 results, ended 120020" {
		t.Errorf("after its pause: %q", got)
	}
	due(10 * time.Minute)
	if len(n.open) != 0 {
		t.Errorf("%d are remembered for ever", len(n.open))
	}
}

// TestNotesAreBounded: more things at once than there is room for are counted, and
// cost no more; texts are cut.
func TestNotesAreBounded(t *testing.T) {
	at := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	n := NewNotes(slog.New(slog.DiscardHandler), false)
	for i := range 10 * noteKeys {
		x := evicted(fmt.Sprintf("MBX%d", i), "DB01")
		x.Cause, x.Result = strings.Repeat("é", 5000), strings.Repeat("x", 5000)
		n.take(x, at)
	}
	if len(n.open) != noteKeys || n.lost != 9*noteKeys {
		t.Errorf("%d remembered, %d counted", len(n.open), n.lost)
	}
	rows := n.due(at.Add(time.Minute), false, func(time.Time) string { return "" })
	if len(rows) != noteMost || len(rows[0].Cause) > 512 || len(rows[0].Result) > 1024 || !rows[0].Note || n.lost != 0 {
		t.Errorf("%d rows, %d bytes, %d bytes, %d lost", len(rows), len(rows[0].Cause), len(rows[0].Result), n.lost)
	}
	rows = n.due(at.Add(2*time.Minute), false, func(time.Time) string { return "" })
	if want := fmt.Sprintf("and %d more", noteKeys-noteMost); len(rows) != 1 || rows[0].Action != actMore || rows[0].Result != want || len(rows[0].Evidence) != noteProofs || !rows[0].Note {
		t.Errorf("%+v, want %s", rows, want)
	}
	for i := range noteMost + 2 { // all that is left when the server stops
		n.take(evicted(fmt.Sprintf("MBX%d", i), "DB01"), at.Add(2*time.Minute))
	}
	if rows = n.due(at.Add(2*time.Minute), true, func(time.Time) string { return "" }); len(rows) != noteMost+1 || rows[noteMost].Result != "and 2 more" {
		t.Errorf("%d rows at the stop: %+v", len(rows), rows[len(rows)-1])
	}
	for i := range noteKeys {
		n.take(evicted(fmt.Sprintf("MBX%d", i), "DB01"), at)
	}
	n.due(at.Add(10*time.Minute), false, func(time.Time) string { return "" })
	n.take(evicted("MBX-new", "DB01"), at.Add(time.Minute)) // those whose entry is written give room
	if n.lost != 0 || len(n.open) != noteKeys {
		t.Errorf("%d lost, %d remembered", n.lost, len(n.open))
	}
}

// TestLogIsTidied drops what is old first, and of what is too much the notes; how
// many follows how much too long the log is.
func TestLogIsTidied(t *testing.T) {
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		name                 string
		old, deeds, notes    int // each older than the next
		wantDeeds, wantNotes int // dropped of those that are not old
		wantOld              int
	}{
		{"short", 0, 20, 20, 0, 0, 0},
		{"old", 70, 20, 20, 0, 0, dropAtOnce},
		{"notes go first", 0, keepRows - 10, 200, 0, 190, 0},
		{"few notes", 0, keepRows + 60, 40, 60, 40, 0},
		{"old ones first", 30, keepRows, 100, 0, 100, 30},
		{"a thousand at once", 0, keepRows - 100, 3 * dropMost, 0, dropMost, 0},
	} {
		st := newState()
		var ops []Op
		put := func(kind string, at time.Time, n int, row org.Recovery) {
			raw, err := json.Marshal(row)
			if err != nil {
				t.Fatal(err)
			}
			for i := range n {
				ops = append(ops, Op{Key: org.RecoveryPrefix + org.RecoveryID(at, "MBX1", fmt.Sprintf("%s%05d", kind, i)), Value: raw})
			}
		}
		put("old", now.Add(-31*24*time.Hour), c.old, org.Recovery{})
		put("deed", now.Add(-2*time.Hour), c.deeds, org.Recovery{Action: "RestartService"})
		put("note", now.Add(-time.Hour), c.notes, org.Recovery{Action: "Evict", Note: true})
		if err := st.Commit(t.Context(), ops); err != nil {
			t.Fatal(err)
		}
		d := &Desk{deps: DeskDeps{Rows: st}}
		got := map[string]int{}
		for _, op := range d.staleLog(now) {
			for _, kind := range []string{"old", "deed", "note"} {
				if strings.Contains(op.Key, "-"+kind) {
					got[kind]++
				}
			}
		}
		if got["old"] != c.wantOld || got["deed"] != c.wantDeeds || got["note"] != c.wantNotes {
			t.Errorf("%s: %v are dropped", c.name, got)
		}
	}
}

// TestNotesAreWritten: without quorum they wait in the journal of the server; what
// is gathered when it stops is written then.
func TestNotesAreWritten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, "MBX1", newState(), newMesh("MBX1"), imap(&door{}))
		s.start()
		refused := evicted("MBX2", "DB01")
		refused.Refused = "the disk is slow"
		s.rows.cut(true)
		s.desk.deps.Notes.Take(evicted("MBX2", "DB01"))
		s.desk.deps.Notes.Take(refused)
		wait(5 * time.Second)
		if got := s.log(); len(got) != 0 || len(s.desk.journal.Waiting()) != 2 {
			t.Errorf("without quorum: %+v, %+v", got, s.desk.journal.Waiting())
		}
		s.rows.cut(false)
		wait(30 * time.Second)
		got := s.log()
		if len(got) != 2 || got[0].Server != "MBX1" || got[0].Cause != "MBX2 is gone" || len(got[0].Evidence) != 1 || got[0].ID == got[1].ID ||
			got[0].Allowed == got[1].Allowed || got[0].Ended.IsZero() {
			t.Errorf("with quorum again: %+v", got)
		}
		s.desk.deps.Notes.Take(evicted("MBX3", "DB01"))
		s.stop()
		if got := s.log(); len(got) != 3 || got[2].Target != "MBX3" {
			t.Errorf("after the stop: %+v", got)
		}
	})
}
