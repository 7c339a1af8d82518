// Package transcript reads the files in which decisions are tested: what goes in,
// a line "----", and everything that was decided and said, up to an empty line.
// Lines that begin with # before the input are comments.
//
//	# the active server is gone
//	active=MBX1 dead=MBX1 in-sync=MBX2
//	----
//	MBX2: in sync, preference 2
//
// With TRANSCRIPT_UPDATE=1 in the environment Check writes the files anew
// instead of comparing: read the difference, and commit only what you understand.
package transcript

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

const line = "----"

// Case is one input with what is expected of it.
type Case struct {
	Line    int    // where its input begins in the file, from 1
	Comment string // whole lines with their #
	Input   string // without the last newline
	Want    string // without the last newline
}

// Parse reads a transcript. Errors name the line.
func Parse(text string) ([]Case, error) {
	var out []Case
	var c Case
	below := false
	end := func() {
		if c.Line > 0 {
			out = append(out, c)
		}
		c, below = Case{}, false
	}
	for i, s := range strings.Split(text, "\n") {
		switch {
		case s == line && !below:
			if c.Line == 0 {
				return nil, fmt.Errorf("line %d: %s without input", i+1, line)
			}
			below = true
		case below && s == "":
			end()
		case below:
			c.Want = join(c.Want, s)
		case c.Line == 0 && s == "":
		case c.Line == 0 && strings.HasPrefix(s, "#"):
			c.Comment = join(c.Comment, s)
		default:
			if c.Line == 0 {
				c.Line = i + 1
			}
			c.Input = join(c.Input, s)
		}
	}
	if c.Line > 0 && !below {
		return nil, fmt.Errorf("line %d: input without %s", c.Line, line)
	}
	end()
	return out, nil
}

func join(a, b string) string {
	if a == "" {
		return b
	}
	return a + "\n" + b
}

// Format is the text of a transcript.
func Format(cases []Case) string {
	var b strings.Builder
	for i, c := range cases {
		if i > 0 {
			b.WriteString("\n")
		}
		for _, s := range []string{c.Comment, c.Input, line, c.Want} {
			if s != "" {
				b.WriteString(s + "\n")
			}
		}
	}
	return b.String()
}

// T is what Check needs of *testing.T.
type T interface {
	Helper()
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Check asks answer for each input of the files that match pattern, for example
// "testdata/*.txt", and compares. An answer must not have empty lines.
func Check(t T, pattern string, answer func(input string) string) {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("transcripts %s: none found, %v", pattern, err)
		return
	}
	for _, path := range files {
		checkFile(t, path, answer)
	}
}

func checkFile(t T, path string, answer func(input string) string) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("transcript: %v", err)
		return
	}
	cases, err := Parse(string(b))
	if err != nil {
		t.Fatalf("transcript %s: %v", path, err)
		return
	}
	for i, c := range cases {
		got := strings.TrimRight(answer(c.Input), "\n")
		if os.Getenv("TRANSCRIPT_UPDATE") == "" && got != c.Want {
			t.Errorf("%s:%d:\n%s\nsaid:\n%s\nwant:\n%s", path, c.Line, c.Input, got, c.Want)
		}
		cases[i].Want = got
	}
	if os.Getenv("TRANSCRIPT_UPDATE") != "" {
		if err := os.WriteFile(path, []byte(Format(cases)), 0o644); err != nil {
			t.Fatalf("transcript: %v", err)
		}
	}
}
