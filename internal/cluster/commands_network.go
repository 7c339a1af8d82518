package cluster

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"github.com/postern-mail/postern/internal/base/command"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster/networks"
	"github.com/postern-mail/postern/internal/org"
)

// NetworkInfo is a line of network list.
type NetworkInfo struct {
	Name        string          `json:"name" col:"NETWORK"`
	Role        org.NetworkRole `json:"role" col:"ROLE"`
	State       networks.State  `json:"state" col:"STATE"`
	Subnets     []netip.Prefix  `json:"subnets" col:"SUBNETS"`
	Replication bool            `json:"replication" col:"REPLICATION"`
	Ignore      bool            `json:"ignore" col:"IGNORED"`
	Preference  int             `json:"preference,omitempty" col:"PREFERENCE"`
	Why         string          `json:"why,omitempty" col:"WHY"`
}

// NetworkDetails is what network show tells.
type NetworkDetails struct {
	org.Network
	State      networks.State     `json:"state"`
	Why        string             `json:"why"`
	Interfaces []NetworkInterface `json:"interfaces"`
	Paths      []NetworkPath      `json:"paths"`
}

// NetworkInterface is a server's place in a network.
type NetworkInterface struct {
	Server    org.ServerName `json:"server" col:"SERVER"`
	Interface string         `json:"interface" col:"INTERFACE"`
	Address   netip.AddrPort `json:"address" col:"ADDRESS"`
	MTU       int            `json:"mtu,omitempty" col:"MTU"`
	State     string         `json:"state" col:"STATE"` // Up, Unreachable, Unavailable or Unknown
}

// NetworkPath is one way between two servers, as the first of them hears it.
type NetworkPath struct {
	From      org.ServerName `json:"from" col:"FROM"`
	To        org.ServerName `json:"to" col:"TO"`
	State     PeerState      `json:"state" col:"STATE"`
	RTTMicros int64          `json:"rtt_us,omitempty" col:"RTT_US"`
}

type networkArg struct {
	Name string `json:"network" arg:"1" required:"true" complete:"network list" doc:"name of the network"`
}

type setNetworkArgs struct {
	Name        string   `json:"network" arg:"1" required:"true" complete:"network list" doc:"name of the network"`
	Replication *bool    `json:"replication" doc:"log shipping and seeding may use it"`
	Ignore      *bool    `json:"ignore" doc:"nothing is sent over it"`
	Preference  *int     `json:"preference" doc:"order among networks for replication, 1 first; 0 for none"`
	Description *string  `json:"description" doc:"words for people, at most 256 characters"`
	Subnets     []string `json:"subnets" doc:"its subnets, as in 10.2.0.0/24; in manual mode only"`
}

type networkSettingsArgs struct {
	Manual      *bool           `json:"manual" doc:"true: networks are as administrators make them; false: they are found"`
	Compression org.Compression `json:"compression" enum:"disabled,enabled,inter-subnet,seed-only" doc:"where log is compressed on its way between servers"`
	Encryption  string          `json:"encryption" doc:"always enabled; anything else is refused"`
	Ignore      []string        `json:"ignore" doc:"subnets that no server uses, as in 172.17.0.0/16; none for an empty list"`
	Failback    *int            `json:"failback_seconds" doc:"seconds a network has to work before it is preferred again; 0 for the default"`
}

type createNetworkArgs struct {
	Name        string   `json:"network" arg:"1" required:"true" doc:"name of the new network"`
	Subnets     []string `json:"subnets" required:"true" doc:"its subnets, as in 10.2.0.0/24"`
	Description string   `json:"description" doc:"words for people, at most 256 characters"`
	Preference  int      `json:"preference" doc:"order among networks for replication, 1 first; 0 for none"`
}

type removeNetworkArgs struct {
	Name   string `json:"network" arg:"1" required:"true" complete:"network list" doc:"name of the network"`
	DryRun bool   `json:"dry_run" doc:"only say what would be done"`
}

// NetworkSettingsInfo is what holds for all networks.
type NetworkSettingsInfo struct {
	Manual      bool            `json:"manual" col:"MANUAL"`
	Compression org.Compression `json:"compression" col:"COMPRESSION"`
	Encryption  string          `json:"encryption" col:"ENCRYPTION"`
	Ignore      []netip.Prefix  `json:"ignore" col:"IGNORED"`
	Failback    int             `json:"failback_seconds" col:"FAILBACK"`
}

