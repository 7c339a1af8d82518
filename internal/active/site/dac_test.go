package site

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/transcript"
	"github.com/postern-mail/postern/internal/org"
)

// TestActivation plays testdata/dac.txt. The first line is the server that asks
// (me=NAME, bit, newer=N, allowed, stopped=SITE), each other one a member: name,
// site, then witness, given-up, heard, bit, gen=N.
func TestActivation(t *testing.T) {
	transcript.Check(t, "testdata/dac.txt", func(input string) string {
		f, bit, err := facts(input)
		if err != nil {
			return err.Error()
		}
		next, why := Next(f, bit)
		word := "may not lead"
		if next {
			word = "may lead"
		}
		return fmt.Sprintf("%s %s: %s", f.Me, word, why)
	})
}

func facts(input string) (f Facts, bit bool, err error) {
	f.Generation = 1
	for i, line := range strings.Split(input, "\n") {
		w := strings.Fields(line)
		if i > 0 {
			m := Member{Name: org.ServerName(w[0]), Site: org.SiteName(w[1]), Generation: 1}
			for _, s := range w[2:] {
				switch {
				case s == "witness":
					m.Witness = true
				case s == "heard":
					m.Heard = true
				case s == "given-up":
					m.GivenUp = true
				case s == "bit":
					m.Bit = true
				default:
					if m.Generation, err = strconv.ParseInt(strings.TrimPrefix(s, "gen="), 10, 64); err != nil {
						return f, bit, err
					}
				}
			}
			f.Members = append(f.Members, m)
			continue
		}
		for _, s := range w {
			k, v, _ := strings.Cut(s, "=")
			switch k {
			case "me":
				f.Me = org.ServerName(v)
			case "bit":
				bit = true
			case "allowed":
				f.Allowed = true
			case "stopped":
				f.Stopped = append(f.Stopped, org.SiteName(v))
			case "newer":
				if f.Newer, err = strconv.ParseInt(v, 10, 64); err != nil {
					return f, bit, err
				}
			}
		}
	}
	return f, bit, nil
}

// TestColdStart: of a group that starts as a whole everybody may lead in the
// end, whatever order its servers hear each other in; of a part of it nobody.
func TestColdStart(t *testing.T) {
	all := []Member{{Name: "A1", Site: "A"}, {Name: "A2", Site: "A"}, {Name: "B1", Site: "B"}, {Name: "W", Site: "C", Witness: true}}
	for up := range 1 << len(all) {
		bits := map[org.ServerName]bool{}
		for range len(all) + 1 {
			for i, me := range all {
				if up&(1<<i) == 0 {
					continue
				}
				f := Facts{Me: me.Name, Generation: 1}
				for j, m := range all {
					m.Heard, m.Bit, m.Generation = up&(1<<j) != 0, bits[m.Name], 1
					f.Members = append(f.Members, m)
				}
				bits[me.Name], _ = Next(f, bits[me.Name])
			}
		}
		for i, m := range all {
			if want := up == 1<<len(all)-1; bits[m.Name] != (want && up&(1<<i) != 0) {
				t.Errorf("up %04b: %s has bit %v", up, m.Name, bits[m.Name])
			}
		}
	}
}
