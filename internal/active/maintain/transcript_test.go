package maintain

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/active/plan"
	"github.com/postern-mail/postern/internal/org"
)

// TestTranscripts plays testdata/*.txt: what happens above the line, everything
// that was decided and said below. UPDATE=1 writes them anew; read the
// difference before you keep it.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			script, want, _ := strings.Cut(string(b), "----\n")
			var got string
			synctest.Test(t, func(t *testing.T) {
				p := &player{t: t, w: newWorld(t), begun: time.Now()}
				defer p.w.stop()
				for line := range strings.Lines(script) {
					if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
						p.do(strings.Fields(line))
					}
				}
				got = p.out.String()
			})
			if os.Getenv("UPDATE") != "" {
				if err := os.WriteFile(file, []byte(script+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

// player carries a script out.
type player struct {
	t     *testing.T
	w     *world
	begun time.Time
	mu    sync.Mutex // guards out
	out   strings.Builder
	plan  string
	told  map[string]bool
}

func (p *player) say(format string, args ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fmt.Fprintf(&p.out, "%7s  %s\n", time.Since(p.begun).Round(time.Second), fmt.Sprintf(format, args...))
}

func (p *player) do(f []string) {
	s := org.ServerName("")
	if len(f) > 1 {
		s = org.ServerName(f[1])
	}
	switch f[0] {
	case "servers":
		var names []org.ServerName
		for _, n := range f[1:] {
			names = append(names, org.ServerName(n))
		}
		p.w.servers(names...)
		p.w.run(func(x org.Plan, what string) { p.say("%s: %s %s", x.Owner, x.Title, what) }, names...)
	case "database":
		var copies []org.ServerName
		for _, n := range f[2:] {
			copies = append(copies, org.ServerName(n))
		}
		p.w.database(org.DatabaseName(f[1]), copies[0], copies...)
	case "queue":
		p.w.state.Put("queue/"+f[1], f[2])
	case "sessions":
		var n int
		fmt.Sscan(f[2], &n)
		p.w.set(func() { p.w.sessions[s] = n })
	case "deaf":
		p.w.set(func() { p.w.deaf[f[1]+" "+f[2]] = true })
	case "hears":
		p.w.set(func() { clear(p.w.deaf) })
	case "behind":
		p.w.set(func() { p.w.behind[s] = true })
	case "caught-up":
		p.w.set(func() { p.w.behind[s] = false })
	case "down":
		p.w.set(func() { p.w.down[s] = true })
	case "up":
		p.w.set(func() { p.w.down[s] = false })
	case "hold":
		p.w.hold(s, org.Component(f[2]), org.Requester(f[3]), strings.Join(f[4:], " "))
	default:
		p.order(s, f)
	}
}

// order is what an administrator does.
func (p *player) order(s org.ServerName, f []string) {
	l, e := p.w.library("Z"), p.w.engine("Z", nil)
	o := Order{Server: s, By: "ann"}
	for _, x := range f[1:] {
		o.AcceptSingle, o.Force, o.Balance = o.AcceptSingle || x == "accept", o.Force || x == "force", o.Balance || x == "balance"
	}
	switch f[0] {
	case "start", "stop":
		make := l.Start
		if f[0] == "stop" {
			make = l.Stop
		}
		x, err := make(l.Facts(p.t.Context()), o)
		if err == nil {
			x, err = e.Start(p.t.Context(), x)
		}
		if err != nil {
			p.say("refused: %s", hideID(err.Error(), p.plan))
			return
		}
		p.plan, p.told = x.ID, map[string]bool{}
	case "after":
		d, err := time.ParseDuration(f[1])
		if err != nil {
			p.t.Fatal(err)
		}
		p.after(e, d)
	case "resume":
		if err := e.Resume(p.t.Context(), p.plan, "ann", len(f) > 1 && f[1] == "skip"); err != nil {
			p.say("refused: %v", err)
		}
	case "abort":
		if err := e.Abort(p.t.Context(), p.plan, "ann"); err != nil {
			p.say("refused: %v", err)
		}
	case "status":
		for _, st := range l.Status(p.t.Context(), s, nil) {
			p.say("%s %s, safe %v, %d active, %d in sync, %d queued, roles %q; %s", st.Server, st.State, st.Safe, st.Active, st.InSync, st.Waiting, st.Roles, st.Because)
		}
	default:
		p.t.Fatalf("%q is not known", f)
	}
}

// after lets time pass, and tells each step as it goes.
func (p *player) after(e *plan.Engine, d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		<-time.After(time.Second)
		synctest.Wait()
		x, err := e.Get(p.plan)
		if err != nil {
			continue
		}
		for _, s := range x.Steps {
			line := fmt.Sprintf("%s: %s", s.Name, s.State)
			switch {
			case s.State == org.StepWaiting:
				continue
			case s.State == org.StepRunning:
				line += ", waits " + s.Wait
			case s.Error != "":
				line += ", " + s.Error
			case s.State == org.StepDone && (s.Name == StepOff || strings.Contains(s.Detail, "held by")):
				line += ", " + s.Detail
			}
			if !p.told[line] {
				p.told[line] = true
				p.say("  %s", line)
			}
		}
	}
}

func hideID(text, id string) string {
	if id == "" {
		return text
	}
	return strings.ReplaceAll(text, id, "ID")
}