func networkCommands(c *Cluster) []command.Command {
	read := []command.Role{command.ServerAdmin, command.Auditor}
	return []command.Command{
		command.New(command.Command{Noun: "network", Verb: "list", Short: "List the networks between the servers and how they are", Roles: read, Example: "postern network list"},
			func(context.Context, command.None) ([]NetworkInfo, error) { return c.Networks(), nil }),
		command.New(command.Command{Noun: "network", Verb: "show", Short: "Show one network: interfaces and paths", Roles: read, Example: "postern network show Replication01"},
			func(_ context.Context, in networkArg) (NetworkDetails, error) { return c.showNetwork(in.Name) }),
		command.New(command.Command{Noun: "network", Verb: "set", Short: "Change what a network is used for", Changes: true,
			Example: "postern network set Replication02 --preference 1"},
			func(ctx context.Context, in setNetworkArgs) (command.None, error) {
				return command.None{}, c.setNetwork(ctx, in)
			}),
		command.New(command.Command{Noun: "network", Verb: "settings", Short: "Show or change what holds for all networks", Changes: true,
			Long:    "Without parameters it shows the settings. In manual mode networks stay as they are until somebody changes them.",
			Example: "postern network settings --compression enabled"},
			c.setNetworkSettings),
		command.New(command.Command{Noun: "network", Verb: "discover", Short: "Find the networks anew, and forget those in which no server stands any more", Changes: true, Example: "postern network discover"},
			func(ctx context.Context, _ command.None) ([]NetworkInfo, error) {
				if _, s := c.networks(); s.Manual {
					return nil, kind.WithHint(kind.Errorf(kind.Invalid, "networks are made by hand"), "postern network settings --manual=false")
				}
				if _, err := c.collapse(ctx, true); err != nil {
					return nil, err
				}
				return c.Networks(), nil
			}),
		command.New(command.Command{Noun: "network", Verb: "create", Short: "Make a replication network by hand", Changes: true,
			Long:    "In manual mode only (postern network settings --manual).",
			Example: "postern network create Backbone --subnets 10.7.1.0/24,10.7.2.0/24"},
			func(ctx context.Context, in createNetworkArgs) (command.None, error) {
				return command.None{}, c.createNetwork(ctx, in)
			}),
		command.New(command.Command{Noun: "network", Verb: "remove", Short: "Remove a network that was made by hand", Changes: true, Dangerous: true,
			Long:    "In manual mode only. Its subnets are used no longer.",
			Example: "postern network remove Backbone --dry-run"},
			c.removeNetwork),
	}
}

// shownNetworks are the networks as stored, or as they would be where nothing
// had to be stored yet.
func (c *Cluster) shownNetworks() []org.Network {
	nets, settings := c.networks()
	if len(nets) == 0 {
		nets = networks.Collapse(c.View().Servers(), nil, settings)
	}
	if len(nets) == 0 {
		nets = []org.Network{{Name: org.ClientNetwork, Role: org.RoleClient, Replication: true, Auto: true}}
	}
	return nets
}

func bare(ls []link) []networks.Link {
	out := make([]networks.Link, len(ls))
	for i, l := range ls {
		out[i] = l.Link
	}
	return out
}

// Networks are those between the servers, and how they are.
func (c *Cluster) Networks() []NetworkInfo {
	links := bare(c.links())
	out := []NetworkInfo{}
	for _, n := range c.shownNetworks() {
		state, why := networks.StateOf(n, c.View().Servers(), links)
		out = append(out, NetworkInfo{n.Name, n.Role, state, n.Subnets, n.Replication, n.Ignore, n.Preference, why})
	}
	return out
}

func (c *Cluster) showNetwork(name string) (NetworkDetails, error) {
	nets := c.shownNetworks()
	i := slices.IndexFunc(nets, func(n org.Network) bool { return n.Name == name })
	if i < 0 {
		return NetworkDetails{}, kind.WithHint(kind.Errorf(kind.NotFound, "network %s: there is none of this name", name), "postern network list")
	}
	d := NetworkDetails{Network: nets[i], Interfaces: []NetworkInterface{}, Paths: []NetworkPath{}}
	links := c.links()
	d.State, d.Why = networks.StateOf(d.Network, c.View().Servers(), bare(links))
	states := c.states()
	for _, s := range c.View().Servers() {
		for _, f := range s.Interfaces {
			if d.Holds(f.Addr.Addr()) {
				d.Interfaces = append(d.Interfaces, NetworkInterface{s.Name, f.Name, f.Addr, f.MTU, interfaceState(s.Name, name, links, states[s.Name].State)})
			}
		}
	}
	for _, l := range links {
		if l.Network == name {
			d.Paths = append(d.Paths, NetworkPath{l.From, l.To, l.state, l.rtt.Microseconds()})
		}
	}
	return d, nil
}

