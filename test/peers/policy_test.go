package peers

import (
	"bufio"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"

	"github.com/postern-mail/postern/test/rig"
)

// policy tells Postfix what to answer to recipients, and remembers what Postfix
// knew when it asked (its SMTP access policy delegation).
type policy struct {
	mu      sync.Mutex // guards what follows
	answers map[string][]string
	asked   map[string][]map[string]string
}

func startPolicy(t *testing.T, addr string) *policy {
	t.Helper()
	p := &policy{answers: map[string][]string{}, asked: map[string][]map[string]string{}}
	l, err := net.Listen("tcp", addr)
	rig.Must(t, err)
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			go p.serve(c)
		}
	}()
	return p
}

func (p *policy) serve(c net.Conn) {
	defer c.Close()
	s := bufio.NewScanner(c)
	facts := map[string]string{}
	for s.Scan() {
		if k, v, ok := strings.Cut(s.Text(), "="); ok {
			facts[k] = v
			continue
		}
		fmt.Fprintf(c, "action=%s\n\n", p.answer(maps.Clone(facts)))
		clear(facts)
	}
}

func (p *policy) answer(facts map[string]string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	to := facts["recipient"]
	p.asked[to] = append(p.asked[to], facts)
	next := p.answers[to]
	if len(next) == 0 {
		return "DUNNO"
	}
	if len(next) > 1 {
		p.answers[to] = next[1:]
	}
	return next[0]
}

// say sets the answers for a recipient, one after the other; the last one stays.
func (p *policy) say(to string, answers ...string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answers[to] = answers
}

// times tells how often a recipient was named, and what was known the last time.
func (p *policy) times(to string) (int, map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := len(p.asked[to])
	if n == 0 {
		return 0, nil
	}
	return n, p.asked[to][n-1]
}
