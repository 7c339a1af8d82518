package transcript

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const sample = `# two lines
# of comment
add 1
add 2
----
3

none
----

add 5
----
5
`

func TestParse(t *testing.T) {
	cases, err := Parse(sample)
	if err != nil {
		t.Fatal(err)
	}
	want := []Case{{3, "# two lines\n# of comment", "add 1\nadd 2", "3"}, {8, "", "none", ""}, {11, "", "add 5", "5"}}
	if fmt.Sprint(cases) != fmt.Sprint(want) {
		t.Errorf("%+v", cases)
	}
	if got := Format(cases); got != sample {
		t.Errorf("%q", got)
	}
	for _, bad := range []string{"----\n", "a\nb\n", "# only\n----\n"} {
		if _, err := Parse(bad); err == nil {
			t.Errorf("%q: no error", bad)
		}
	}
}

// said collects what a test would report.
type said struct{ errs []string }

func (*said) Helper()                        {}
func (s *said) Errorf(f string, args ...any) { s.errs = append(s.errs, fmt.Sprintf(f, args...)) }
func (s *said) Fatalf(f string, args ...any) { s.Errorf(f, args...) }

func TestCheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.txt")
	if err := os.WriteFile(path, []byte("1 2\n----\n3\n\n2 2\n----\n5\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := func(in string) string {
		var a, b int
		fmt.Sscan(in, &a, &b)
		return fmt.Sprintln(a + b)
	}
	var s said
	Check(&s, path, sum)
	if len(s.errs) != 1 || !strings.Contains(s.errs[0], "a.txt:5:") {
		t.Errorf("%q", s.errs)
	}
	t.Setenv("TRANSCRIPT_UPDATE", "1")
	Check(&s, path, sum)
	t.Setenv("TRANSCRIPT_UPDATE", "")
	Check(t, path, sum)
	s = said{}
	Check(&s, filepath.Join(t.TempDir(), "*.txt"), sum)
	if len(s.errs) != 1 {
		t.Errorf("no files: %q", s.errs)
	}
}

func FuzzParse(f *testing.F) {
	f.Add(sample)
	f.Fuzz(func(t *testing.T, text string) {
		cases, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(Format(cases))
		if err != nil || len(again) != len(cases) {
			t.Fatalf("%q: %v", Format(cases), err)
		}
	})
}
