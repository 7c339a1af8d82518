package active

import (
	"cmp"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/org"
)

// saidSection is the name under which a server publishes its sentences.
const saidSection = "active-log"

// saidKept bounds the sentences a server remembers.
const saidKept = 200

// Sentence is what one turn of the loop decided. Turns that say the same
// again are counted.
type Sentence struct {
	Time   time.Time      `json:"time" col:"TIME" cbor:"1,keyasint"`
	Server org.ServerName `json:"server" col:"SERVER" cbor:"2,keyasint"`
	Turns  int            `json:"turns" col:"TURNS" cbor:"3,keyasint"`
	Text   string         `json:"text" col:"SENTENCE" cbor:"4,keyasint"`
	topic  string
}

// journal keeps the sentences of this server and tells them to the others.
type journal struct {
	group Group
	log   *slog.Logger

	mu   sync.Mutex // guards all
	all  []Sentence
	last map[string]string // topic -> newest text
}

func newJournal(g Group, l *slog.Logger) *journal {
	return &journal{group: g, log: l, last: map[string]string{}}
}

// say records one sentence about a topic and tells it to the others.
func (j *journal) say(topic, format string, args ...any) {
	if j.note(topic, fmt.Sprintf(format, args...)) {
		j.publish()
	}
}

// publish tells the others what was noted.
func (j *journal) publish() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.group.Publish(saidSection, codec.MustMarshal(j.all))
}

// note records one sentence about a topic, and tells whether it is a new one.
func (j *journal) note(topic, text string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.last[topic] == text {
		for i := range slices.Backward(j.all) {
			if j.all[i].topic == topic {
				j.all[i].Turns++
				return false
			}
		}
	}
	j.last[topic] = text
	j.all = append(j.all, Sentence{Time: time.Now().UTC(), Server: j.group.Name(), Turns: 1, Text: text, topic: topic})
	if len(j.all) > saidKept {
		j.all = slices.Delete(j.all, 0, len(j.all)-saidKept)
	}
	j.log.Info("active manager", "sentence", text)
	return true
}

// collect merges what all servers said, oldest first.
func (m *Manager) collect() []Sentence {
	var out []Sentence
	for _, s := range m.group.View().Servers() {
		raw, _, ok := m.group.Published(s.Name, saidSection)
		if !ok {
			continue
		}
		var theirs []Sentence
		if err := codec.Unmarshal(raw, &theirs); err != nil {
			m.deps.Log.Warn("sentences of another server", "server", s.Name, "err", err)
			continue
		}
		out = append(out, theirs...)
	}
	slices.SortStableFunc(out, func(a, b Sentence) int { return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Server, b.Server)) })
	return out
}
