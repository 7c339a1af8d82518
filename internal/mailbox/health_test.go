package mailbox

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// TestRelativeLatency: a volume is compared with the others that work, and none is
// called slow that is quick.
func TestRelativeLatency(t *testing.T) {
	ms := func(all ...int) (out []time.Duration) {
		for _, n := range all {
			out = append(out, time.Duration(n)*time.Millisecond)
		}
		return out
	}
	for _, c := range []struct {
		recent int
		others []time.Duration
		want   float64
	}{
		{900, nil, 0}, {900, ms(10), 90}, {900, ms(10, 30, 50), 30}, {40, ms(1, 1), 0},
	} {
		if got := relative(VolumeStatus{Recent: time.Duration(c.recent) * time.Millisecond}, c.others); got.Value != c.want {
			t.Errorf("%d ms beside %v: %v, want %v", c.recent, c.others, got.Value, c.want)
		}
	}
	if err := Health(nil).Check(); err != nil {
		t.Error(err)
	}
}

// TestSpace: a tenth is to be free, of a large volume 180 GiB.
func TestSpace(t *testing.T) {
	const gib = 1 << 30
	for _, c := range []struct {
		size, free int64
		want       string
	}{
		{1000 * gib, 100 * gib, ""}, {1000 * gib, 99 * gib, "less than 102400 MiB"},
		{8000 * gib, 180 * gib, ""}, {8000 * gib, 179 * gib, "less than 184320 MiB"}, {0, 0, ""},
	} {
		if r, err := space(VolumeStatus{Size: c.size, Free: c.free}); (err == nil) != (c.want == "") || err != nil && !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %+v, %v", c, r, err)
		}
	}
}

// TestSingleCopies: the server of the active copy tells of all databases whose
// others are not in sync, in one go.
func TestSingleCopies(t *testing.T) {
	g := newAgreed()
	at := g.server("MBX1")
	for db, in := range map[org.DatabaseName][]org.ServerName{
		"DB01": {"MBX1", "MBX2"}, "DB02": {"MBX1"}, "DB03": {"MBX1"}, "DB04": {"MBX2"}, "ONLY": {"MBX1"},
	} {
		def := org.Database{Name: db, Copies: []org.Copy{{Server: "MBX1"}, {Server: "MBX2"}}}
		if db == "ONLY" {
			def.Copies = def.Copies[:1]
		}
		g.put(t, DatabaseKey(db), def)
		g.put(t, MountKey(db), org.Mount{Database: db, Term: 1, Active: in[0], InSync: in})
	}
	if got := (&Keeper{group: at, me: "MBX1"}).singleCopies(); !slices.Equal(got, []string{"DB02", "DB03"}) {
		t.Errorf("%q", got)
	}
}
