package bubble

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// Worlds run in processes of their own: libraries keep pools of things that
// belong to one bubble, so a process has only one, with one world after the
// other in it; and a process has one processor, so that a seed repeats itself
// as far as it can.
const (
	childSeeds  = "SIM_CHILD"  // first seed and how many, for a process with worlds
	childBroken = "SIM_BROKEN" // the promise that is broken there
	childKeep   = "SIM_KEEP"   // numbers of the faults that happen, all where it is not set
	perChild    = 10           // seeds a process
	perChildNow = 3            // where it is short
)

// stuckAfter is how long a process may say nothing, on a machine with much else to
// do.
const stuckAfter = 8 * time.Minute

// TestChild is a process with worlds; by itself it is nothing.
func TestChild(t *testing.T) {
	var first, n uint64
	if _, err := fmt.Sscanf(os.Getenv(childSeeds), "%d %d", &first, &n); err != nil {
		return
	}
	o := Options{Broken: Broken(os.Getenv(childBroken))}
	if os.Getenv("SIM_SEED") != "" {
		o.Notes = os.Stdout
	}
	if os.Getenv("SIM_LOG") != "" {
		o.Log = os.Stdout
	}
	synctest.Test(t, func(t *testing.T) {
		for seed := first; seed < first+n; seed++ {
			fmt.Printf("@seed %d\n", seed)
			plan := Make(seed)
			if o.Broken != NothingBroken {
				plan = breaking(o.Broken, seed)
			}
			plan.Faults = keep(plan.Faults, os.Getenv(childKeep))
			r := Run(t.Context(), plan, o)
			fmt.Printf("@ok %s\n", r)
			for _, x := range r.Wrong {
				fmt.Printf("@wrong %s\n", x)
			}
		}
	})
	fmt.Println("@end")
}

// keep are the faults with these numbers.
func keep(all []Fault, numbers string) []Fault {
	if numbers == "" {
		return all
	}
	var out []Fault
	for _, n := range strings.Split(numbers, ",") {
		if i, err := strconv.Atoi(n); err == nil && i < len(all) {
			out = append(out, all[i])
		}
	}
	return out
}

// result is what a process said of one seed.
type result struct {
	seed  uint64
	text  string
	wrong []string
}

// child runs n seeds from first in a process and hands on what it says.
func child(first, n uint64, broken Broken, each func(result), env ...string) {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestChild$", "-test.timeout=0")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %d", childSeeds, first, n), childBroken+"="+string(broken),
		"GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1", "GOGC=400")
	cmd.Env = append(cmd.Env, env...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	cmd.WaitDelay = 10 * time.Second
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		each(result{first, "", []string{err.Error()}})
		return
	}
	// Who says nothing for long is made to say where it is.
	stuck := time.AfterFunc(stuckAfter, func() { _ = cmd.Process.Signal(syscall.SIGQUIT) })
	defer stuck.Stop()
	now := result{seed: first}
	open, ended := false, false
	rest := listen(out, func(line string) {
		stuck.Reset(stuckAfter)
		switch word, text, _ := strings.Cut(line, " "); word {
		case "@seed":
			if open {
				each(now)
			}
			seed, _ := strconv.ParseUint(text, 10, 64)
			now, open = result{seed: seed}, true
		case "@ok":
			now.text = text
		case "@wrong":
			now.wrong = append(now.wrong, text)
		case "@end":
			ended = true
		}
	})
	err = cmd.Wait()
	if !ended || err != nil {
		now.wrong = append(now.wrong, fmt.Sprintf("the process ended: %v\n%s\n%s", err, tail(rest), tail(errs.String())))
	}
	if open {
		each(now)
	}
}

// listen hands on the lines that begin with @ and keeps the end of the others.
func listen(r io.Reader, each func(string)) string {
	var other strings.Builder
	show := os.Getenv("SIM_SEED") != ""
	in := bufio.NewScanner(r)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		line := in.Text()
		if strings.HasPrefix(line, "@") {
			each(line)
			continue
		}
		if show {
			fmt.Println(line)
		} else if other.Len() < 1<<20 {
			other.WriteString(line + "\n")
		}
	}
	return other.String()
}

func tail(s string) string {
	const most = 12000
	if len(s) > most {
		return s[:most] + "\n..."
	}
	return s
}

