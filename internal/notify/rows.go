package notify

import (
	"context"
	"encoding/json"
	"iter"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Row is a value of the agreed state with the revision of its last change.
type Row struct {
	Value    []byte
	Revision int64
}

// Cond is a condition of a commit: the key's last change has this revision;
// 0 means that it does not exist.
type Cond struct {
	Key      string
	Revision int64
}

// Write puts a row, or deletes it where Value is nil.
type Write struct {
	Key   string
	Value []byte
}

// Rows is the agreed state. Commit does all writes if all conditions hold;
// else its error is Conflict. Without quorum it is Busy. Revision is another after
// every change.
type Rows interface {
	Revision() int64
	Prefix(string) iter.Seq2[string, Row]
	Commit(context.Context, []Cond, []Write) error
	Quorum() bool
}

// Member is a server of the group as this one sees it.
type Member struct {
	Name  org.ServerName
	Alive bool // its lease is there, and nobody judges it dead
	Heard bool // by this server, now
}

// Mesh is what servers tell each other without the agreed state.
type Mesh interface {
	Me() org.ServerName
	Members() []Member // this one too, by name
	Publish(section string, v []byte)
	Published(s org.ServerName, section string) (v []byte, heard time.Time, ok bool)
}

// Secrets seals what only members of the group may read.
type Secrets interface {
	SealSecret(purpose string, plain []byte) ([]byte, error)
	OpenSecret(purpose string, sealed []byte) ([]byte, error)
}

// Keys of the rows.
const (
	prefix        = "notify/"
	channelPrefix = prefix + "channel/"
	rulePrefix    = prefix + "rule/"
	alertPrefix   = prefix + "alert/"
	statePrefix   = prefix + "state/"
)

// section is the mesh section in which a server without quorum shows the
// reports that it could not write.
const section = "notify"

// held is a row that was read.
type held[T any] struct {
	value    T
	revision int64
}

// snapshot is everything of the room in the agreed state.
type snapshot struct {
	changed  bool // against the one before
	channels map[string]held[Channel]
	rules    map[string]held[Rule]
	alerts   map[string]held[Alert] // by ID
	states   map[string]held[state] // by channel
}

// reader decodes rows; what did not change is not decoded again. It belongs to
// one goroutine.
type reader struct {
	rows Rows
	last snapshot
	at   int64 // revision of last
}

func newReader(rows Rows) *reader { return &reader{rows: rows} }

// read returns the present rows. Rows that cannot be read, as a newer version
// may write some, are left out.
func (r *reader) read() snapshot {
	at := r.rows.Revision()
	if at == r.at && r.last.alerts != nil {
		r.last.changed = false
		return r.last
	}
	r.at = at
	s := snapshot{channels: map[string]held[Channel]{}, rules: map[string]held[Rule]{}, alerts: map[string]held[Alert]{}, states: map[string]held[state]{}}
	for key, row := range r.rows.Prefix(prefix) {
		switch {
		case strings.HasPrefix(key, channelPrefix):
			s.changed = take(r, s.channels, r.last.channels, key, channelPrefix, row) || s.changed
		case strings.HasPrefix(key, rulePrefix):
			s.changed = take(r, s.rules, r.last.rules, key, rulePrefix, row) || s.changed
		case strings.HasPrefix(key, alertPrefix):
			s.changed = take(r, s.alerts, r.last.alerts, key, alertPrefix, row) || s.changed
		case strings.HasPrefix(key, statePrefix):
			s.changed = take(r, s.states, r.last.states, key, statePrefix, row) || s.changed
		}
	}
	s.changed = s.changed || len(s.channels) != len(r.last.channels) || len(s.rules) != len(r.last.rules) ||
		len(s.alerts) != len(r.last.alerts) || len(s.states) != len(r.last.states)
	r.last = s
	return s
}

// take reads one row into a map and tells whether it is another than before.
func take[T any](r *reader, into, old map[string]held[T], key, prefix string, row Row) bool {
	name := key[len(prefix):]
	if h, ok := old[name]; ok && h.revision == row.Revision {
		into[name] = h
		return false
	}
	h := held[T]{revision: row.Revision}
	if json.Unmarshal(row.Value, &h.value) != nil {
		return false
	}
	into[name] = h
	return true
}
