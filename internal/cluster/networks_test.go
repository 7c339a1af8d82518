package cluster

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/networks"
	"github.com/postern-mail/postern/internal/org"
)

// twoCards gives each server a second address, 127.1.0.n, as if both were
// cards of their own.
func twoCards(cfg *Config) {
	dir := cfg.Dir
	cfg.Failback = 500 * time.Millisecond
	cfg.Interfaces = func() []org.Interface {
		m, err := readFolder(dir)
		if err != nil {
			return nil
		}
		a := netip.MustParseAddrPort(m.self.Addr)
		b := a.Addr().As4()
		second := netip.AddrFrom4([4]byte{127, 1, 0, b[3]})
		return []org.Interface{
			{Name: "eth0", Prefix: netip.MustParsePrefix("127.0.0.0/24"), Addr: a, Default: true},
			{Name: "eth1", Prefix: netip.MustParsePrefix("127.1.0.0/24"), Addr: netip.AddrPortFrom(second, a.Port())},
		}
	}
}

// run does a command of the table.
func (n *node) command(verb string, in any) (any, error) {
	n.t.Helper()
	for _, c := range Commands(n.Cluster) {
		if c.Noun == "network" && c.Verb == verb {
			return c.Run(n.t.Context(), in)
		}
	}
	n.t.Fatalf("no command network %s", verb)
	return nil, nil
}

// TestTwoNetworks: two networks are found, heard, told to etcd and used as
// administrators have set.
func TestTwoNetworks(t *testing.T) {
	g := three(t, twoCards)
	a, b := g[0], g[1]
	for _, n := range g {
		eventually(t, string(n.Name())+" hears both others on two paths", func() bool {
			up := 0
			for _, p := range n.Peers() {
				for _, q := range p.Paths {
					if q.State == PeerUp {
						up++
					}
				}
			}
			return up == 4
		})
		eventually(t, "etcd knows two addresses of "+string(n.Name()), func() bool {
			bk, _ := n.currentBackend()
			if bk == nil {
				return false
			}
			list, err := bk.client.MemberList(t.Context())
			return err == nil && slices.ContainsFunc(list.Members, func(m *etcdMember) bool {
				return m.Name == string(n.Name()) && len(m.PeerURLs) == 2 && m.PeerURLs[0] == "https://"+n.addr
			})
		})
	}
	if r, c := a.Route("MBX2", ForReplication), a.Route("MBX2", ForClients); r != "Replication01" || c != "Client" {
		t.Errorf("log goes by %s, calls by %s", r, c)
	}
	for network, want := range map[string]string{"Client": "127.0.0.12", "Replication01": "127.1.0.12"} {
		conn, err := a.DialOn(t.Context(), "MBX2", protoGRPC, network)
		if err != nil {
			t.Fatal(err)
		}
		if host, _, _ := net.SplitHostPort(conn.RemoteAddr().String()); host != want {
			t.Errorf("%s leads to %s, want %s", network, host, want)
		}
		conn.Close()
	}
	eventually(t, "both are up", func() bool {
		rows := b.Networks()
		return len(rows) == 2 && rows[0].State == networks.StateUp && rows[1].State == networks.StateUp
	})
	d, err := b.showNetwork("Replication01")
	if err != nil || len(d.Interfaces) != 3 || len(d.Paths) != 6 || d.Interfaces[0].State != "Up" {
		t.Errorf("network show: %+v, %v", d, err)
	}

	yes, no := true, false
	if _, err := b.command("set", setNetworkArgs{Name: "Replication01", Ignore: &yes}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "an ignored network is not used", func() bool { return len(a.mesh.Paths("MBX2")) == 1 && a.Route("MBX2", ForReplication) == "Client" })
	if _, err := b.command("set", setNetworkArgs{Name: "Replication01", Ignore: &no}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it is used again", func() bool { return a.Route("MBX2", ForReplication) == "Replication01" })
}

// TestNetworkCommands: what is refused, and what manual mode allows.
func TestNetworkCommands(t *testing.T) {
	n := first(t, twoCards)
	eventually(t, "networks are found", func() bool { nets, _ := n.networks(); return len(nets) == 2 })
	yes, no, minus := true, false, -1
	for _, tc := range []struct {
		verb string
		in   any
		kind kind.Kind
		want string
	}{
		{"set", setNetworkArgs{Name: "Client", Ignore: &yes}, kind.Invalid, "last resort"},
		{"set", setNetworkArgs{Name: "Client", Preference: &minus}, kind.Invalid, "preference -1"},
		{"set", setNetworkArgs{Name: "Nobody"}, kind.NotFound, "none of this name"},
		{"set", setNetworkArgs{Name: "Client", Subnets: []string{"10.0.0.0/8"}}, kind.Invalid, "manual mode"},
		{"create", createNetworkArgs{Name: "Own", Subnets: []string{"10.0.0.0/8"}}, kind.Invalid, "manual mode"},
		{"remove", removeNetworkArgs{Name: "Replication01"}, kind.Invalid, "manual mode"},
		{"settings", networkSettingsArgs{Encryption: "disabled"}, kind.Invalid, "always enabled"},
		{"settings", networkSettingsArgs{Ignore: []string{"10.0.0.1/8"}}, kind.Invalid, "want 10.0.0.0/8"},
		{"settings", networkSettingsArgs{Failback: &minus}, kind.Invalid, "failback"},
		{"show", networkArg{Name: "Nobody"}, kind.NotFound, "none of this name"},
	} {
		if _, err := n.command(tc.verb, tc.in); kind.Of(err) != tc.kind || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s %+v: %v", tc.verb, tc.in, err)
		}
	}
	out, err := n.command("settings", networkSettingsArgs{Manual: &yes, Compression: org.CompressEnabled, Encryption: "enabled"})
	if s, ok := out.(NetworkSettingsInfo); err != nil || !ok || !s.Manual || s.Compression != org.CompressEnabled || s.Encryption != "enabled" {
		t.Fatalf("%+v, %v", out, err)
	}
	if _, err := n.command("discover", command.None{}); kind.Of(err) != kind.Invalid {
		t.Errorf("discover in manual mode: %v", err)
	}
	if _, err := n.command("create", createNetworkArgs{Name: "Own", Subnets: []string{"127.1.0.0/16"}}); err == nil || !strings.Contains(err.Error(), "overlaps") {
		t.Errorf("a network over another: %v", err)
	}
	for _, step := range []struct {
		verb string
		in   any
	}{
		{"create", createNetworkArgs{Name: "Own", Subnets: []string{"10.7.0.0/24"}, Preference: 1}},
		{"remove", removeNetworkArgs{Name: "Own", DryRun: true}},
		{"remove", removeNetworkArgs{Name: "Own"}},
		{"settings", networkSettingsArgs{Manual: &no, Ignore: []string{"127.1.0.0/24"}}},
		{"discover", command.None{}},
	} {
		if _, err := n.command(step.verb, step.in); err != nil {
			t.Errorf("%s: %v", step.verb, err)
		}
	}
	if rows := n.Networks(); len(rows) != 1 || rows[0].Name != "Client" {
		t.Errorf("after the second subnet is ignored: %+v", rows)
	}
	if _, err := n.DialOn(context.Background(), "MBX1", protoGRPC, "Nobody"); kind.Of(err) != kind.NotFound {
		t.Errorf("dial in no network: %v", err)
	}
}
