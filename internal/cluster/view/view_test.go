package view

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
)

// TestApplyAgreesWithMap compares views with a plain map under random
// changes, and shows that no view changes after it was made.
func TestApplyAgreesWithMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		v, model := Empty(), map[string]int64{}
		type past struct {
			v     *View
			model map[string]int64
		}
		var history []past
		for rev := int64(1); rev <= 30; rev++ {
			var changes []Change
			for range rapid.IntRange(1, 60).Draw(t, "changes") {
				k := fmt.Sprintf("k%03d", rapid.IntRange(0, 400).Draw(t, "key"))
				del := rapid.IntRange(0, 3).Draw(t, "delete") == 0
				changes = append(changes, Change{Key: k, Item: Item{Revision: rev}, Delete: del})
				if del {
					delete(model, k)
				} else {
					model[k] = rev
				}
			}
			v = v.Apply(rev, changes)
			history = append(history, past{v, maps.Clone(model)})
		}
		for _, h := range history {
			check(t, h.v, h.model)
		}
	})
}

func check(t *rapid.T, v *View, model map[string]int64) {
	var keys []string
	for k, it := range v.Prefix("") {
		keys = append(keys, k)
		if it.Revision != model[k] {
			t.Fatalf("revision %d: %s has %d, want %d", v.Revision(), k, it.Revision, model[k])
		}
		if got, ok := v.Get(k); !ok || got.Revision != it.Revision {
			t.Fatalf("get %s: %v %v", k, got, ok)
		}
	}
	if want := slices.Sorted(maps.Keys(model)); !slices.Equal(keys, want) || v.Len() != len(want) {
		t.Fatalf("revision %d: keys %v (len %d), want %v", v.Revision(), keys, v.Len(), want)
	}
	var some []string
	for k := range v.Prefix("k1") {
		some = append(some, k)
	}
	if want := slices.DeleteFunc(keys, func(k string) bool { return !strings.HasPrefix(k, "k1") }); !slices.Equal(some, want) {
		t.Fatalf("prefix k1: %v, want %v", some, want)
	}
}

func put(key string, rev int64, val any) Change {
	b, _ := json.Marshal(val)
	return Change{Key: key, Item: Item{Value: b, Revision: rev}}
}

func TestTypedRowsFollowTheKeys(t *testing.T) {
	v := Empty().Apply(5, []Change{
		put("servers/MBX2", 5, org.Server{Name: "MBX2", Site: "A"}),
		put("servers/MBX1", 5, org.Server{Name: "MBX1"}),
		put("databases/DB1", 5, org.Database{Name: "DB1"}),
		put("mounts/DB1", 5, org.Mount{Database: "DB1", Term: 3, Active: "MBX1"}),
	})
	if s := v.Servers(); len(s) != 2 || s[0].Name != "MBX1" || s[1].Site != "A" {
		t.Errorf("servers %v", s)
	}
	if m, ok := v.Mount("DB1"); !ok || m.Term != 3 || m.Revision != 5 {
		t.Errorf("mount %v %v", m, ok)
	}
	w := v.Apply(6, []Change{put("mounts/DB1", 6, org.Mount{Database: "DB1", Term: 4}), {Key: "servers/MBX1", Delete: true}, {Key: "databases/DB1", Item: Item{Value: []byte("{"), Revision: 6}}})
	if m := w.Mounts(); len(m) != 1 || m[0].Term != 4 || m[0].Revision != 6 {
		t.Errorf("mounts %v", m)
	}
	if _, ok := w.Server("MBX1"); ok {
		t.Error("MBX1 is still there")
	}
	if _, ok := w.Database("DB1"); ok || w.DatabaseRevision("DB1") != 6 {
		t.Error("a row that does not decode is shown")
	}
	if m, _ := v.Mount("DB1"); m.Term != 3 || len(v.Servers()) != 2 {
		t.Error("the older view changed")
	}
}

func sample(n int) *View {
	return New(77, func(yield func(string, Item) bool) {
		for i := range n {
			if !yield(fmt.Sprintf("recipients/org/%06d", i), Item{Value: []byte("{}"), Revision: int64(i)}) {
				return
			}
		}
	})
}

func TestSnapshotRoundTrip(t *testing.T) {
	v := sample(1000)
	b := Encode("g1", v)
	group, w, err := Decode(b)
	if err != nil || group != "g1" || w.Revision() != 77 || w.Len() != 1000 {
		t.Fatalf("decode: %q %v %v", group, w, err)
	}
	b[len(b)/2] ^= 1
	if _, _, err := Decode(b); !kind.Is(err, kind.Corrupt) {
		t.Errorf("a flipped bit: %v", err)
	}
	b[11] = 9
	if _, _, err := Decode(b); !kind.Is(err, kind.Invalid) {
		t.Errorf("another version: %v", err)
	}
}

func FuzzSnapshot(f *testing.F) {
	f.Add(Encode("g", sample(3)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if g, v, err := Decode(b); err == nil && string(Encode(g, v)) != string(b) {
			t.Error("decodes to something else than was encoded")
		}
		// Again with a checksum that fits, so that the fields are reached.
		if len(b) > 32 {
			Decode(resum(b[:len(b)-32]))
		}
	})
}

// BenchmarkApply shows the price of one change among many keys.
func BenchmarkApply(b *testing.B) {
	v := sample(20000)
	b.ReportAllocs()
	for i := range b.N {
		v = v.Apply(int64(i), []Change{{Key: fmt.Sprintf("recipients/org/%06d", i%20000), Item: Item{Revision: int64(i)}}})
	}
}
