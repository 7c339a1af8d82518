package audit

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
)

// Prefix is where records are in the agreed state.
const Prefix = "audit/"

// Keep is how many records stay in the agreed state.
const Keep = 10_000

// trim is how many old records one change removes at most, so that its
// transaction stays small.
const trim = 32

// Write is one change of a key; a nil Value deletes it.
type Write struct {
	Key   string
	Value []byte
}

// State is what the record needs of the agreed state.
type State interface {
	// Write does all changes or none; kind.Busy without quorum.
	Write(ctx context.Context, w []Write) error
	// Prefix lists keys and values from memory in the order of keys.
	Prefix(p string) iter.Seq2[string, []byte]
}

// Outcomes of a record.
const (
	Started = "started"
	Done    = "done"
	Failed  = "failed"
)

// Record is one change.
type Record struct {
	ID           string         `json:"id" col:"-"`
	Time         time.Time      `json:"time" col:"TIME"`
	Server       string         `json:"server" col:"SERVER"`
	Caller       string         `json:"caller" col:"CALLER"`
	Organization string         `json:"organization,omitempty" col:"-"`
	Remote       string         `json:"remote,omitempty" col:"-"`
	Command      string         `json:"command" col:"COMMAND"`
	Params       map[string]any `json:"params,omitempty" col:"PARAMETERS"`
	DryRun       bool           `json:"dry_run,omitempty" col:"-"`
	Outcome      string         `json:"outcome" col:"OUTCOME"`
	Error        string         `json:"error,omitempty" col:"ERROR"`
	Milliseconds int64          `json:"milliseconds,omitempty" col:"-"`
	TraceID      string         `json:"trace_id,omitempty" col:"-"`
}

// Config says where the file is and who writes.
type Config struct {
	Server string // this server's name
	File   string // audit.jsonl, empty for none
}

// Log writes records. It is safe for concurrent use.
type Log struct {
	cfg   Config
	state State
	log   *slog.Logger
	now   func() time.Time

	mu   sync.Mutex // guards last and the order of the file
	last int64
}

// New returns a log that writes to state and to the file.
func New(cfg Config, state State, log *slog.Logger) *Log {
	return &Log{cfg: cfg, state: state, log: log, now: time.Now}
}

// withoutQuorum is how long a command for the time without quorum waits for its
// record to be taken.
const withoutQuorum = time.Second

// Begin writes down that caller is about to run c with the parameters in. Its
// error is that of the agreed state, and then the change must not run; a command
// for the time when that does not answer is in the file only until its End.
func (l *Log) Begin(ctx context.Context, c command.Command, caller command.Caller, in any) (Record, error) {
	at := l.now()
	r := Record{
		ID: l.nextID(at), Time: at.UTC(), Server: l.cfg.Server, Caller: caller.Name, Organization: caller.Organization,
		Remote: caller.Remote, Command: c.Name(), Params: command.Redacted(in), Outcome: Started, TraceID: caller.TraceID,
	}
	r.DryRun, _ = r.Params["dry_run"].(bool)
	delete(r.Params, "dry_run")
	put := ctx
	if c.WithoutQuorum {
		var cancel context.CancelFunc
		put, cancel = context.WithTimeout(ctx, withoutQuorum)
		defer cancel()
	}
	if err := l.put(put, r, l.surplus()); err != nil && !(c.WithoutQuorum && kind.Is(err, kind.Busy)) {
		return Record{}, fmt.Errorf("write audit record of %s: %w", c.Name(), err)
	}
	l.file(r)
	return r, nil
}

// End adds the outcome to a record. An agreed state that cannot be written is
// only logged: the change is done, and the file has the outcome.
func (l *Log) End(ctx context.Context, r Record, cause error) {
	r.Outcome, r.Milliseconds = Done, l.now().Sub(r.Time).Milliseconds()
	if cause != nil {
		r.Outcome, r.Error = Failed, kind.Of(cause).String()+": "+text(cause)
	}
	l.file(r)
	if err := l.put(ctx, r, nil); err != nil {
		l.log.WarnContext(ctx, "audit outcome not in the agreed state", "id", r.ID, "command", r.Command, "error", err)
	}
}

// text is the start of an error's text.
func text(err error) string {
	s := err.Error()
	return s[:min(len(s), 500)]
}

// nextID makes an id later than all others of this process.
func (l *Log) nextID(at time.Time) string {
	l.mu.Lock()
	n := max(at.UnixNano(), l.last+1)
	l.last = n
	l.mu.Unlock()
	var b [4]byte
	rand.Read(b[:]) // never fails (crypto/rand)
	return fmt.Sprintf("%016x%s", n, hex.EncodeToString(b[:]))
}

// surplus lists the oldest records beyond Keep.
func (l *Log) surplus() []Write {
	var old []Write
	n := 0
	for key := range l.state.Prefix(Prefix) {
		n++
		if len(old) < trim {
			old = append(old, Write{Key: key})
		}
	}
	return old[:min(len(old), max(0, n+1-Keep))]
}

func (l *Log) put(ctx context.Context, r Record, also []Write) error {
	b, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return l.state.Write(ctx, append([]Write{{Prefix + r.ID, b}}, also...))
}

// file appends to audit.jsonl. It opens the file each time, so that it may be
// rotated by renaming; changes are rare.
func (l *Log) file(r Record) {
	if l.cfg.File == "" {
		return
	}
	b, err := json.Marshal(r)
	if err == nil {
		l.mu.Lock()
		err = appendTo(l.cfg.File, append(b, '\n'))
		l.mu.Unlock()
	}
	if err != nil {
		l.log.Warn("audit file not written", "file", l.cfg.File, "error", err)
	}
}

func appendTo(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	return errors.Join(err, f.Close())
}
