package choose

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/internal/org"
)

// group makes the questions of a group of servers that lost its first: every
// database has four copies, all were active on the lost one.
func group(servers, databases, sets int) ([]Question, map[org.ServerName]int) {
	name := func(i int) org.ServerName { return org.ServerName(fmt.Sprintf("MBX%02d", i%servers+1)) }
	health := map[org.ServerName]map[string]org.SetHealth{}
	for s := range servers {
		all := map[string]org.SetHealth{}
		for i := range sets {
			st := org.HealthOK
			if (s+i)%29 == 0 {
				st = org.Degraded
			}
			all[fmt.Sprintf("Set%02d", i)] = org.SetHealth{State: st, Priority: org.PriorityNormal}
		}
		health[name(s)] = all
	}
	active := map[org.ServerName]int{"MBX01": databases}
	qs := make([]Question, databases)
	for d := range qs {
		q := Question{Database: org.DatabaseName(fmt.Sprintf("DB%04d", d)), Purpose: Failover, Source: "MBX01", SourceUnheard: true}
		for c := range 4 {
			s := name((c * (1 + d%(servers-1))) % servers)
			if c > 0 && s == "MBX01" {
				s = name(1 + d%(servers-1))
			}
			q.Candidates = append(q.Candidates, Candidate{Server: s, Preference: c + 1, State: org.CopyDisconnectedAndHealthy, InSync: true,
				Reachable: s != "MBX01", MaximumActive: databases, Sets: health[s], ReplayQueue: uint64(d % 3)})
		}
		qs[d] = q
	}
	return qs, active
}

// BenchmarkChooseAll shows what the decision about a lost server of 16 costs as
// the databases grow. The aim is 300 in under 1 s.
func BenchmarkChooseAll(b *testing.B) {
	for _, n := range []int{30, 100, 300, 1000} {
		b.Run(fmt.Sprintf("16x%d", n), func(b *testing.B) {
			qs, active := group(16, n, 40)
			b.ReportAllocs()
			for b.Loop() {
				for _, d := range ChooseAll(qs, active) {
					if d.Target == "" {
						b.Fatal(d)
					}
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/database")
		})
	}
}
