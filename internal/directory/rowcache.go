package directory

import (
	"encoding/json"
	"sync"
)

// maxRows is how many decoded recipients are kept; beyond it, some are
// decoded again when asked for.
const maxRows = 200_000

// rowCache keeps decoded recipients by revision, so that going through an
// organization decodes only what changed since the last time. Its rows are shared: who
// wants to change one clones it.
type rowCache struct {
	mu   sync.RWMutex // guards rows
	rows map[string]decoded
}

type decoded struct {
	revision int64
	row      *Recipient // nil: does not decode
}

func newRowCache() *rowCache { return &rowCache{rows: map[string]decoded{}} }

func (c *rowCache) get(key string, it Item) *Recipient {
	c.mu.RLock()
	have, ok := c.rows[key]
	c.mu.RUnlock()
	if ok && have.revision == it.Revision {
		return have.row
	}
	r := new(Recipient)
	if json.Unmarshal(it.Value, r) != nil {
		r = nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.rows) >= maxRows {
		for k := range c.rows { // any one
			delete(c.rows, k)
			break
		}
	}
	c.rows[key] = decoded{it.Revision, r}
	return r
}

// forget drops rows that the view does not have any more.
func (c *rowCache) forget(v View) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.rows {
		if _, ok := v.Get(key); !ok {
			delete(c.rows, key)
		}
	}
}