// interfaceState judges an interface by who hears it.
func interfaceState(s org.ServerName, network string, ls []link, server PeerState) string {
	known := false
	for _, l := range ls {
		if l.To == s && l.Network == network {
			if known = true; l.Up {
				return "Up"
			}
		}
	}
	switch {
	case server == PeerSilent || server == PeerRefused:
		return "Unavailable"
	case known:
		return "Unreachable"
	}
	return "Unknown"
}

func parseSubnets(list []string) ([]netip.Prefix, error) {
	var out []netip.Prefix
	for _, s := range list {
		p, err := netip.ParsePrefix(s)
		switch {
		case err != nil:
			return nil, kind.Errorf(kind.Invalid, "subnet %q: want an address and a length, as in 10.2.0.0/24", s)
		case p != p.Masked():
			return nil, kind.Errorf(kind.Invalid, "subnet %s: want %s", p, p.Masked())
		}
		out = append(out, p)
	}
	if len(out) > 64 {
		return nil, kind.Errorf(kind.Invalid, "%d subnets, at most 64 are allowed", len(out))
	}
	return out, nil
}

// editNetworks changes the rows of networks; nothing is done if edit refuses.
func (c *Cluster) editNetworks(ctx context.Context, edit func(nets []org.Network, s org.NetworkSettings) ([]org.Network, error)) error {
	if err := c.Sync(ctx); err != nil {
		return err
	}
	v := c.View()
	old, settings := networksIn(v)
	base := old
	if len(base) == 0 {
		base = c.shownNetworks()
	}
	now, err := edit(slices.Clone(base), settings)
	if err == nil {
		err = fit(now)
	}
	if err != nil {
		return err
	}
	return c.putNetworks(ctx, v, old, now)
}

// fit refuses networks that cannot stand beside each other.
func fit(nets []org.Network) error {
	for i, a := range nets {
		if len(a.Description) > 256 {
			return kind.Errorf(kind.Invalid, "network %s: description of %d characters, at most 256", a.Name, len(a.Description))
		}
		for _, b := range nets[:i] {
			for _, p := range a.Subnets {
				if j := slices.IndexFunc(b.Subnets, p.Overlaps); j >= 0 {
					return kind.Errorf(kind.Invalid, "network %s: its subnet %s overlaps %s of network %s", a.Name, p, b.Subnets[j], b.Name)
				}
			}
		}
	}
	return nil
}

func (c *Cluster) setNetwork(ctx context.Context, in setNetworkArgs) error {
	subnets, err := parseSubnets(in.Subnets)
	if err != nil {
		return err
	}
	if in.Preference != nil && *in.Preference < 0 {
		return kind.Errorf(kind.Invalid, "preference %d: want 1 for the first, or 0 for none", *in.Preference)
	}
	return c.editNetworks(ctx, func(nets []org.Network, s org.NetworkSettings) ([]org.Network, error) {
		i := slices.IndexFunc(nets, func(n org.Network) bool { return n.Name == in.Name })
		switch {
		case i < 0:
			return nil, kind.WithHint(kind.Errorf(kind.NotFound, "network %s: there is none of this name", in.Name), "postern network list")
		case subnets != nil && !s.Manual:
			return nil, notManual()
		case in.Ignore != nil && *in.Ignore && nets[i].Role == org.RoleClient:
			return nil, kind.WithHint(kind.Errorf(kind.Invalid, "network %s: the client network cannot be ignored, it is the last resort", in.Name), "--replication=false keeps log shipping off it while another network works")
		}
		n := &nets[i]
		if in.Replication != nil {
			n.Replication = *in.Replication
		}
		if in.Ignore != nil {
			n.Ignore = *in.Ignore
		}
		if in.Preference != nil {
			n.Preference = *in.Preference
		}
		if in.Description != nil {
			n.Description = *in.Description
		}
		if subnets != nil {
			n.Subnets, n.Auto = subnets, false
		}
		return nets, nil
	})
}

func notManual() error {
	return kind.WithHint(kind.Errorf(kind.Invalid, "networks are found by the system; subnets can be given in manual mode only"), "postern network settings --manual")
}

