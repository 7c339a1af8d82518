package node

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/host"
)

// Limits of restarts that workers order. They are the host's own: a worker that
// has lost its mind cannot take the server away.
const (
	ordersPerHour = 3
	ordersPerDay  = 6
)

// judgeOrder says why an order of a restart is refused, empty where it is
// obeyed. It reads nothing but its arguments.
func judgeOrder(before []HostOrder, o HostOrder, gap time.Duration) string {
	hour, day := 0, 0
	for _, b := range before {
		if b.Worker != o.Worker {
			continue
		}
		// A clock that was set back must not make old orders count for ever.
		age := max(o.At.Sub(b.At), 0)
		switch {
		case age < gap:
			return fmt.Sprintf("the last one was %s ago, and there have to be %s between two", age.Round(time.Second), gap)
		case age < time.Hour:
			hour++
		}
		if age < 24*time.Hour {
			day++
		}
	}
	switch {
	case hour >= ordersPerHour:
		return fmt.Sprintf("there were %d within an hour", hour)
	case day >= ordersPerDay:
		return fmt.Sprintf("there were %d within a day", day)
	}
	return ""
}

// order has a worker started anew, if the limits allow it.
func (h *Host) order(by, worker string) {
	o := HostOrder{At: time.Now(), Worker: worker, By: by}
	h.mu.Lock()
	k := h.keepers[worker]
	h.state.Orders = slices.DeleteFunc(h.state.Orders, func(b HostOrder) bool { return o.At.Sub(b.At) > 24*time.Hour })
	refused := judgeOrder(h.state.Orders, o, h.cfg.Timers.Gap)
	if refused == "" && k != nil {
		h.state.Orders = append(h.state.Orders, o)
		h.writeState()
	}
	h.mu.Unlock()
	if refused != "" || k == nil {
		h.events.Emit(EventWorkerOrder, "the %s worker asked to restart the %s worker; refused: %s", by, worker, refused)
		return
	}
	h.events.Emit(EventWorkerOrder, "the %s worker asked to restart the %s worker", by, worker)
	select {
	case k.orders <- struct{}{}:
	default: // one waits already
	}
}

// A health worker spins when it uses, or waits for, more than spinShare of a
// processor. On a machine that has none to spare it has to use spinLeast: what
// only waits is starved and does no harm.
const (
	spinShare = 0.8
	spinLeast = 0.1
)

// spinEvery is the pause between two looks at a worker's processor time.
const spinEvery = 5 * time.Second

// spinner notices a worker that does nothing but compute. The zero patience
// turns it off.
type spinner struct {
	patience time.Duration
	looked   time.Time
	used     time.Duration
	waited   time.Duration
	busy     time.Duration // without a pause until now
}

// over looks at a process, at most every few seconds, and tells whether it was
// busy for longer than it may.
func (s *spinner) over(now time.Time, pid int) bool {
	if s.patience == 0 || now.Sub(s.looked) < min(spinEvery, s.patience/2) {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	used, err := host.ParseProcessTime(b)
	if err != nil {
		return false
	}
	return s.look(now, used, waiting(pid))
}

// waiting is how long the threads of a process waited for a processor, 0 where
// the kernel does not say.
func waiting(pid int) (sum time.Duration) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, path := range tasks {
		if b, err := os.ReadFile(path); err == nil {
			w, _ := host.ParseWaiting(b) // 0 where it cannot be read
			sum += w
		}
	}
	return sum
}

// look takes one reading.
func (s *spinner) look(now time.Time, used, waited time.Duration) bool {
	passed, worked, starved := now.Sub(s.looked), used-s.used, max(waited-s.waited, 0)
	first := s.looked.IsZero()
	s.looked, s.used, s.waited = now, used, waited
	if first {
		return false
	}
	if float64(worked+starved) < spinShare*float64(passed) || float64(worked) < spinLeast*float64(passed) {
		s.busy = 0
		return false
	}
	s.busy += passed
	if s.busy < s.patience {
		return false
	}
	s.busy = 0
	return true
}
