package mailbox

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// TestTrial gives a copy a spare as a drill does, and its own volume back: what it
// had there is taken up again as it was, and the spare is emptied.
func TestTrial(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1", "MBX2")
	g.put(t, "servers/MBX2", org.Server{Name: "MBX2", Volumes: []org.VolumeName{"vol1", "vol2"}})
	startKeeper(t, g.server("MBX1"), newDisks())
	d := newDisks()
	k := startOn(t, g.server("MBX2"), twoVolumes(), Deps{FS: d.fs, IndexFS: d.ix, Fast: true})
	inSync := func(on org.VolumeName) {
		t.Helper()
		eventually(t, "in sync on "+string(on), func() bool {
			c := k.copy("DB01")
			return g.mount(t).IsInSync("MBX2") && c != nil && c.vol.Name == on
		})
	}
	inSync("vol1")
	first := k.copy("DB01")
	start, kept := first.jn.Start(), first.jn.End().LSN
	give := func(v org.VolumeName, state org.VolumeState) {
		t.Helper()
		must(t, k.editVolume(t.Context(), volumeArg{"MBX2", "vol2"}, func(r *org.VolumeRow) error {
			r.State, r.Trial = state, "x"
			return nil
		}))
		def, _ := k.group.View().Database("DB01")
		def.Copies = slices.Clone(def.Copies)
		def.Copies[1].Volume = v
		mt := g.mount(t)
		mt.InSync = []org.ServerName{"MBX1"}
		txn := cluster.Txn{}
		for key, row := range map[string]any{DatabaseKey("DB01"): def, MountKey("DB01"): mt} {
			b, err := json.Marshal(row)
			must(t, err)
			txn.Then = append(txn.Then, cluster.Op{Key: key, Value: b})
		}
		_, err := k.group.Commit(t.Context(), txn)
		must(t, err)
	}
	give("vol2", org.VolumeData)
	inSync("vol2")
	if names, err := d.fs.List("/vol1"); err != nil || !strings.Contains(strings.Join(names, " "), movedPrefix+"DB01-") {
		t.Errorf("what was there is not set aside: %q, %v", names, err)
	}
	give("vol1", org.VolumeSpare)
	inSync("vol1")
	if c := k.copy("DB01"); c.jn.Start() != start || c.jn.End().LSN < kept {
		t.Errorf("the log is not what was there: %d to %d, it went to %d", c.jn.Start(), c.jn.End().LSN, kept)
	}
	eventually(t, "the spare is empty", func() bool {
		row, _, _ := k.volumeRow("vol2")
		return row.Trial == "" && row.State == org.VolumeSpare && len(k.entries(k.volumes["vol2"])) == 0
	})
	if names, err := d.fs.List("/vol1"); err != nil || strings.Contains(strings.Join(names, " "), movedPrefix) {
		t.Errorf("it was not taken up: %q, %v", names, err)
	}
	if p := k.SparesFor(t.Context(), "MBX2", "DB01"); len(p) != 1 || p[0].Problem != "" {
		t.Errorf("it is no spare: %+v", p)
	}
}
