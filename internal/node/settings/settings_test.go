package settings

import (
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/conf"
)

type disk struct {
	Name string `toml:"name" doc:"name of the disk"`
	Size int64  `toml:"size" doc:"how large"`
}

type sample struct {
	Name  string        `toml:"name" doc:"name of the server"`
	Mode  string        `toml:"mode" doc:"how it works" enum:"slow,fast" default:"slow"`
	Wait  time.Duration `toml:"wait" doc:"how long to wait" default:"1s"`
	Pause conf.Duration `toml:"pause" doc:"how long to pause"`
	Count int           `toml:"count" doc:"how many"`
	List  []string      `toml:"list" doc:"several"`
	Door  struct {
		Listen string `toml:"listen" doc:"where"`
		On     bool   `toml:"on"`
	} `toml:"door" doc:"a door"`
	Disks []disk `toml:"disk" doc:"the disks"`
	quiet int
}

func TestDecode(t *testing.T) {
	var s sample
	pos, err := Decode("f.toml", []byte(`
name = "MBX1"
mode = "fast"
wait = "90s"
pause = "2m"
count = 7
list = ["a", "b"]
door = { listen = ":25", on = true }
[[disk]]
name = "Vol1"
size = "1.5GiB"
[[disk]]
name = "Vol2"
size = 4096
`), &s)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "MBX1" || s.Wait != 90*time.Second || s.Pause.Std() != 2*time.Minute || !s.Door.On || len(s.Disks) != 2 || s.Disks[0].Size != 3<<29 || s.Disks[1].Size != 4096 || s.quiet != 0 {
		t.Fatalf("%+v", s)
	}
	for path, line := range map[string]int{"wait": 4, "door.listen": 8, "disk[1].size": 14, "disk[1].none": 12} {
		if got := pos.Line(path); got != line {
			t.Errorf("%s is on line %d, want %d", path, got, line)
		}
	}
}

func TestRefusals(t *testing.T) {
	for _, c := range []struct{ in, want string }{
		{"nam = \"x\"", `f.toml:1: nam: no such setting (hint: did you mean name?)`},
		{"zebra = 1", `f.toml:1: zebra: no such setting (hint: known at the top of the file: name, mode, wait, pause, count, list, door, disk)`},
		{"\n[door]\nlisen = \"x\"", `f.toml:3: door.lisen: no such setting (hint: did you mean door.listen?)`},
		{"wait = 5", `f.toml:1: wait: is a number, want text (hint: put it in quotes, for example "30s" or "5m")`},
		{"wait = \"soon\"", `f.toml:1: wait: "soon" is not a duration (hint: for example "30s" or "5m")`},
		{"pause = \"soon\"", `f.toml:1: pause: duration "soon": want a number with a unit, for example 30s or 5m (hint: for example "30s" or "5m")`},
		{"count = \"many\"", `f.toml:1: count: is text, want a number (hint: for example 100)`},
		{"mode = \"fsat\"", `f.toml:1: mode: unknown value "fsat" (hint: did you mean "fast"? one of: slow, fast)`},
		{"list = \"a\"", `f.toml:1: list: is text, want a list (hint: write it as a list: ["a"])`},
		{"[disk]\nname = \"a\"", `f.toml:1: disk: is one section, want a list of them (hint: write it as [[disk]])`},
		{"door = 3", `f.toml:1: door: is a number, want a section (hint: write it as a section [door])`},
		{"[[disk]]\nsize = \"big\"", `f.toml:2: disk[0].size: "big" is not a size (hint: for example 1048576 or "10GiB")`},
		{"name = \"a\"\nname = \"b\"", `f.toml:2: name: `},
		{"name = a", `f.toml:1: `},
	} {
		var s sample
		_, err := Decode("f.toml", []byte(c.in), &s)
		if err == nil || !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%q:\n got %v\nwant %s", c.in, err, c.want)
		}
	}
}

func TestSampleIsReadAndChangesNothing(t *testing.T) {
	var b strings.Builder
	want := sample{Name: "MBX1", Wait: time.Minute, List: []string{"a"}}
	if err := Sample(&b, "head\n\nmore", want); err != nil {
		t.Fatal(err)
	}
	var got sample
	if _, err := Decode("sample", []byte(b.String()), &got); err != nil {
		t.Fatalf("%v\n%s", err, b.String())
	}
	if got.Name != "" || got.Wait != 0 {
		t.Fatalf("a commented sample set something: %+v", got)
	}
	// Uncommented, every line is valid.
	on := ""
	for line := range strings.SplitSeq(b.String(), "\n") {
		if rest, ok := strings.CutPrefix(line, "#"); ok && !strings.HasPrefix(rest, " ") {
			line = rest
		}
		on += line + "\n"
	}
	if _, err := Decode("sample", []byte(on), &got); err != nil {
		t.Fatalf("%v\n%s", err, on)
	}
	if got.Name != "MBX1" || got.Wait != time.Minute || got.Mode != "slow" || len(got.Disks) != 1 {
		t.Fatalf("%+v\n%s", got, on)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("name = \"a\"\n[[disk]]\nsize = 1\n[door]\non = true")
	f.Add("list = [[1], {a = 2}]\ndoor.listen = 1")
	f.Fuzz(func(t *testing.T, s string) {
		var v sample
		_, _ = Decode("f", []byte(s), &v)
	})
}
