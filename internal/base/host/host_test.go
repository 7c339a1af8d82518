package host

import (
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
)

const (
	statText = "cpu  10 20 30 400 50 6 7 80 9 1\ncpu0 1 2 3 4 5 6 7 8 9 0\nintr 1\n"
	psiText  = "some avg10=1.50 avg60=12.34 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n"
	diskText = "   8       0 sda 100 1 2 30 400 5 6 700 8 90 10 0 0 0 0 11 12\n   7       0 loop0 1 2 3 4 5 6 7 8 9 10 11\n"
	procText = "42 (a ) b) S 1 42 42 0 -1 0 1 2 3 4 150 50 0 0 20 0\n"
)

func TestParsers(t *testing.T) {
	c, err := ParseStat([]byte(statText))
	if want := (CPU{Busy: 730 * time.Millisecond, Idle: 4500 * time.Millisecond, Steal: 800 * time.Millisecond}); err != nil || c != want {
		t.Errorf("%+v, %v", c, err)
	}
	after := CPU{Busy: c.Busy + 2*time.Second, Idle: c.Idle + 7*time.Second, Steal: c.Steal + time.Second}
	if got := after.StealShare(c); got != 10 {
		t.Errorf("steal %v %%", got)
	}
	if got := c.StealShare(after); got != 0 {
		t.Errorf("steal of a time that went back: %v %%", got)
	}
	if a, b, err := ParsePressure([]byte(psiText)); err != nil || a != 1.5 || b != 12.34 {
		t.Errorf("%v %v %v", a, b, err)
	}
	if n, err := ParseRunQueue([]byte("0.1 0.2 0.3 5/300 1234\n")); err != nil || n != 5 {
		t.Errorf("%d %v", n, err)
	}
	if m, err := ParseMemory([]byte("MemTotal: 2048 kB\nMemFree: 1 kB\nMemAvailable: 1024 kB\n")); err != nil || m != (Memory{2 << 20, 1 << 20}) {
		t.Errorf("%+v %v", m, err)
	}
	if n, err := ParseRSS([]byte("Name: x\nVmRSS:\t  4 kB\n")); err != nil || n != 4096 {
		t.Errorf("%d %v", n, err)
	}
	if d, err := ParseProcessTime([]byte(procText)); err != nil || d != 2*time.Second {
		t.Errorf("%v %v", d, err)
	}
	if d, err := ParseWaiting([]byte("119000 85771 1\n")); err != nil || d != 85771 {
		t.Errorf("%v %v", d, err)
	}
	d, err := ParseDisks([]byte(diskText))
	want := Disk{Reads: 100, ReadTime: 30 * time.Millisecond, Writes: 400, WriteTime: 700 * time.Millisecond, InFlight: 8, BusyTime: 90 * time.Millisecond, Flushes: 11, FlushTime: 12 * time.Millisecond}
	if err != nil || d["sda"] != want || len(d) != 2 {
		t.Errorf("%+v %v", d, err)
	}
}

// TestThisMachine: the kernel that runs the test is understood.
func TestThisMachine(t *testing.T) {
	var m Machine
	if c, err := m.CPU(); err != nil || c.Idle+c.Busy == 0 {
		t.Errorf("%+v %v", c, err)
	}
	if n, err := m.RSS(); err != nil || n < 1<<20 {
		t.Errorf("%d %v", n, err)
	}
	if open, most, err := m.Handles(); err != nil || open < 3 || most < open {
		t.Errorf("%d of %d: %v", open, most, err)
	}
	if x, err := m.Memory(); err != nil || x.Total == 0 {
		t.Errorf("%+v %v", x, err)
	}
	if _, err := m.RunQueue(); err != nil {
		t.Error(err)
	}
}

// FuzzParsers: nothing makes a parser panic or give a figure below zero.
func FuzzParsers(f *testing.F) {
	for _, s := range []string{statText, psiText, diskText, procText, "0 0 0 1/2 3", "MemTotal: 1 kB", "VmRSS: 1 kB", "", ")", "cpu"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		check := func(err error, ok bool) {
			if err != nil && !kind.Is(err, kind.Invalid) || err == nil && !ok {
				t.Errorf("%q: %v", b, err)
			}
		}
		c, err := ParseStat(b)
		check(err, c.Busy >= 0 && c.Idle >= 0 && c.Steal >= 0)
		a, p, err := ParsePressure(b)
		check(err, a >= 0 && p >= 0)
		n, err := ParseRunQueue(b)
		check(err, n >= 0)
		m, err := ParseMemory(b)
		check(err, m.Total > 0 && m.Available >= 0)
		r, err := ParseRSS(b)
		check(err, r >= 0)
		d, err := ParseProcessTime(b)
		check(err, d >= 0)
		d, err = ParseWaiting(b)
		check(err, d >= 0)
		all, err := ParseDisks(b)
		check(err, len(all) <= maxDisks)
		for _, x := range all {
			check(nil, x.ReadTime >= 0 && x.WriteTime >= 0)
		}
	})
}
