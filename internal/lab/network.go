package lab

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// firstGID is the group id of server 0. Each server runs under a group of its
// own, so that the packet filter knows whose connection it sees; the ids
// belong to nobody.
const firstGID = 60700

// network cuts servers off by nftables. Packets between servers go to or come
// from a server's address 127.0.0.(10+i); who opened the connection is kept as its
// connection mark, because a client's own address on loopback is always
// 127.0.0.1.
type network struct {
	table string
	ports string // of this lab; another lab on the machine uses the same addresses
	plans []ServerPlan
	cut   map[string]bool // servers that are cut off from all others
	away  map[string]bool // sites that are cut off from all others
}

func newNetwork(plans []ServerPlan, basePort int) *network {
	return &network{table: fmt.Sprintf("postern_lab_%d", basePort), ports: fmt.Sprintf("%d-%d", basePort+100, basePort+100*(len(plans)+1)+portSpan), plans: plans, cut: map[string]bool{}, away: map[string]bool{}}
}

// usable says why partitions cannot be made here, nil when they can.
func (n *network) usable() error {
	if os.Geteuid() != 0 {
		return kind.WithHint(kind.Errorf(kind.Denied, "a partition needs root, because packets have to be dropped"),
			"start the lab with sudo")
	}
	if _, err := exec.LookPath("nft"); err != nil {
		return kind.WithHint(kind.Errorf(kind.NotFound, "a partition needs the nft command"), "apt-get install nftables")
	}
	return nil
}

// apply makes the kernel's rules those of n. The marks are set even when
// nothing is cut: a connection has to be known from its first packet.
func (n *network) apply(ctx context.Context) error {
	return n.nft(ctx, n.rules())
}

func (n *network) remove(ctx context.Context) error {
	return n.nft(ctx, fmt.Sprintf("table inet %s\ndelete table inet %s\n", n.table, n.table))
}

// rules renders the whole table; loading it replaces the former one in one
// transaction. Connections that have nothing to do with servers are not
// tracked.
func (n *network) rules() string {
	var ips []string
	for _, p := range n.plans {
		ips = append(ips, p.IP)
	}
	set := "{ " + strings.Join(ips, ", ") + " }"
	var b strings.Builder
	fmt.Fprintf(&b, "table inet %s\ndelete table inet %s\ntable inet %s {\n", n.table, n.table, n.table)
	for _, hook := range []string{"output", "prerouting"} {
		fmt.Fprintf(&b, "  chain raw_%s {\n    type filter hook %s priority raw; policy accept;\n", hook, hook)
		dev := map[string]string{"output": "oifname", "prerouting": "iifname"}[hook]
		fmt.Fprintf(&b, "    %s \"lo\" ip daddr != %s ip saddr != %s notrack\n  }\n", dev, set, set)
	}
	b.WriteString("  chain owner {\n    type filter hook output priority mangle; policy accept;\n")
	for _, p := range n.plans {
		fmt.Fprintf(&b, "    ip daddr %s tcp dport %s ct state new meta skgid %d ct mark set %d\n", set, n.ports, p.gid, p.Index)
	}
	b.WriteString("  }\n  chain cut {\n    type filter hook output priority filter; policy accept;\n")
	for _, p := range n.plans {
		n.cutOff(&b, p)
	}
	b.WriteString("  }\n}\n")
	return b.String()
}

// cutOff renders what keeps a server from others: from all of them, or from those
// of other sites.
func (n *network) cutOff(b *strings.Builder, p ServerPlan) {
	var ips, marks []string
	for _, o := range n.plans {
		if o.Name != p.Name && (n.cut[p.Name] || n.away[p.Site] && o.Site != p.Site) {
			ips, marks = append(ips, o.IP), append(marks, fmt.Sprint(o.Index))
		}
	}
	if len(ips) == 0 {
		return
	}
	others, theirs := "{ "+strings.Join(ips, ", ")+" }", "{ "+strings.Join(marks, ", ")+" }"
	// What this server opened, in both directions, and what others opened to it.
	fmt.Fprintf(b, "    ct mark %d ip daddr %s tcp dport %s drop\n", p.Index, others, n.ports)
	fmt.Fprintf(b, "    ct mark %d ip saddr %s tcp sport %s drop\n", p.Index, others, n.ports)
	fmt.Fprintf(b, "    ct mark %s ip daddr %s tcp dport %s drop\n", theirs, p.IP, n.ports)
	fmt.Fprintf(b, "    ct mark %s ip saddr %s tcp sport %s drop\n", theirs, p.IP, n.ports)
}

func (n *network) nft(ctx context.Context, script string) error {
	cmd := exec.CommandContext(ctx, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("nft: %w: %s", err, bytes.TrimSpace(out))
	}
	return nil
}
