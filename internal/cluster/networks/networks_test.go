package networks

import (
	"bufio"
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/org"
)

var update = flag.Bool("update", false, "write the transcripts anew")

// TestTranscripts plays testdata/*.txt: what stands above the line is done,
// what is said stands below.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatal("no transcripts", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			input, want, _ := strings.Cut(string(b), "----\n")
			w := world{t: t}
			sc := bufio.NewScanner(strings.NewReader(input))
			for sc.Scan() {
				if line := strings.TrimSpace(sc.Text()); line != "" && line[0] != '#' {
					w.do(line)
				}
			}
			got := w.said.String()
			if *update {
				if err := os.WriteFile(file, []byte(input+"----\n"+got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if got != want {
				t.Errorf("said:\n%s\nwant:\n%s", got, want)
			}
		})
	}
}

// world is what a transcript speaks about.
type world struct {
	t        *testing.T
	servers  []org.Server
	nets     []org.Network
	settings org.NetworkSettings
	links    []Link
	paths    []PathState
	last     string
	said     strings.Builder
}

func (w *world) do(line string) {
	f := strings.Fields(line)
	switch f[0] {
	case "server": // server MBX1 eth0=10.1.0.1/24! eth1=10.2.0.1/24 (! default route)
		w.server(f[1], f[2:])
	case "ignore":
		w.settings.Ignore = append(w.settings.Ignore, netip.MustParsePrefix(f[1]))
	case "manual":
		w.settings.Manual = true
	case "forget": // the rows of networks, as network discover does
		w.nets = nil
	case "set": // set Replication01 preference=1 replication=false
		i := slices.IndexFunc(w.nets, func(n org.Network) bool { return n.Name == f[1] })
		for _, kv := range f[2:] {
			k, v, _ := strings.Cut(kv, "=")
			switch k {
			case "preference":
				w.nets[i].Preference, _ = strconv.Atoi(v)
			case "replication":
				w.nets[i].Replication = v == "true"
			case "ignore":
				w.nets[i].Ignore = v == "true"
			}
		}
	case "collapse":
		w.nets = Collapse(w.servers, w.nets, w.settings)
		for _, n := range w.nets {
			fmt.Fprintf(&w.said, "%s: %v\n", n.Name, n.Subnets)
		}
	case "paths":
		for _, p := range Paths(w.find(f[1]), w.find(f[2]), w.nets) {
			fmt.Fprintf(&w.said, "%s to %s over %s: %s\n", f[1], f[2], p.Network, p.Addr)
		}
	case "heard", "unheard": // heard Client MBX1 MBX2
		w.link(Link{org.ServerName(f[2]), org.ServerName(f[3]), f[1], f[0] == "heard"})
	case "all-heard":
		for _, a := range w.servers {
			for _, b := range w.servers {
				if a.Name != b.Name {
					for _, p := range Paths(a, b, w.nets) {
						w.link(Link{a.Name, b.Name, p.Network, true})
					}
				}
			}
		}
	case "state":
		for _, n := range w.nets {
			s, why := StateOf(n, w.servers, w.links)
			fmt.Fprintf(&w.said, "%s is %s: %s\n", n.Name, s, why)
		}
	case "path": // path Client up 90s 1ms
		age, _ := time.ParseDuration(f[3])
		p := PathState{Network: f[1], Up: f[2] == "up", For: age}
		if len(f) > 4 {
			p.RTT, _ = time.ParseDuration(f[4])
		}
		w.paths = append(slices.DeleteFunc(w.paths, func(o PathState) bool { return o.Network == p.Network }), p)
	case "order":
		use := Replication
		if f[1] == "client" {
			use = Client
		}
		out := Order(w.paths, w.nets, use, w.last, w.settings.Failback)
		fmt.Fprintf(&w.said, "%s after %q: %s\n", f[1], w.last, strings.Join(out, " "))
		w.last = out[0]
	default:
		w.t.Fatalf("what is %q?", line)
	}
}

func (w *world) link(l Link) {
	w.links = append(slices.DeleteFunc(w.links, func(o Link) bool {
		return o.From == l.From && o.To == l.To && o.Network == l.Network
	}), l)
}

