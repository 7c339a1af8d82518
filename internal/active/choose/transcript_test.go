package choose

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/transcript"
	"github.com/postern-mail/postern/internal/org"
)

// TestTranscripts decides what is told above the line of each file in testdata
// and compares it with what stands below. A file is about one pass:
//
//	active MBX2=3                                        databases active now
//	health MBX2 Volume:Unhealthy:critical IMAP:Degraded  sets of a server
//	question DB01 failover from=MBX1 site=A ...          opens a question
//	copy MBX2 pref=2 sync replay=180 ...                 one of its copies
func TestTranscripts(t *testing.T) {
	transcript.Check(t, "testdata/*.txt", func(in string) string { return play(t, in) })
}

type script struct {
	t      *testing.T
	active map[org.ServerName]int
	health map[org.ServerName]map[string]org.SetHealth
	qs     []Question
}

func play(t *testing.T, in string) string {
	t.Helper()
	s := &script{t: t, active: map[org.ServerName]int{}, health: map[org.ServerName]map[string]org.SetHealth{}}
	for line := range strings.Lines(in) {
		line, _, _ = strings.Cut(strings.TrimSpace(line), "#")
		if f := strings.Fields(line); len(f) > 0 {
			s.line(f)
		}
	}
	var b strings.Builder
	for i, d := range ChooseAll(s.qs, s.active) {
		q := s.qs[i]
		if d.Target == "" {
			fmt.Fprintf(&b, "%s: no copy can be activated\n", q.Database)
		} else {
			fmt.Fprintf(&b, "%s: activate on %s: %s\n", q.Database, d.Target, d.Why)
		}
		for _, p := range d.Passed {
			fmt.Fprintf(&b, "  not %s: %s\n", p.Server, p.Why)
		}
		for _, w := range d.Warnings {
			fmt.Fprintf(&b, "  warning: %s\n", w)
		}
	}
	return b.String()
}

func (s *script) line(f []string) {
	switch f[0] {
	case "active":
		for _, w := range f[1:] {
			k, v, _ := strings.Cut(w, "=")
			s.active[org.ServerName(k)] = s.number(v)
		}
	case "health":
		sets := map[string]org.SetHealth{}
		for _, w := range f[2:] {
			p := append(strings.Split(w, ":"), "critical", "")
			sets[p[0]] = org.SetHealth{State: org.HealthState(p[1]), Priority: org.HealthPriority(p[2])}
		}
		s.health[org.ServerName(f[1])] = sets
	case "question":
		q := Question{Database: org.DatabaseName(f[1]), Purpose: Purpose(f[2])}
		if q.Purpose == "health" {
			q.Purpose = HealthMove
		}
		for _, w := range f[3:] {
			s.ofQuestion(&q, w)
		}
		s.qs = append(s.qs, q)
	case "copy":
		if len(s.qs) == 0 {
			s.t.Fatal("a copy before its question")
		}
		c := Candidate{Server: org.ServerName(f[1]), State: org.CopyHealthy, Reachable: true, Site: "A"}
		c.Sets = s.health[c.Server]
		for _, w := range f[2:] {
			s.ofCopy(&c, w)
		}
		q := &s.qs[len(s.qs)-1]
		q.Candidates = append(q.Candidates, c)
	default:
		s.t.Fatalf("what is %q?", f[0])
	}
}

func (s *script) ofQuestion(q *Question, w string) {
	k, v, _ := strings.Cut(w, "=")
	switch k {
	case "from":
		q.Source, q.SourceSets = org.ServerName(v), s.health[org.ServerName(v)]
	case "site":
		q.Site, q.PreferSite = org.SiteName(v), true
	case "serves":
		q.SourceServes = true
	case "fenced":
		q.SourceFenced = true
	case "unheard":
		q.SourceUnheard = true
	case "failing":
		q.Failing = v
	case "to":
		q.To = org.ServerName(v)
	case "dial":
		q.Dial = org.MountDial(v)
	case "seeds":
		q.Seeds = append(q.Seeds, org.ServerName(v))
	case "skip":
		q.Skip = SkipAll()
	default:
		s.t.Fatalf("question: what is %q?", w)
	}
}

func (s *script) ofCopy(c *Candidate, w string) {
	k, v, _ := strings.Cut(w, "=")
	switch k {
	case "pref":
		c.Preference = s.number(v)
	case "site":
		c.Site = org.SiteName(v)
	case "sync":
		c.InSync = true
	case "down":
		c.Reachable = false
	case "state":
		c.State = org.CopyState(v)
	case "missing":
		c.Missing = uint64(s.number(v))
	case "replay":
		c.ReplayQueue = uint64(s.number(v))
	case "lagged":
		c.Lagged = true
	case "index":
		c.ContentIndex = org.IndexState(v)
	case "policy":
		c.Policy = org.ActivationPolicy(v)
	case "most":
		c.MaximumActive = s.number(v)
	case "preferred":
		c.MaximumPreferred = s.number(v)
	case "dial":
		c.Dial = org.MountDial(v)
	case "blocked":
		c.Blocked = strings.ReplaceAll(v, "_", " ")
	case "unheard":
		c.Unheard = true
	case "cpu":
		c.CPUHigh = true
	case "failed":
		c.Failures = s.number(v)
		c.BackOff = time.Duration(c.Failures) * time.Minute
	default:
		s.t.Fatalf("copy: what is %q?", w)
	}
}

func (s *script) number(v string) int {
	n, err := strconv.Atoi(v)
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}
