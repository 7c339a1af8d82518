package imapd

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// TestTranscripts plays the dialogues of testdata/*.txt. Lines:
//
//	open 1 plain|tls|login|selected   a client begins
//	mail FOLDER N                     N messages arrive
//	C1: text                          client 1 sends a line
//	C1! "text"                        client 1 sends just the bytes of a Go string
//	S1: text                          the server's next line; "..." at its end stands for the rest,
//	                                  \r\n is written out
//	S1 closes                         the server ends the connection
//	repeat N: C1: text                the line N times; %d becomes the count
//
// Empty lines and lines that begin with # say nothing.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, f := range files {
		t.Run(strings.TrimSuffix(filepath.Base(f), ".txt"), func(t *testing.T) {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			p := &play{t: t, w: newWorld(t, nil), clients: map[string]*client{}}
			for i, line := range strings.Split(string(text), "\n") {
				if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
					continue
				}
				if p.step(line); t.Failed() {
					t.Fatalf("%s:%d: %s", f, i+1, line)
				}
			}
		})
	}
}

type play struct {
	t       *testing.T
	w       *world
	clients map[string]*client
}

func (p *play) step(line string) {
	words := strings.Fields(line)
	switch {
	case words[0] == "open":
		open := map[string]func() *client{"plain": p.w.plain, "tls": p.w.tls, "login": p.w.login, "selected": p.w.selected}[words[2]]
		p.clients[words[1]] = open()
	case words[0] == "mail":
		n, _ := strconv.Atoi(words[2])
		for range n {
			p.w.append(words[1], hello)
		}
	case words[0] == "repeat":
		n, _ := strconv.Atoi(strings.TrimSuffix(words[1], ":"))
		_, rest, _ := strings.Cut(line, ": ")
		for i := range n {
			p.step(strings.ReplaceAll(rest, "%d", strconv.Itoa(i)))
		}
	case strings.HasPrefix(line, "C"):
		p.send(line)
	case strings.HasPrefix(line, "S"):
		p.expect(line)
	default:
		p.t.Error("what is this?")
	}
}

func (p *play) send(line string) {
	i := strings.IndexAny(line, ":!")
	c := p.clients[line[1:i]]
	text := strings.TrimPrefix(line[i+1:], " ")
	if line[i] == ':' {
		c.send("%s\r\n", text)
		return
	}
	raw, err := strconv.Unquote(text)
	if err != nil {
		p.t.Error(err)
	}
	c.send("%s", raw)
}

func (p *play) expect(line string) {
	if name, ok := strings.CutSuffix(line, " closes"); ok {
		if rest := p.clients[name[1:]].eof(); rest != "" {
			p.t.Errorf("before the end: %q", rest)
		}
		return
	}
	name, want, _ := strings.Cut(line[1:], ":")
	want = strings.TrimPrefix(want, " ")
	got := strings.ReplaceAll(p.clients[name].line(), "\r\n", `\r\n`)
	if begin, open := strings.CutSuffix(want, "..."); open && strings.HasPrefix(got, begin) || got == want {
		return
	}
	p.t.Errorf("got  %s\nwant %s", got, want)
}