func (w *world) find(name string) org.Server {
	i := slices.IndexFunc(w.servers, func(s org.Server) bool { return string(s.Name) == name })
	return w.servers[i]
}

func (w *world) server(name string, ifaces []string) {
	s := org.Server{Name: org.ServerName(name)}
	var found []Found
	for _, spec := range ifaces {
		nic, addr, _ := strings.Cut(spec, "=")
		addr, def := strings.CutSuffix(addr, "!")
		p := netip.MustParsePrefix(addr)
		if s.ClusterAddr == "" {
			s.ClusterAddr = netip.AddrPortFrom(p.Addr(), 7443).String()
		}
		found = append(found, Found{Name: nic, Flags: net.FlagUp | net.FlagRunning, Prefixes: []netip.Prefix{p}, Default: def})
	}
	s.Interfaces = Usable(found, s.ClusterAddr, 7443, w.settings.Ignores)
	w.servers = append(slices.DeleteFunc(w.servers, func(o org.Server) bool { return o.Name == s.Name }), s)
}

// TestUsable: what a machine has and what the others are told of it.
func TestUsable(t *testing.T) {
	const up = net.FlagUp | net.FlagRunning
	ps := func(s ...string) (out []netip.Prefix) {
		for _, p := range s {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	lo := Found{"lo", up | net.FlagLoopback, 65536, ps("127.0.0.1/8"), false}
	eth0 := Found{"eth0", up, 1500, ps("fe80::1/64", "2001:db8::1/64", "10.1.0.1/24"), true}
	eth1 := Found{"eth1", up, 9000, ps("10.2.0.1/24", "10.2.0.99/24"), false}
	none := func(netip.Addr) bool { return false }
	for _, tc := range []struct {
		name  string
		found []Found
		addr  string
		ign   func(netip.Addr) bool
		want  string
	}{
		{"one interface", []Found{lo, eth0}, "10.1.0.1:7443", none, ""},
		{"two", []Found{lo, eth1, eth0}, "10.1.0.1:7443", none, "eth0 10.1.0.1:7443 eth1 10.2.0.1:7443"},
		{"a lab on loopback", []Found{lo, eth0, eth1}, "127.0.0.11:7443", none, ""},
		{"the second address is the cluster's", []Found{eth0, eth1}, "10.2.0.99:7443", none, "eth0 10.1.0.1:7443 eth1 10.2.0.99:7443"},
		{"the cluster's is IPv6", []Found{eth0, eth1}, "[2001:db8::1]:7443", none, "eth0 [2001:db8::1]:7443 eth1 10.2.0.1:7443"},
		{"a name", []Found{eth0, eth1}, "mbx1.example:7443", none, "eth0 10.1.0.1:7443 eth1 10.2.0.1:7443"},
		{"down", []Found{eth0, {"eth1", net.FlagUp, 1500, ps("10.2.0.1/24"), false}}, "10.1.0.1:7443", none, ""},
		{"tunnel", []Found{eth0, {"wg0", up | net.FlagPointToPoint, 1420, ps("10.9.0.1/24"), false}}, "10.1.0.1:7443", none, ""},
		{"link-local only", []Found{eth0, {"eth1", up, 1500, ps("169.254.3.4/16"), false}}, "10.1.0.1:7443", none, ""},
		{"ignored", []Found{eth0, eth1}, "10.1.0.1:7443", func(a netip.Addr) bool { return netip.MustParsePrefix("10.2.0.0/16").Contains(a) }, ""},
		{"eth10 after eth2", []Found{{"eth10", up, 0, ps("10.3.0.1/24"), false}, {"eth2", up, 0, ps("10.2.0.1/24"), false}}, "10.3.0.1:7443", none, "eth2 10.2.0.1:7443 eth10 10.3.0.1:7443"},
	} {
		var got []string
		for _, i := range Usable(tc.found, tc.addr, 7443, tc.ign) {
			got = append(got, i.Name, i.Addr.String())
		}
		if strings.Join(got, " ") != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, strings.Join(got, " "), tc.want)
		}
	}
}
