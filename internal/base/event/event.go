// Package event keeps the operator events: numbered, typed, one sentence
// each. The list in docs/events.md is made from the definitions, and a test
// compares the two. Codes are never reused.
//
// Ranges: 1000 node and host, 1100 cluster, 1200 mailbox, 1300 active,
// 1400 directory, 1500 doors, 1600 admin.
package event

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"
)

// Definition is a kind of event.
type Definition struct {
	Code    int
	Name    string // snake_case, stable
	Level   slog.Level
	Meaning string // one sentence
	Action  string // what an operator should do, empty for nothing
	Ends    []int  // codes of the troubles that this one ends
}

// Event is one occurrence.
type Event struct {
	Code     int       `json:"code" col:"CODE"`
	Name     string    `json:"name" col:"-"`
	Level    string    `json:"level" col:"LEVEL"`
	Time     time.Time `json:"time" col:"TIME"`
	Sentence string    `json:"sentence" col:"EVENT"`
	// Ends are the codes of the troubles that this one ends.
	Ends []int `json:"ends,omitempty" col:"-"`
}

var (
	mu      sync.Mutex // guards defined
	defined = map[int]Definition{}
)

// Define adds a kind of event; it is called from package variables only. ends
// are the codes of the troubles that it ends.
func Define(code int, name string, level slog.Level, meaning, action string, ends ...int) Definition {
	mu.Lock()
	defer mu.Unlock()
	if old, ok := defined[code]; ok {
		panic(fmt.Sprintf("event %d is both %s and %s", code, old.Name, name))
	}
	d := Definition{code, name, level, meaning, action, ends}
	defined[code] = d
	return d
}

// Find returns the kind of event with a code.
func Find(code int) (Definition, bool) {
	mu.Lock()
	defer mu.Unlock()
	d, ok := defined[code]
	return d, ok
}

// Ended tells whether some kind of event says that this one is over.
func Ended(code int) bool {
	mu.Lock()
	defer mu.Unlock()
	for _, d := range defined {
		if slices.Contains(d.Ends, code) {
			return true
		}
	}
	return false
}

// Definitions lists all kinds by code.
func Definitions() []Definition {
	mu.Lock()
	defer mu.Unlock()
	all := make([]Definition, 0, len(defined))
	for _, d := range defined {
		all = append(all, d)
	}
	slices.SortFunc(all, func(a, b Definition) int { return cmp.Compare(a.Code, b.Code) })
	return all
}

// Log keeps the last events of this process and writes each to the logger.
type Log struct {
	log  *slog.Logger
	mu   sync.Mutex // guards ring, next and subscribers
	ring [1024]Event
	next uint64
	subs []func(Event)
}

// NewLog returns a log that also writes to l.
func NewLog(l *slog.Logger) *Log { return &Log{log: l} }

// Emit records an occurrence. The sentence says what happened to what.
func (l *Log) Emit(d Definition, format string, args ...any) {
	if l == nil {
		return
	}
	e := Event{Code: d.Code, Name: d.Name, Level: d.Level.String(), Time: time.Now(), Sentence: fmt.Sprintf(format, args...), Ends: d.Ends}
	l.mu.Lock()
	l.ring[l.next%uint64(len(l.ring))] = e
	l.next++
	subs := l.subs
	l.mu.Unlock()
	l.log.LogAttrs(context.Background(), d.Level, e.Sentence, slog.Int("event", d.Code), slog.String("name", d.Name))
	for _, f := range subs {
		f(e)
	}
}

// Take records an event that another process of this server emitted and wrote
// to its own log.
func (l *Log) Take(e Event) {
	l.mu.Lock()
	l.ring[l.next%uint64(len(l.ring))] = e
	l.next++
	subs := l.subs
	l.mu.Unlock()
	for _, f := range subs {
		f(e)
	}
}

// Subscribe calls f for each event from now on; f must not block.
func (l *Log) Subscribe(f func(Event)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.subs = append(slices.Clone(l.subs), f)
}

// Recent returns up to n of the last events, oldest first.
func (l *Log) Recent(n int) []Event {
	l.mu.Lock()
	defer l.mu.Unlock()
	n = int(min(uint64(n), l.next, uint64(len(l.ring))))
	out := make([]Event, 0, n)
	for i := l.next - uint64(n); i < l.next; i++ {
		out = append(out, l.ring[i%uint64(len(l.ring))])
	}
	return out
}
