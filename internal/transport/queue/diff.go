package queue

import "github.com/cockroachdb/pebble/v2"

// begin remembers the entry as the ledger has it, before it changes.
func (e *entry) begin() {
	if e.dirty {
		return
	}
	e.dirty, e.oldM, e.oldRows = true, nil, nil
	if e.stored {
		m := e.m
		e.oldM = &m
	}
}

// touched tells whether a row may differ from what the ledger has.
func (e *entry) touched(n int) bool {
	if e.oldM == nil || n >= e.oldM.Rows {
		return true
	}
	_, ok := e.oldRows[uint16(n)]
	return ok
}

// replace gives the place of an entry that is over to a new one.
func (e *entry) replace(by *entry) {
	e.begin()
	if e.oldM != nil {
		for n := range min(e.oldM.Rows, len(e.rows)) {
			e.touch(uint16(n))
		}
	}
	e.m, e.rows = by.m, by.rows
}

// whole tells whether keys of rows that did not change may have.
func (e *entry) whole() bool {
	o, m := e.oldM, &e.m
	return o == nil || e.gone || o.Primary != m.Primary || o.Forgotten != m.Forgotten || o.Finished != m.Finished || o.Received != m.Received
}

// put adds to b what makes the ledger say what the entry says.
func (e *entry) put(b *pebble.Batch) error {
	var err error
	old := map[string]string{}
	whole := e.whole()
	if e.oldM != nil {
		remember := func(k, v []byte) { old[string(k)] = string(v) }
		messageKeys(e.oldM, false, remember)
		for n := range e.oldM.Rows {
			if r, ok := e.oldRows[uint16(n)]; ok {
				rowKeys(e.oldM, uint16(n), &r, false, remember)
			} else if whole {
				rowKeys(e.oldM, uint16(n), &e.rows[n], false, remember)
			}
		}
	}
	for dest, j := range e.jobs {
		old[string(jobKey(e.m.ID, dest))] = string(j.encode())
	}
	set := func(k, v []byte) {
		was, there := old[string(k)]
		delete(old, string(k))
		if err == nil && (!there || was != string(v)) {
			err = b.Set(k, v, nil)
		}
	}
	jobs := e.work()
	if !e.gone {
		messageKeys(&e.m, true, set)
		for n := range e.rows {
			if whole || e.touched(n) {
				rowKeys(&e.m, uint16(n), &e.rows[n], true, set)
			}
		}
		for dest, j := range jobs {
			set(jobKey(e.m.ID, dest), j.encode())
		}
	}
	for k := range old {
		// Rows share search keys, and a message keeps those it ever had.
		if err == nil && (whole || k[0] != kSearch) {
			err = b.Delete([]byte(k), nil)
		}
	}
	if err != nil {
		return wrap(err, "write")
	}
	e.jobs, e.stored, e.dirty, e.oldM, e.oldRows = jobs, !e.gone, false, nil, nil
	return nil
}
