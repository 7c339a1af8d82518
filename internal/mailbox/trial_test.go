package mailbox

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
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
	type extent struct{ start, end org.LSN }
	// inSync waits until the copy on a volume is in sync and open, and tells its
	// log. The row may speak of the copy of before for a moment, and a copy is
	// closed whenever it begins anew.
	inSync := func(on org.VolumeName) (log extent) {
		t.Helper()
		eventually(t, "in sync on "+string(on), func() bool {
			c := k.copy("DB01")
			if !g.mount(t).IsInSync("MBX2") || c == nil || c.vol.Name != on {
				return false
			}
			_, leave, ok := c.gate.enter(t.Context())
			if !ok {
				return false
			}
			defer leave()
			log = extent{c.jn.Start(), c.jn.End().LSN}
			return c.status().State == org.CopyHealthy
		})
		return log
	}
	first, begun := inSync("vol1"), time.Now()
	give := func(v org.VolumeName, state org.VolumeState) {
		t.Helper()
		must(t, k.editVolume(t.Context(), volumeArg{"MBX2", "vol2"}, func(r *org.VolumeRow) error {
			r.State, r.Trial = state, "x"
			r.TrialOf = org.VolumeTrial{Database: "DB01", Identity: k.copy("DB01").identity, Home: "vol1", Begun: begun}
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
	// What was there before the drill, and what is another's, is nobody's to remove.
	// Nor is log that was set aside and not offered.
	mine := k.copy("DB01").identity
	stay := []string{movedPrefix + "DB01-1", movedPrefix + "DB01-99999999999", movedPrefix + "DB02-99999999999"}
	for i, name := range stay {
		path := "/vol2/" + name
		must(t, d.fs.MkdirAll(path+"/"+divergedName))
		must(t, fsx.WriteFile(d.fs, path+"/"+copyMarkName, fmt.Appendf(nil, `{"identity":%q}`, []string{mine, mine, "other"}[i])))
	}
	must(t, fsx.WriteFile(d.fs, "/vol2/"+stay[1]+"/"+divergedName+"/1.log", []byte("log")))
	give("vol1", org.VolumeSpare)
	if log := inSync("vol1"); log.start != first.start || log.end < first.end {
		t.Errorf("the log is not what was there: %+v, it was %+v", log, first)
	}
	eventually(t, "the spare is emptied", func() bool {
		row, _, _ := k.volumeRow("vol2")
		return row.Trial == "" && row.State == org.VolumeSpare
	})
	var left []string
	for _, e := range k.entries(k.volumes["vol2"]) {
		left = append(left, e.Name)
		must(t, fsx.RemoveAll(d.fs, "/vol2/"+e.Name))
	}
	if !slices.Equal(left, stay) {
		t.Errorf("on the spare is %q, want %q", left, stay)
	}
	if names, err := d.fs.List("/vol1"); err != nil || strings.Contains(strings.Join(names, " "), movedPrefix) {
		t.Errorf("it was not taken up: %q, %v", names, err)
	}
	if p := k.SparesFor(t.Context(), "MBX2", "DB01"); len(p) != 1 || p[0].Problem != "" {
		t.Errorf("it is no spare: %+v", p)
	}
	// Who says what a volume is for ends what a drill has to say about it.
	give("vol2", org.VolumeData)
	if _, err := k.volumeSet(t.Context(), volumeSet{volumeArg: volumeArg{"MBX2", "vol2"}, Data: true}); err != nil {
		t.Fatal(err)
	}
	if row, _, _ := k.volumeRow("vol2"); row.Trial != "" || row.TrialOf.Home != "" || row.State != org.VolumeData {
		t.Errorf("it is still the drill's: %+v", row)
	}
}
