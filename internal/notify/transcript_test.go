package notify

import (
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/org"
)

// Kinds of events for the scripts: one that lasts until the other comes.
var (
	_ = event.Define(9001, "store_red", slog.LevelError, "A store is red.", "")
	_ = event.Define(9002, "store_green", slog.LevelInfo, "A store is green.", "", 9001)
)

var update = flag.Bool("update", false, "write what is told into the transcripts")

// TestTranscripts plays timelines in simulated time: testdata/*.txt, input, a
// line "----", and what was told when by whom through which channel.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) < 8 {
		t.Fatalf("%d transcripts: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(b), "----\n")
			var got string
			synctest.Test(t, func(t *testing.T) { got = play(t, input) })
			if *update {
				if err := os.WriteFile(file, []byte(input+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("told:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// play runs a script; see the files in testdata.
func play(t *testing.T, input string) string {
	var w *world
	for line := range strings.Lines(input) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), " #")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Fields(line)
		switch f[0] {
		case "servers":
			w = newWorld(t)
			for _, name := range f[1:] {
				w.servers[org.ServerName(name)] = &server{w: w, name: org.ServerName(name)}
			}
		case "channel":
			c := Channel{Name: f[1], Kind: Webhook, Address: "https://example.com/"}
			for _, o := range f[2:] {
				v := strings.TrimPrefix(o, "limit=")
				c.PerHour, _ = strconv.Atoi(v)
			}
			w.put(channelPrefix+f[1], c.withDefaults())
		case "rule":
			w.put(rulePrefix+f[1], ruleOf(t, f[1:]))
		case "turn": // a slower one, for timelines of weeks
			d, err := time.ParseDuration(f[1])
			if err != nil {
				t.Fatal(err)
			}
			w.turn = d
		case "run":
			for _, name := range slices.Sorted(maps.Keys(w.servers)) {
				w.start(name)
				// No two loops turn at the same moment, and none when a line of the
				// script is done: the order of what happens is the same each time.
				time.Sleep(100 * time.Millisecond)
			}
			time.Sleep(3050*time.Millisecond + 3*w.turn) // claims
			w.begun = time.Now()
		default:
			d, err := time.ParseDuration(f[0])
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			time.Sleep(time.Until(w.begun.Add(d)))
			synctest.Wait()
			act(t, w, f[1:], strings.TrimSpace(strings.TrimPrefix(line, f[0])))
			synctest.Wait()
		}
	}
	w.stop()
	return w.transcript()
}

func ruleOf(t *testing.T, f []string) Rule {
	r := Rule{Name: f[0], Level: LevelWarn}
	for _, o := range f[1:] {
		k, v, _ := strings.Cut(o, "=")
		d, err := time.ParseDuration(v)
		switch k {
		case "channels":
			r.Channels, err = strings.Split(v, ","), nil
		case "codes":
			var n int
			n, err = strconv.Atoi(v)
			r.Codes = append(r.Codes, n)
		case "level":
			r.Level, err = v, nil
		case "after":
			r.After = d
		case "repeat":
			r.Repeat = d
		case "quiet":
			r.Quiet, err = v, nil
		case "escalate":
			var e Escalation
			err = e.UnmarshalText([]byte(v))
			r.Escalate = append(r.Escalate, e)
		default:
			t.Fatalf("rule: %q", o)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// act does one line of a script.
func act(t *testing.T, w *world, f []string, line string) {
	switch f[0] {
	case "end":
	case "alerts":
		for _, a := range w.any().alerts(alertListArgs{State: "all", Count: 10}) {
			w.say("alert %s %s %d %s, %d times, %v", a.State, a.Level, a.Code, a.Object, a.Count, a.Servers)
		}
	case "count":
		w.say("%d alerts, more than %d commits: %t", len(w.any().alerts(alertListArgs{State: "all", Count: 1 << 20})), 2000, w.commits > 2000)
	case "quorum":
		w.mu.Lock()
		w.quorum = f[1] == "on"
		w.mu.Unlock()
	case "kill":
		w.kill(org.ServerName(f[1]))
	case "stop":
		w.shut(org.ServerName(f[1]))
	case "start":
		w.start(org.ServerName(f[1]))
	case "endpoint":
		w.mu.Lock()
		w.endpoint[f[1]] = strings.TrimPrefix(f[2], "up")
		w.mu.Unlock()
	case "ack":
		key := strings.TrimPrefix(line, "ack ")
		if _, err := w.any().Acknowledge(t.Context(), idOf(key), "ann", "on it"); err != nil {
			t.Error(err)
		}
	default:
		w.onServer(t, w.servers[org.ServerName(f[0])].n, f[1:], strings.TrimPrefix(line, f[0]+" "))
	}
}

// any is the room of a server that runs.
func (w *world) any() *Notifier {
	for _, name := range slices.Sorted(maps.Keys(w.servers)) {
		if s := w.servers[name]; s.up {
			return s.n
		}
	}
	return nil
}

func (w *world) onServer(t *testing.T, n *Notifier, f []string, line string) {
	code, _ := strconv.Atoi(f[1])
	switch f[0] {
	case "event": // event CODE LEVEL SENTENCE [ends CODE]
		e := event.Event{Code: code, Level: strings.ToUpper(f[2]), Time: time.Now()}
		text, ends, ok := strings.Cut(strings.SplitN(line, " ", 4)[3], " ends ")
		if e.Sentence = text; ok {
			c, _ := strconv.Atoi(ends)
			e.Ends = []int{c}
		}
		n.Observe(e)
	case "raise": // raise CODE LEVEL OBJECT
		n.Raise(Report{Code: code, Level: strings.TrimPrefix(f[2], "critical-"), Object: f[3], Sentence: f[3] + " is red", Lasting: true, Critical: strings.HasPrefix(f[2], "critical-")})
	case "clear":
		n.Clear(code, f[2], "it is green")
	case "storm": // storm CODE HOW-MANY
		many, _ := strconv.Atoi(f[2])
		for i := range many {
			n.Raise(Report{Code: code, Level: LevelWarn, Object: fmt.Sprintf("thing-%05d", i), Sentence: fmt.Sprintf("thing-%05d is red", i), Lasting: true})
		}
	default:
		t.Fatalf("%q", f)
	}
}
