package site

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/transcript"
	"github.com/postern-mail/postern/internal/org"
)

// TestTargets plays testdata/plans/*.txt. First line: "leave SITE to SITE" or
// "back SITE calm D"; then databases: name, active, and copies as
// server@site/preference with flags: silent, behind, suspended, state=S, for=D.
func TestTargets(t *testing.T) {
	transcript.Check(t, "testdata/plans/*.txt", func(input string) string {
		lines := strings.Split(input, "\n")
		o, w := Order{}, strings.Fields(lines[0])
		o.Site = org.SiteName(w[1])
		if w[0] == "leave" {
			o.To = org.SiteName(w[3])
		} else {
			o.Calm, _ = time.ParseDuration(w[3])
		}
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		sc := sceneOf(lines[1:], now)
		to, out := Targets(sc, o)
		for _, db := range slices.Sorted(maps.Keys(to)) {
			out = append(out, fmt.Sprintf("%s goes to %s", db, to[db]))
		}
		if o.To == "" {
			for _, left := range Unready(sc, o, now) {
				out = append(out, "waits for "+left)
			}
		}
		if len(out) == 0 {
			return "nothing"
		}
		return strings.Join(out, "\n")
	})
}

func sceneOf(lines []string, now time.Time) Scene {
	sc := Scene{Servers: map[org.ServerName]Place{}}
	for _, line := range lines {
		w := strings.Fields(line)
		b := Base{Name: org.DatabaseName(w[0]), Active: org.ServerName(w[1])}
		for _, word := range w[2:] {
			at := strings.Split(word, ",")
			name, rest, _ := strings.Cut(at[0], "@")
			place, pref, _ := strings.Cut(rest, "/")
			c := BaseCopy{Server: org.ServerName(name), InSync: true, State: org.CopyHealthy, Since: now.Add(-time.Hour)}
			c.Preference, _ = strconv.Atoi(pref)
			p := Place{Site: org.SiteName(place), Heard: true}
			for _, f := range at[1:] {
				k, v, _ := strings.Cut(f, "=")
				switch k {
				case "silent":
					p.Heard = false
				case "behind":
					c.InSync = false
				case "suspended":
					c.Suspended = true
				case "state":
					c.State = org.CopyState(v)
				case "for":
					d, _ := time.ParseDuration(v)
					c.Since = now.Add(-d)
				}
			}
			sc.Servers[c.Server] = p
			b.Copies = append(b.Copies, c)
		}
		sc.Bases = append(sc.Bases, b)
	}
	return sc
}
