// Package networks decides about the networks between servers: which subnets
// are one network (Collapse), how a network is (StateOf), at which addresses a
// server reaches another (Paths), and which of these paths to use (Order).
//
// All of it is pure: values in, decision and sentences out. What it decides
// about comes from the servers' rows, which each server writes about itself
// (Usable finds what belongs there), and from the mesh, which hears each path.
//
// The words follow Exchange (database availability group networks): exactly
// one client network, any number of replication networks, subnets of the same
// role on different members collapsed into one network, the client network as
// the last resort for replication. What differs: paths have an order that can
// be set, and the way back to a better network is automatic.
package networks