// number is a setting of the environment.
func number(t *testing.T, name string, d uint64) uint64 {
	t.Helper()
	s := os.Getenv(name)
	if s == "" {
		return d
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// TestSchedules plays random schedules of faults and checks the promises after
// each: 250, or what there is time for with -short. SIM_SEEDS asks for that many,
// from seed SIM_FROM on; SIM_SEED plays one and shows what happens, with SIM_LOG
// what the servers log too.
func TestSchedules(t *testing.T) {
	t.Parallel()
	first, n := number(t, "SIM_FROM", 1), number(t, "SIM_SEEDS", 0)
	var until time.Time
	per := uint64(perChild)
	if n == 0 {
		per, n = perChildNow, 250
		if testing.Short() {
			n, until = 40, time.Now().Add(12*time.Second)
		}
	}
	if os.Getenv("SIM_SEED") != "" {
		first, n, until = number(t, "SIM_SEED", 0), 1, time.Time{}
	}
	var mu sync.Mutex // guards the rest
	done, bad := uint64(0), 0
	began, said := time.Now(), time.Now()
	each := func(r result) {
		mu.Lock()
		defer mu.Unlock()
		done++
		if len(r.wrong) > 0 {
			bad++
			t.Errorf("SIM_SEED=%d %s\n%s\n%s", r.seed, r.text, strings.Join(r.wrong, "\n"), Make(r.seed))
		} else if n == 1 {
			t.Log(r.text)
		}
		if time.Since(said) > 10*time.Second {
			said = time.Now()
			t.Logf("%d of %d seeds, %d failed, %.1f a second", done, n, bad, float64(done)/time.Since(began).Seconds())
		}
	}
	var wg sync.WaitGroup
	next := first
	for range runtime.NumCPU() {
		wg.Go(func() {
			for {
				mu.Lock()
				from := next
				next += per
				mu.Unlock()
				if from >= first+n || !until.IsZero() && time.Now().After(until) {
					return
				}
				child(from, min(per, first+n-from), NothingBroken, each)
			}
		})
	}
	wg.Wait()
	took := time.Since(began)
	t.Logf("%d seeds from %d, %d failed, in %s: %.2f seeds/second", done, first, bad, took.Round(time.Second), float64(done)/took.Seconds())
}

// breaking is a schedule in which a broken promise soon shows.
func breaking(b Broken, seed uint64) Schedule {
	s := Schedule{Seed: seed, Servers: 3, Databases: 1, Copies: 3, Clients: 5, Length: 6 * time.Second}
	if b == FreshKeys { // many changes whose answers are on their way
		for i := range 3 {
			s.Faults = append(s.Faults, Fault{Kind: "slow link", A: serverName(i), B: serverName((i + 1) % 3), Size: 150 * time.Millisecond, For: s.Length})
		}
	}
	for at := time.Second; at < s.Length; at += 1500 * time.Millisecond {
		f := Fault{At: at, Kind: "power", A: serverName(int(at/time.Second) % 3), For: 400 * time.Millisecond}
		switch b {
		case LyingDisks:
			f.Kind = "all down"
		case BlindSwaps: // who comes back believes that it is active still
			f.Kind, f.A, f.For = "kill", serverName(int(at/(1500*time.Millisecond))%3), time.Second
		}
		s.Faults = append(s.Faults, f)
	}
	return s
}

// TestBrokenPromisesAreSeen breaks promises on purpose, outside the rooms: the
// checks find out.
func TestBrokenPromisesAreSeen(t *testing.T) {
	t.Parallel()
	for _, b := range []struct {
		broken Broken
		says   string // some violation begins so
	}{
		{LyingDisks, "G"},
		{BlindSwaps, "G"},
		{FreshKeys, "G2"},
	} {
		seen, seeds := "", 0
		for first := uint64(1); first <= 10 && seen == ""; first++ {
			child(first, 1, b.broken, func(r result) {
				seeds++
				for _, x := range r.wrong {
					if _, text, _ := strings.Cut(x, "s: "); seen == "" && strings.HasPrefix(text, b.says) {
						seen = fmt.Sprintf("seed %d: %s", r.seed, x)
					}
				}
			})
		}
		if seen == "" {
			t.Errorf("%s: %d seeds and nothing was found", b.broken, seeds)
			continue
		}
		t.Logf("%s: %s", b.broken, seen)
	}
}

// TestShrink leaves out faults of the schedule of SIM_SHRINK as long as it fails,
// and shows what is left. Without it there is nothing to do.
func TestShrink(t *testing.T) {
	if os.Getenv("SIM_SHRINK") == "" {
		return
	}
	seed := number(t, "SIM_SHRINK", 0)
	plan := Make(seed)
	var left []string
	for i := range plan.Faults {
		left = append(left, strconv.Itoa(i))
	}
	fails := func(numbers []string) (wrong []string) {
		for range 3 { // the order of goroutines is not part of a seed
			child(seed, 1, NothingBroken, func(r result) { wrong = append(wrong, r.wrong...) }, childKeep+"="+strings.Join(numbers, ","))
			if len(wrong) > 0 {
				break
			}
		}
		return wrong
	}
	wrong := fails(left)
	if len(wrong) == 0 {
		t.Fatal("it does not fail")
	}
	for i := len(left) - 1; i >= 0 && len(left) > 1; i-- {
		fewer := slices.Delete(slices.Clone(left), i, i+1)
		if w := fails(fewer); len(w) > 0 {
			left, wrong = fewer, w
			t.Logf("%d faults left", len(left))
		}
	}
	plan.Faults = keep(plan.Faults, strings.Join(left, ","))
	t.Logf("%s=%s SIM_SEED=%d\n%s\n%s", childKeep, strings.Join(left, ","), seed, strings.Join(wrong, "\n"), plan)
}

// TestSeedMakesSchedule: the same seed makes the same schedule.
func TestSeedMakesSchedule(t *testing.T) {
	for seed := range uint64(100) {
		a, b := Make(seed).String(), Make(seed).String()
		if a != b {
			t.Fatalf("%s\n%s", a, b)
		}
		if a == Make(seed+1).String() {
			t.Fatalf("seeds %d and %d make the same", seed, seed+1)
		}
	}
}
