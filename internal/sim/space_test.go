package sim

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// fill appends messages of about 20 KiB and expunges most of them, so that
// the old log is sparse. What is left is numbered from 0.
func fill(t *testing.T, w *World, keep int) {
	t.Helper()
	s := w.Server(2).Store()
	pad := bytes.Repeat([]byte("0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcd\r\n"), 320)
	for i := range 200 {
		body := append([]byte("Subject: chaff\r\n\r\n"), pad...)
		if i%20 == 0 && i/20 < keep {
			body = append(message(i/20), pad...)
		}
		if _, err := s.Append(t.Context(), box, mail.Append{Folder: "INBOX", Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	fs, err := s.Folders(t.Context(), box)
	if err != nil {
		t.Fatal(err)
	}
	inbox := fs[slices.IndexFunc(fs, func(f mail.Folder) bool { return f.Name == "INBOX" })].ID
	found, err := s.Search(t.Context(), box, mail.SearchRequest{Folder: inbox, Criteria: mail.Criteria{Header: []mail.HeaderMatch{{Name: "Subject", Value: "chaff"}}}})
	if err != nil {
		t.Fatal(err)
	}
	var gone []mail.UIDRange
	for _, u := range found.UIDs {
		gone = append(gone, mail.UIDRange{First: u, Last: u})
	}
	if _, err := s.Expunge(t.Context(), box, mail.Expunge{Folder: inbox, UIDs: gone}); err != nil {
		t.Fatal(err)
	}
}

func quickFlush(c *mailbox.Config) {
	c.FlushEvery = 1
	c.ReclaimInterval = time.Hour
	c.ReclaimBelow = 1
}

// TestReclaimAndSeedFromTheRest drops old log on all copies, seeds a new copy
// from what is left, makes the index of an old one anew, and finds all copies
// identical.
func TestReclaimAndSeedFromTheRest(t *testing.T) {
	w := started(t, Options{Mailbox: quickFlush})
	fill(t, w, 10)
	dropped := 0
	eventually(t, "three parts of the log are dropped", func() bool {
		v := w.mustRun(t, 1, "database reclaim", `{"database":"DB01"}`)
		if fmt.Sprintf("%+v", v) != "" && bytes.Contains(fmt.Appendf(nil, "%+v", v), []byte("Dropped:true")) {
			dropped++
		}
		return dropped >= 3
	})
	for n := range 3 {
		first := func() string {
			segs, _ := filepath.Glob(filepath.Join(w.Server(n+1).Dir, "vol1", "DB01", "log", "*.log"))
			return filepath.Base(slices.Min(segs))
		}
		eventually(t, "the oldest files of a copy are gone", func() bool { return first() > "00000000000f" })
	}
	if _, err := w.Add(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.mustRun(t, 1, "copy add", `{"database":"DB01","server":"MBX4"}`)
	w.inSync(t, 1, "DB01", 4)
	w.Server(4).holdsOnce(t, 10)

	s := w.Server(3)
	s.Stop()
	if err := os.RemoveAll(filepath.Join(s.Dir, "vol1", "DB01", "index")); err != nil {
		t.Fatal(err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.inSync(t, 1, "DB01", 4)
	for _, v := range w.mustRun(t, 1, "copy verify", `{"bodies":true}`).([]mailbox.Verified) {
		if v.Result != "identical" || v.Damaged != 0 {
			t.Errorf("%+v", v)
		}
	}
	w.mustRun(t, 1, "database move", `{"database":"DB01","to":"MBX3"}`)
	w.Server(1).holdsOnce(t, 10)
}

// TestFlippedBytesHeal damages a passive and the active copy on disk; a scrub
// finds and repairs both, and nothing damaged is served.
func TestFlippedBytesHeal(t *testing.T) {
	w := started(t, Options{})
	fill(t, w, 10)
	active := w.mount(1, "DB01").Active
	for _, victim := range []org.ServerName{"MBX3", active} {
		flipBodies(t, w.Named(victim))
		w.Server(2).holdsOnce(t, 10)
		w.mustRun(t, 1, "copy scrub", `{"database":"DB01","server":"`+string(victim)+`"}`)
		vs := w.mustRun(t, 1, "copy verify", `{"bodies":true}`).([]mailbox.Verified)
		for _, v := range vs {
			if v.Result != "identical" || v.Damaged != 0 {
				t.Errorf("after damage on %s: %+v", victim, v)
			}
		}
		repairs := uint64(0)
		for _, st := range w.Named(victim).Keeper.Statuses() {
			repairs += st.Repairs
		}
		if repairs == 0 {
			t.Errorf("%s repaired nothing", victim)
		}
		notes := w.Named(victim).Notes("RepairCopy")
		if uint64(len(notes)) != repairs || notes[0].Target != "DB01" || notes[0].Cause == "" || len(notes[0].Evidence) != 1 || !strings.Contains(notes[0].Result, "was replaced from MBX") {
			t.Errorf("%d repairs, for the recovery log %+v", repairs, notes)
		}
	}
}

// flipBodies flips a bit in every message that is to be kept, on the disk of
// one server.
func flipBodies(t *testing.T, s *Server) {
	t.Helper()
	segs, err := filepath.Glob(filepath.Join(s.Dir, "vol1", "DB01", "log", "*.log"))
	if err != nil || len(segs) == 0 {
		t.Fatal(segs, err)
	}
	flipped := 0
	for _, name := range segs {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		for from := 0; ; {
			i := bytes.Index(b[from:], []byte("\r\n\r\nBody "))
			if i < 0 {
				break
			}
			at := from + i + 20
			if _, err := f.WriteAt([]byte{b[at] ^ 4}, int64(at)); err != nil {
				t.Fatal(err)
			}
			flipped++
			from = at
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if flipped == 0 {
		t.Fatal("nothing to flip was found")
	}
}