func (c *Cluster) createNetwork(ctx context.Context, in createNetworkArgs) error {
	if err := org.ValidName(in.Name); err != nil {
		return kind.Errorf(kind.Invalid, "network %w", err)
	}
	subnets, err := parseSubnets(in.Subnets)
	if err != nil {
		return err
	}
	return c.editNetworks(ctx, func(nets []org.Network, s org.NetworkSettings) ([]org.Network, error) {
		switch {
		case !s.Manual:
			return nil, notManual()
		case slices.ContainsFunc(nets, func(n org.Network) bool { return n.Name == in.Name }):
			return nil, kind.Errorf(kind.Exists, "network %s exists", in.Name)
		case len(nets) >= 64:
			return nil, kind.Errorf(kind.Full, "there are %d networks, at most 64 are allowed", len(nets))
		}
		return append(nets, org.Network{Name: in.Name, Description: in.Description, Subnets: subnets, Role: org.RoleReplication, Replication: true, Preference: max(in.Preference, 0)}), nil
	})
}

func (c *Cluster) removeNetwork(ctx context.Context, in removeNetworkArgs) (command.Plan, error) {
	plan := command.Plan{DryRun: in.DryRun}
	edit := func(nets []org.Network, s org.NetworkSettings) ([]org.Network, error) {
		i := slices.IndexFunc(nets, func(n org.Network) bool { return n.Name == in.Name })
		switch {
		case !s.Manual:
			return nil, notManual()
		case i < 0:
			return nil, kind.Errorf(kind.NotFound, "network %s: there is none of this name", in.Name)
		case nets[i].Role == org.RoleClient:
			return nil, kind.Errorf(kind.Invalid, "network %s: the client network cannot be removed", in.Name)
		}
		plan.Steps = []command.Step{{Name: "remove network", Detail: describe(nets[i : i+1])}}
		return slices.Delete(nets, i, i+1), nil
	}
	if in.DryRun {
		nets, settings := c.networks()
		_, err := edit(slices.Clone(nets), settings)
		return plan, err
	}
	if err := c.editNetworks(ctx, edit); err != nil {
		return plan, err
	}
	plan.Steps[0].Done = true
	return plan, nil
}

// setNetworkSettings changes what is given and tells what holds.
func (c *Cluster) setNetworkSettings(ctx context.Context, in networkSettingsArgs) (NetworkSettingsInfo, error) {
	if in.Encryption != "" && in.Encryption != "enabled" {
		return NetworkSettingsInfo{}, kind.Errorf(kind.Invalid, "encryption %q: it is always enabled. Who a server is, and that what it sends is its own, rests on TLS 1.3 with both ends verified; in one subnet as between two", in.Encryption)
	}
	if len(in.Ignore) == 1 && in.Ignore[0] == "none" {
		in.Ignore = []string{}
	}
	ignore, err := parseSubnets(in.Ignore)
	if err != nil {
		return NetworkSettingsInfo{}, err
	}
	if in.Failback != nil && (*in.Failback < 0 || *in.Failback > 86400) {
		return NetworkSettingsInfo{}, kind.Errorf(kind.Invalid, "failback of %d seconds: want 0 to 86400", *in.Failback)
	}
	if in.Manual != nil || in.Compression != "" || in.Ignore != nil || in.Failback != nil {
		if err := c.Sync(ctx); err != nil {
			return NetworkSettingsInfo{}, err
		}
		v := c.View()
		_, s := networksIn(v)
		if in.Manual != nil {
			s.Manual = *in.Manual
		}
		if in.Compression != "" {
			s.Compression = in.Compression
		}
		if in.Ignore != nil {
			s.Ignore = ignore
		}
		if in.Failback != nil {
			s.Failback = time.Duration(*in.Failback) * time.Second
		}
		it, _ := v.Get(keyNetworkSettings)
		if _, err := c.Commit(ctx, Txn{If: []Cond{{keyNetworkSettings, it.Revision}}, Then: []Op{{Key: keyNetworkSettings, Value: mustJSON(s)}}}); err != nil {
			return NetworkSettingsInfo{}, err
		}
	}
	_, s := c.networks()
	out := NetworkSettingsInfo{Manual: s.Manual, Compression: s.Compression, Encryption: "enabled", Ignore: s.Ignore, Failback: int(c.cfg.Failback / time.Second)}
	if out.Compression == "" {
		out.Compression = org.CompressInterSubnet
	}
	if s.Failback > 0 {
		out.Failback = int(s.Failback / time.Second)
	}
	return out, nil
}
