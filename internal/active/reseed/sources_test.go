package reseed

import (
	"maps"
	"testing"

	"github.com/postern-mail/postern/internal/org"
)

func TestSources(t *testing.T) {
	all := func(servers ...Source) []Source { return servers }
	active := Source{Server: "MBX2", Active: true, SameSite: true, Healthy: true}
	passive := Source{Server: "MBX3", SameSite: true, Healthy: true}
	far := Source{Server: "MBX4", Healthy: true}
	sick := Source{Server: "MBX5", SameSite: true}
	busy := Source{Server: "MBX3", SameSite: true, Healthy: true, Busy: 2}
	for _, c := range []struct {
		name  string
		needs []Need
		want  map[org.DatabaseName]org.ServerName
	}{
		{"none", nil, map[org.DatabaseName]org.ServerName{}},
		{"passive before active", []Need{{"DB01", all(active, passive)}}, map[org.DatabaseName]org.ServerName{"DB01": "MBX3"}},
		{"a busy passive one after the active", []Need{{"DB01", all(active, busy)}}, map[org.DatabaseName]org.ServerName{"DB01": "MBX2"}},
		{"same site before others", []Need{{"DB01", all(far, active)}}, map[org.DatabaseName]org.ServerName{"DB01": "MBX2"}},
		{"another site when there is nothing else", []Need{{"DB01", all(far, sick)}}, map[org.DatabaseName]org.ServerName{"DB01": "MBX4"}},
		{"no healthy one", []Need{{"DB01", all(sick)}}, map[org.DatabaseName]org.ServerName{}},
		{"different sources", []Need{{"DB01", all(active, passive)}, {"DB02", all(active, passive)}, {"DB03", all(active, passive)}},
			map[org.DatabaseName]org.ServerName{"DB01": "MBX3", "DB02": "MBX2", "DB03": "MBX3"}},
		{"fewest sources first", []Need{{"DB01", all(active, passive)}, {"DB02", all(passive)}},
			map[org.DatabaseName]org.ServerName{"DB01": "MBX2", "DB02": "MBX3"}},
	} {
		if got := Sources(c.needs); !maps.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.name, got, c.want)
		}
	}
}
