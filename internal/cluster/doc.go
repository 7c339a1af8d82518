// Package cluster keeps what the servers of a group agree on, and the
// connections between them.
//
// It keeps: the agreed state (etcd, inside the voting servers or run by the
// user), a picture of all of it in the memory of every server, membership,
// the group's own certificates, the one port at which servers speak with each
// other, and the heartbeats by which they know of each other's end.
//
// It promises:
//
//	C1 A Commit that returned without error is on the disks of a majority of
//	   the voting servers, and the local View includes it.
//	C2 Two Commits under the same condition never both succeed.
//	C3 A View never changes; View never blocks; it is there without quorum.
//	C4 LeaseValid is true only while no other server can have seen this
//	   server's lease end, judged by the local monotonic clock.
//	C5 A handler or RPC sees only peers that are members at that moment; a
//	   removed server's connections are closed when the removal arrives.
//	C6 Run returns when all it started is gone.
//
// Servers with several networks in common hear each other on every path (the
// mesh); Route names the best one for a use, DialOn takes it, and what this room
// sends moves to another within half a second when one falls silent
// (docs/decisions/0024).
//
// Without quorum Commit and Sync answer Busy; View, Published, Dial and the
// mesh go on. What it needs: a data folder of its own and its cluster address.
// Keys in this package's interface are relative to /postern/v1/.
package cluster
