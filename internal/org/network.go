package org

import (
	"net/netip"
	"slices"
	"time"
)

// ClientNetwork is the name of the network in which clients reach the servers
// (Exchange: the MAPI network). A path with this name always exists.
const ClientNetwork = "Client"

// Interface is an address of a server in one of its networks, as the server
// found it.
type Interface struct {
	Name    string         `json:"name"`   // as the machine calls it
	Prefix  netip.Prefix   `json:"prefix"` // the subnet it stands in
	Addr    netip.AddrPort `json:"addr"`   // where this server listens for the others
	Default bool           `json:"default,omitempty"`
	MTU     int            `json:"mtu,omitempty"` // bytes
}

// NetworkRole tells what a network is for.
type NetworkRole string

// Roles of networks.
const (
	RoleClient      NetworkRole = "client"
	RoleReplication NetworkRole = "replication"
)

// Network is subnets that play the same role on different servers (Exchange:
// database availability group network), as kept in the agreed state.
type Network struct {
	Name        string         `json:"name"`
	Description string         `json:"description,omitempty"`
	Subnets     []netip.Prefix `json:"subnets"`
	Role        NetworkRole    `json:"role"`
	// Replication lets log shipping and seeding use the network. Where no
	// network that has it works, the client network is used all the same.
	Replication bool `json:"replication"`
	// Ignore takes the network out: nothing is sent over it.
	Ignore bool `json:"ignore,omitempty"`
	// Auto tells that the system found it; an administrator's own is not.
	Auto bool `json:"auto,omitempty"`
	// Preference orders networks for replication, 1 first; 0 comes after all
	// that have one.
	Preference int `json:"preference,omitempty"`
}

// Holds tells whether an address belongs to one of the network's subnets.
func (n Network) Holds(a netip.Addr) bool {
	return slices.ContainsFunc(n.Subnets, func(p netip.Prefix) bool { return p.Contains(a) })
}

// Compression says where log is compressed on its way (Exchange:
// NetworkCompression).
type Compression string

// Compression settings. The zero value means CompressInterSubnet.
const (
	CompressDisabled    Compression = "disabled"
	CompressEnabled     Compression = "enabled"
	CompressInterSubnet Compression = "inter-subnet"
	CompressSeedOnly    Compression = "seed-only"
)

// NetworkSettings hold for all networks of a group.
type NetworkSettings struct {
	// Manual leaves the networks as administrators made them.
	Manual      bool        `json:"manual,omitempty"`
	Compression Compression `json:"compression,omitempty"`
	// Ignore are subnets, and parts of them, that no server uses.
	Ignore []netip.Prefix `json:"ignore,omitempty"`
	// Failback is how long a network has to work before it is preferred
	// again; 0 means DefaultFailback.
	Failback time.Duration `json:"failback,omitempty"`
}

// DefaultFailback is how long a network that came back has to work before
// streams return to it.
const DefaultFailback = time.Minute

// Ignores tells whether an address is one that no server uses.
func (s NetworkSettings) Ignores(a netip.Addr) bool {
	return slices.ContainsFunc(s.Ignore, func(p netip.Prefix) bool { return p.Contains(a) })
}
