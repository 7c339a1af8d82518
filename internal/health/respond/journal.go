package respond

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Journal is what this server did without the agreed state, in one file: the
// grants of the last 24 hours and the rows of the recovery log that have still
// to be written there. It is safe for concurrent use.
type Journal struct {
	path string
	mu   sync.Mutex // guards the rest and the file
	kept journal
}

type journal struct {
	Grants  []Grant        `json:"grants"`
	Rows    []org.Recovery `json:"rows"`
	Dropped int            `json:"dropped,omitempty"` // rows that found no room
}

// maxWaiting is how many rows wait for the agreed state; the oldest go first.
const maxWaiting = 200

// OpenJournal reads the file, which need not exist. One that cannot be read is
// set aside under the name .bad: what it said is not worth a server that does
// not start.
func OpenJournal(path string) (*Journal, error) {
	j := &Journal{path: path}
	raw, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return j, nil
	case err != nil:
		return nil, fmt.Errorf("recovery journal: %w", err)
	}
	if json.Unmarshal(raw, &j.kept) != nil {
		j.kept = journal{}
		if err := os.Rename(path, path+".bad"); err != nil {
			return nil, fmt.Errorf("recovery journal: %w", err)
		}
	}
	j.kept.Rows = j.kept.Rows[max(0, len(j.kept.Rows)-maxWaiting):]
	j.kept.Grants = j.kept.Grants[max(0, len(j.kept.Grants)-maxGrants):]
	return j, nil
}

// Budget is what this server granted itself.
func (j *Journal) Budget() Budget {
	j.mu.Lock()
	defer j.mu.Unlock()
	return Budget{slices.Clone(j.kept.Grants)}
}

// Grant keeps the newest grant of b, which is one of this server alone, and its row.
func (j *Journal) Grant(b Budget, row org.Recovery) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kept.Grants = Budget{j.kept.Grants}.With(b.Grants[len(b.Grants)-1], row.Begun).Grants
	return j.put(row)
}

// End keeps the end of a deed.
func (j *Journal) End(row org.Recovery, now time.Time) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.kept.Grants = Budget{j.kept.Grants}.Ended(row, now).Grants
	return j.put(row)
}

// Has tells whether a grant is one of this server alone.
func (j *Journal) Has(id string) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.ContainsFunc(j.kept.Grants, func(g Grant) bool { return g.ID == id })
}

// Write keeps a row until it can be written to the agreed state.
func (j *Journal) Write(row org.Recovery) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.put(row)
}

// put adds a row, or replaces it, and saves.
func (j *Journal) put(row org.Recovery) error {
	if i := slices.IndexFunc(j.kept.Rows, func(r org.Recovery) bool { return r.ID == row.ID }); i >= 0 {
		j.kept.Rows[i] = row
		return j.save()
	}
	if len(j.kept.Rows) >= maxWaiting {
		j.kept.Rows = slices.Delete(j.kept.Rows, 0, 1)
		j.kept.Dropped++
	}
	j.kept.Rows = append(j.kept.Rows, row)
	return j.save()
}

// Waiting are the rows that have to be written to the agreed state, oldest first.
func (j *Journal) Waiting() []org.Recovery {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.kept.Rows)
}

// Written forgets a row that was written, unless it has changed since.
func (j *Journal) Written(row org.Recovery) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	i := slices.IndexFunc(j.kept.Rows, func(r org.Recovery) bool { return r.ID == row.ID && r.Ended.Equal(row.Ended) })
	if i < 0 {
		return nil
	}
	j.kept.Rows = slices.Delete(j.kept.Rows, i, i+1)
	return j.save()
}

// save replaces the file. A crash leaves the old one or the new one.
func (j *Journal) save() error {
	raw, err := json.Marshal(j.kept)
	if err != nil {
		return fmt.Errorf("recovery journal: %w", err)
	}
	if err := ReplaceFile(j.path, raw, true); err != nil {
		return fmt.Errorf("recovery journal: %w", err)
	}
	return nil
}

// ReplaceFile writes a file so that another process sees the old content or the
// new one, and makes its folder where it is missing. With durable a loss of power
// leaves one of the two as well.
func ReplaceFile(path string, content []byte, durable bool) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".new-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil && durable {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}
