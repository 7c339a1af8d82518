package shadow

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

func TestJudge(t *testing.T) {
	open, fenced := org.QueueRow{Server: "A", Epoch: 5, TakenUpTo: 3}, org.QueueRow{Server: "A", Epoch: 5, TakenUpTo: 5}
	for name, c := range map[string]struct {
		f    Facts
		want bool
	}{
		"alive":                 {Facts{Row: open, Member: true, TakeoverAfter: time.Second}, false},
		"dead for a moment":     {Facts{Row: open, Member: true, Lost: time.Second - 1, TakeoverAfter: time.Second}, false},
		"dead":                  {Facts{Row: open, Member: true, Lost: time.Second, TakeoverAfter: time.Second}, true},
		"dead, at once":         {Facts{Row: open, Member: true, Lost: 1}, true},
		"alive, at once":        {Facts{Row: open, Member: true}, false},
		"dead, taken before":    {Facts{Row: fenced, Member: true, Lost: time.Hour}, false},
		"removed":               {Facts{Row: open}, true},
		"removed, taken before": {Facts{Row: fenced}, false},
		"self":                  {Facts{Row: open, Self: true, Lost: time.Hour}, false},
		"self, disk failed":     {Facts{Row: open, Self: true, Failed: true}, true},
		"self, failed, taken":   {Facts{Row: fenced, Self: true, Failed: true}, false},
	} {
		if d := Judge(c.f); d.Fence != c.want || d.Fence && d.Why == "" && c.f.Lost == 0 {
			t.Errorf("%s: %+v", name, d)
		}
	}
}

func TestOrder(t *testing.T) {
	cs := []Candidate{{"L1", false, 10}, {"L2", false, 20}, {"L3", false, 30}, {"R1", true, 10}, {"R2", true, 20}}
	for _, c := range []struct {
		preference string
		prefer     org.ServerName
		remote     int // how many, in front
		local      int
	}{
		{"prefer_remote", "", 2, 2}, {"prefer_remote", "L3", 2, 3}, {"prefer_remote", "R2", 2, 2},
		{"remote_only", "L1", 2, 0}, {"local_only", "", 0, 2}, {"local_only", "R1", 0, 2}, {"prefer_remote", "gone", 2, 2},
	} {
		for range 20 {
			got := Order(slices.Clone(cs), c.prefer, settings.Group{ShadowPreference: c.preference, RetriesLocalSite: 2, RetriesRemoteSite: 4})
			remote := 0
			for _, s := range got {
				if s[0] == 'R' {
					remote++
				}
			}
			name := fmt.Sprint(c, got)
			if remote != c.remote || len(got)-remote > c.local || len(got)-remote < min(c.local, 2) {
				t.Fatal(name)
			}
			if slices.Contains(got, c.prefer) && got[0] != c.prefer {
				t.Fatal(name)
			}
			if c.prefer == "" && c.remote > 0 && got[0][0] != 'R' {
				t.Fatal(name)
			}
			if sorted := slices.Clone(got); len(slices.Compact(slices.Sorted(slices.Values(sorted)))) != len(got) {
				t.Fatal(name)
			}
		}
	}
}

func TestWeighHeld(t *testing.T) {
	me := copyRank{4, 2, "M"}
	for name, c := range map[string]struct {
		said map[org.ServerName]claim
		want step
		by   org.ServerName
	}{
		"nobody":                     {nil, stepGo, ""},
		"none":                       {map[org.ServerName]claim{"A": {}}, stepGo, ""},
		"owned":                      {map[org.ServerName]claim{"A": {State: claimOwned}}, stepYield, "A"},
		"owned, and a later copy":    {map[org.ServerName]claim{"A": {State: claimOwned}, "B": {State: claimFenced, Epoch: 9}}, stepYield, "A"},
		"a later copy, and owned":    {map[org.ServerName]claim{"A": {State: claimFenced, Epoch: 9}, "B": {State: claimOwned}}, stepYield, "B"},
		"finished":                   {map[org.ServerName]claim{"A": {State: claimOwned}, "B": {State: claimFinished}}, stepFinish, "B"},
		"void":                       {map[org.ServerName]claim{"A": {State: claimVoid}}, stepVoid, "A"},
		"its primary gives way":      {map[org.ServerName]claim{"A": {State: claimReconciling, Epoch: 9}}, stepGo, ""},
		"a later epoch":              {map[org.ServerName]claim{"A": {State: claimFenced, Epoch: 5}}, stepWait, "A"},
		"a later try":                {map[org.ServerName]claim{"A": {State: claimFenced, Epoch: 4, Try: 3}}, stepWait, "A"},
		"an earlier try":             {map[org.ServerName]claim{"Z": {State: claimFenced, Epoch: 4, Try: 1}}, stepGo, ""},
		"an earlier epoch":           {map[org.ServerName]claim{"Z": {State: claimFenced, Epoch: 3, Try: 9}}, stepGo, ""},
		"the same, a greater name":   {map[org.ServerName]claim{"Z": {State: claimFenced, Epoch: 4, Try: 2}}, stepWait, "Z"},
		"the same, a smaller name":   {map[org.ServerName]claim{"A": {State: claimFenced, Epoch: 4, Try: 2}}, stepGo, ""},
		"a copy that is not to take": {map[org.ServerName]claim{"Z": {State: claimHeld, Epoch: 9}}, stepGo, ""},
	} {
		if got, by := weighHeld(me, c.said); got != c.want || by != c.by {
			t.Errorf("%s: %d by %q", name, got, by)
		}
	}
}

func TestWeighOwn(t *testing.T) {
	for name, c := range map[string]struct {
		said map[org.ServerName]claim
		want step
	}{
		"nobody":                {nil, stepGo},
		"a copy of this server": {map[org.ServerName]claim{"A": {State: claimHeld, Primary: "M"}}, stepGo},
		"a copy to be taken":    {map[org.ServerName]claim{"A": {State: claimFenced}}, stepWait},
		"owned":                 {map[org.ServerName]claim{"A": {State: claimFenced}, "B": {State: claimOwned}}, stepYield},
		"finished":              {map[org.ServerName]claim{"B": {State: claimOwned}, "A": {State: claimFinished}}, stepFinish},
		"another that returned": {map[org.ServerName]claim{"A": {State: claimReconciling}}, stepWait},
		"another behind it":     {map[org.ServerName]claim{"Z": {State: claimReconciling}}, stepGo},
		"a copy that is void":   {map[org.ServerName]claim{"A": {State: claimVoid}}, stepGo},
	} {
		if got, _ := weighOwn("M", c.said); got != c.want {
			t.Errorf("%s: %d", name, got)
		}
	}
}
