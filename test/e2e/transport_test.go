package e2e

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/emersion/go-imap/v2"
)

// visibleWithin is how soon what a dead server promised has to be in the mailbox.
const visibleWithin = 10 * time.Second

// TestKilledAfterItsWord kills a server for good within a millisecond of its
// 250, at default timers: its shadows deliver what it promised, once. It measures
// a time, so nothing runs beside it.
func TestKilledAfterItsWord(t *testing.T) {
	t.Parallel()
	g := &group{t: t, dir: filepath.Join(t.TempDir(), "lab"), copies: 3, done: make(chan struct{})}
	g.run("--base-port", "28000", "--users", "6")
	g.killedWhileHeld(t)
	g.killedInFullSwing(t)
	g.settled(time.Minute)
	must(t, g.command(t.Context(), nil, "queue", "verify"))
	g.identical()
}

// killedWhileHeld holds back what waits for the database, so that the message is
// in the queue and its copy and nowhere else when its server dies.
func (g *group) killedWhileHeld(t *testing.T) {
	u := g.file().Users[1]
	victim := "MBX2"
	want := map[int][]string{1: {"the last word"}}
	dest := "db:" + u.Database
	must(t, g.command(t.Context(), nil, "queue", "suspend", "--destination", dest))
	let(t, 2*time.Second) // servers follow within one
	s := halfSent(t, g.server(victim).SMTP, u.Address, "the last word")
	pids := g.server(victim).PIDs()
	s.finish()
	answer, err := s.r.ReadString('\n')
	at := end(t, pids)
	if must(t, err); !strings.HasPrefix(answer, "250 ") {
		t.Fatalf("the server said %q", answer)
	}
	eventually(t, 30*time.Second, "a shadow took the message over", func() error {
		var rows []struct {
			Server    string `json:"server"`
			TakenFrom string `json:"taken_from"`
			Recipient string `json:"recipient"`
		}
		if err := g.at(g.others(victim)[0], &rows, "queue", "show"); err != nil {
			return err
		}
		if len(rows) != 1 || rows[0].TakenFrom != victim || rows[0].Server == victim || rows[0].Recipient != u.Address {
			return fmt.Errorf("%+v", rows)
		}
		return nil
	})
	must(t, g.at(g.others(victim)[0], nil, "queue", "resume", "--destination", dest))
	g.visible(t, victim, want, at)
	g.back(victim)
	g.onlyOnce(t, victim, want)
}

// killedInFullSwing has messages on their way on many connections and kills their
// server at the first 250 that is read.
func (g *group) killedInFullSwing(t *testing.T) {
	const connections = 24
	victim := "MBX1"
	users := g.file().Users
	var all []sending
	for i := range connections { // two digits: IMAP searches for parts of a subject
		all = append(all, halfSent(t, g.server(victim).SMTP, users[i%len(users)].Address, fmt.Sprintf("in full swing %02d", i)))
	}
	pids := g.server(victim).PIDs()
	type heard struct {
		n    int
		said string
		at   time.Time
	}
	answers := make(chan heard, connections)
	for i, s := range all {
		go func() {
			said, err := s.r.ReadString('\n')
			if err != nil {
				said = err.Error()
			}
			answers <- heard{i, said, time.Now()}
		}()
	}
	for _, s := range all {
		s.finish()
	}
	promised := map[int][]string{}
	kept, first := 0, time.Time{}
	for range all {
		h := <-answers
		if !strings.HasPrefix(h.said, "250 ") {
			continue
		}
		if kept++; kept == 1 {
			first = end(t, pids)
			t.Logf("killed %s after its 250 was read", first.Sub(h.at))
		}
		n := h.n % len(users)
		promised[n] = append(promised[n], fmt.Sprintf("in full swing %02d", h.n))
	}
	if kept == 0 {
		t.Fatal("nothing was accepted")
	}
	t.Logf("%d of %d messages were accepted", kept, connections)
	g.visible(t, victim, promised, first)
	g.back(victim)
	g.onlyOnce(t, victim, promised)
}

// end kills the processes of a server, the host first, and tells when they
// were dead.
func end(t *testing.T, pids []int) time.Time {
	t.Helper()
	for _, pid := range pids {
		// The worker may have followed its host before its turn came.
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			t.Fatal(err)
		}
	}
	return time.Now()
}

// visible waits until other servers than the one that died show all messages,
// by user, and complains when that took too long since.
func (g *group) visible(t *testing.T, away string, want map[int][]string, since time.Time) {
	t.Helper()
	for n, subjects := range want {
		var got []string
		eventually(t, 30*time.Second, fmt.Sprintf("user %d sees %d messages", n, len(subjects)), func() error {
			f := g.file()
			server, _ := f.Server(g.others(away)[0])
			r, err := login(t.Context(), server.IMAPS, g.tls, f.Users[n].Address, f.Users[n].Password)
			if err != nil {
				return err
			}
			defer r.Close()
			if got, err = r.subjects("INBOX"); err != nil {
				return err
			}
			for _, s := range subjects {
				if !slices.Contains(got, s) {
					return fmt.Errorf("%q is not in %q", s, got)
				}
			}
			return nil
		})
		if d := time.Since(since); d > visibleWithin {
			t.Errorf("user %d saw all %s after the kill, want %s", n, d.Round(100*time.Millisecond), visibleWithin)
		}
	}
	t.Logf("all visible %s after the kill", time.Since(since).Round(10*time.Millisecond))
}

// onlyOnce looks again when the dead server is back and had its say.
func (g *group) onlyOnce(t *testing.T, victim string, want map[int][]string) {
	t.Helper()
	g.settled(time.Minute)
	f := g.file()
	server, _ := f.Server(victim)
	for n, subjects := range want {
		r, err := login(t.Context(), server.IMAPS, g.tls, f.Users[n].Address, f.Users[n].Password)
		must(t, err)
		for _, s := range subjects {
			_, err := r.Select("INBOX", &imap.SelectOptions{ReadOnly: true}).Wait()
			must(t, err)
			if _, err := r.body("INBOX", s); err != nil {
				t.Error(err)
			}
		}
		r.Close()
	}
}

// settled waits until no queue has anything left to do.
func (g *group) settled(patience time.Duration) {
	g.t.Helper()
	eventually(g.t, patience, "the queues are empty", func() error {
		var list []struct {
			Server      string `json:"server"`
			Unfinished  int    `json:"unfinished"`
			Reconciling int    `json:"reconciling"`
			Error       string `json:"error"`
		}
		err := g.command(g.t.Context(), &list, "queue", "status")
		for _, q := range list {
			if q.Unfinished+q.Reconciling > 0 || q.Error != "" {
				return fmt.Errorf("%+v", q)
			}
		}
		return err
	})
}
