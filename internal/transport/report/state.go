package report

import (
	"bytes"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"time"

	"github.com/postern-mail/postern/internal/base/fsx"
	"github.com/postern-mail/postern/internal/base/kind"
)

const (
	// stateFile holds the counters.
	stateFile = "reports.json"
	// maxState bounds the file in bytes, maxDays what is believed of it.
	maxState = 64 << 20
	maxDays  = 4
	// magic begins the file; a checksum (CRC-32C, hex) of the rest follows.
	magic = "postern-reports-1 "
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// The file: a line with the checksum, and these as JSON.
type (
	savedDay struct {
		Day   time.Time    `json:"day"`
		DMARC []savedDMARC `json:"dmarc,omitempty"`
		TLS   []savedTLS   `json:"tls,omitempty"`
	}
	savedDMARC struct {
		Domain string     `json:"domain"`
		Policy published  `json:"policy"`
		Rows   []savedRow `json:"rows"`
		Lost   uint64     `json:"lost,omitempty"`
	}
	savedRow struct {
		dmarcRow
		Count uint64 `json:"count"`
	}
	savedTLS struct {
		Domain string         `json:"domain"`
		Policy string         `json:"policy"`
		Lines  []string       `json:"lines,omitempty"`
		Hosts  []string       `json:"hosts,omitempty"`
		Good   uint64         `json:"good,omitempty"`
		Failed []savedFailure `json:"failed,omitempty"`
	}
	savedFailure struct {
		tlsFailure
		Count uint64 `json:"count"`
	}
)

// saved copies a day.
func (t *tally) saved() savedDay {
	out := savedDay{Day: t.day}
	for domain, c := range t.dmarc {
		d := savedDMARC{Domain: domain, Policy: c.policy, Lost: c.lost, Rows: make([]savedRow, 0, len(c.rows))}
		for row, n := range c.rows {
			d.Rows = append(d.Rows, savedRow{row, n})
		}
		out.DMARC = append(out.DMARC, d)
	}
	for domain, c := range t.tls {
		for policy, p := range c.policies {
			s := savedTLS{Domain: domain, Policy: policy, Lines: p.lines, Hosts: p.hosts, Good: p.good}
			for f, n := range p.failed {
				s.Failed = append(s.Failed, savedFailure{f, n})
			}
			out.TLS = append(out.TLS, s)
		}
	}
	return out
}

// tally makes the day again, within the limits of a day.
func (s savedDay) tally() *tally {
	t := newTally(dayOf(s.Day))
	for _, d := range s.DMARC {
		if c := t.domainDMARC(d.Domain); c != nil {
			c.policy, c.lost = d.Policy, d.Lost
			for _, row := range d.Rows {
				t.addDMARC(c, row.dmarcRow, row.Count)
			}
		}
	}
	for _, d := range s.TLS {
		if p := t.policyTLS(d.Domain, d.Policy); p != nil {
			p.good += d.Good
			t.setPolicy(p, d.Lines, d.Hosts)
			for _, f := range d.Failed {
				t.addTLS(p, f.tlsFailure, f.Count)
			}
		}
	}
	return t
}

// save writes all counters; only Run calls it. Where it cannot, the counters
// are in memory only.
func (r *Reporter) save() {
	r.mu.Lock()
	if !r.dirty {
		r.mu.Unlock()
		return
	}
	r.dirty = false
	today := r.today.saved()
	r.mu.Unlock()
	var days []savedDay
	for _, t := range r.done {
		days = append(days, t.saved())
	}
	b, err := encode(append(days, today))
	if err == nil {
		err = fsx.WriteFile(r.d.FS, filepath.Join(r.d.Dir, stateFile), b)
	}
	if err != nil {
		r.d.Log.Warn("counters for reports are in memory only", "err", err)
	}
}

func encode(days []savedDay) ([]byte, error) {
	b, err := json.Marshal(days)
	if err != nil {
		return nil, err
	}
	return append(fmt.Appendf(nil, "%s%08x\n", magic, checksum(b)), b...), nil
}

// load reads what save wrote; no file is an empty one.
func (r *Reporter) load() ([]*tally, error) {
	b, err := fsx.ReadFile(r.d.FS, filepath.Join(r.d.Dir, stateFile), maxState)
	if kind.Is(err, kind.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return decode(b)
}

func decode(b []byte) ([]*tally, error) {
	head, rest, _ := bytes.Cut(b, []byte("\n"))
	if string(head) != fmt.Sprintf("%s%08x", magic, checksum(rest)) {
		return nil, kind.Errorf(kind.Corrupt, "%s: it is damaged or of another version", stateFile)
	}
	var days []savedDay
	if err := json.Unmarshal(rest, &days); err != nil {
		return nil, kind.Errorf(kind.Corrupt, "%s: %w", stateFile, err)
	}
	var out []*tally
	for _, d := range days[:min(len(days), maxDays)] {
		out = append(out, d.tally())
	}
	return out, nil
}
