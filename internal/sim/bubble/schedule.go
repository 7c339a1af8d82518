package bubble

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/active"
	"github.com/postern-mail/postern/internal/mailbox"
	"github.com/postern-mail/postern/internal/org"
)

// Schedule is what happens to a group. A seed makes it, and nothing else.
type Schedule struct {
	Seed      uint64
	Servers   int
	Databases int
	Copies    int
	Clients   int
	Rebalance bool          // databases go back to their preferred servers
	Spare     bool          // each server has a spare volume
	Length    time.Duration // of the part with faults
	Faults    []Fault
}

// Fault is one thing that happens, and how long it lasts.
type Fault struct {
	At   time.Duration // since clients began
	Kind string
	A, B org.ServerName // the server, or the link from A to B
	DB   org.DatabaseName
	For  time.Duration // zero: until everything is mended
	Size time.Duration // of a delay
}

func (f Fault) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%8.3fs %s", f.At.Seconds(), f.Kind)
	for _, s := range []string{string(f.DB), string(f.A), string(f.B)} {
		if s != "" {
			b.WriteString(" " + s)
		}
	}
	if f.Size > 0 {
		fmt.Fprintf(&b, " by %s", f.Size.Round(time.Millisecond))
	}
	if f.For > 0 {
		fmt.Fprintf(&b, " for %s", f.For.Round(time.Millisecond))
	}
	return b.String()
}

// String lists the schedule, one fault a line.
func (s Schedule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "SIM_SEED=%d: %d servers, %d databases with %d copies, %d clients, rebalance %v, spares %v, %s\n",
		s.Seed, s.Servers, s.Databases, s.Copies, s.Clients, s.Rebalance, s.Spare, s.Length.Round(time.Millisecond))
	for _, f := range s.Faults {
		fmt.Fprintln(&b, f)
	}
	return b.String()
}

// The kinds of faults, each as often as it is named.
var kinds = []string{
	"kill", "kill", "kill", "power", "power", "restart",
	"cut", "cut", "one-way cut", "one-way cut", "isolate", "isolate", "slow link",
	"freeze", "freeze", "late view",
	"slow disk", "hung disk", "full disk", "failing disk", "wiped disk",
	"move", "move", "move", "evacuate", "balance", "dismount", "suspend", "suspend activation", "all down",
	"maintenance", "maintenance", "maintenance", "sick", "sick",
}

// Make makes the schedule of a seed.
func Make(seed uint64) Schedule {
	r := newRandom(seed, 1)
	s := Schedule{Seed: seed, Servers: []int{3, 3, 3, 3, 4, 5, 2}[r.intN(7)], Databases: 1 + r.intN(2),
		Clients: 2 + r.intN(4), Rebalance: r.intN(3) == 0, Spare: r.intN(2) == 0, Length: r.between(8*time.Second, 28*time.Second)}
	s.Copies = min(s.Servers, 2+r.intN(2))
	for n := 2 + r.intN(10); n > 0; n-- {
		f := s.fault(r)
		if len(s.Faults) > 0 && r.intN(4) == 0 {
			f.At = s.Faults[len(s.Faults)-1].At // two at once
			if r.intN(2) == 0 {
				f.At += r.between(0, 400*time.Millisecond)
			}
		}
		s.Faults = append(s.Faults, f)
	}
	slices.SortStableFunc(s.Faults, func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	return s
}

func (s Schedule) fault(r *random) Fault {
	f := Fault{At: r.between(0, s.Length), Kind: kinds[r.intN(len(kinds))]}
	a := r.intN(s.Servers)
	b := (a + 1 + r.intN(s.Servers-1)) % s.Servers
	f.A = serverName(a)
	// Short ones meet what waits, long ones what was given up.
	f.For = []time.Duration{r.between(20*time.Millisecond, 600*time.Millisecond), r.between(600*time.Millisecond, 3*time.Second),
		r.between(3*time.Second, 12*time.Second)}[r.intN(3)]
	switch f.Kind {
	case "cut", "one-way cut":
		f.B = serverName(b)
	case "slow link":
		f.B, f.Size = serverName(b), r.between(20*time.Millisecond, 900*time.Millisecond)
	case "late view":
		f.Size = r.between(100*time.Millisecond, 3*time.Second)
	case "slow disk":
		f.Size = r.between(2*time.Millisecond, 700*time.Millisecond)
	case "failing disk", "wiped disk":
		f.For = 0
	case "move":
		f.DB, f.For = s.database(r), 0
		f.B = serverName(b)
	case "maintenance":
		f.B = serverName(b)
		if r.intN(4) == 0 {
			f.Size = time.Second // it is aborted where it has not ended
		}
	case "dismount":
		f.DB = s.database(r)
	case "suspend", "suspend activation":
		f.DB = s.database(r)
	case "evacuate", "balance":
		f.For = 0
	case "all down":
		f.A = ""
	}
	return f
}

func (s Schedule) database(r *random) org.DatabaseName {
	return databaseName(r.intN(s.Databases))
}

func serverName(i int) org.ServerName     { return org.ServerName(fmt.Sprintf("MBX%d", i+1)) }
func databaseName(i int) org.DatabaseName { return org.DatabaseName(fmt.Sprintf("DB%02d", i+1)) }

// mailboxConfig are the product's times, with small files.
func (s Schedule) mailboxConfig() mailbox.Config {
	volumes := []mailbox.Volume{{Name: "vol1", Path: volumePath}}
	if s.Spare {
		volumes = append(volumes, mailbox.Volume{Name: "spare1", Path: sparePath, Spare: true})
	}
	return mailbox.Config{Volumes: volumes, SegmentSize: 64 << 10, Reserve: 1 << 20,
		CacheSize: 1 << 20, FlushEvery: 256 << 10, ReclaimInterval: 7 * time.Second, ScrubRate: 64 << 20}
}

func (s Schedule) activeConfig() active.Config {
	if s.Rebalance {
		return active.Config{BalanceWindow: "00:00-23:59", PreferenceMoveFrequency: 5 * time.Second, MoveBackOff: 5 * time.Second}
	}
	return active.Config{}
}

// define are the rows of the group before it starts.
func (s Schedule) define(a *agreed) error {
	for i := range s.Servers {
		name := serverName(i)
		row := org.Server{Name: name, Identity: "id-" + string(name), Site: "A", Voter: true, Volumes: []org.VolumeName{"vol1"}}
		if s.Spare {
			row.Volumes = append(row.Volumes, "spare1")
		}
		if err := a.put("servers/"+string(name), row); err != nil {
			return err
		}
	}
	for i := range s.Databases {
		def := org.Database{Name: databaseName(i), Identity: fmt.Sprintf("db-%d", i), SegmentSize: 64 << 10}
		for j := range s.Copies {
			def.Copies = append(def.Copies, org.Copy{Server: serverName((i + j) % s.Servers), Volume: "vol1", Preference: j + 1})
		}
		if err := a.put(mailbox.DatabaseKey(def.Name), def); err != nil {
			return err
		}
		first := def.Copies[0].Server
		if err := a.put(mailbox.MountKey(def.Name), org.Mount{Database: def.Name, Term: 1, Active: first, InSync: []org.ServerName{first}}); err != nil {
			return err
		}
	}
	return nil
}
