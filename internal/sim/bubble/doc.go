// Package bubble runs a group through faults in simulated time: the real
// mailbox and active rooms on every server, inside a testing/synctest bubble,
// around an agreed state, links, disks and neighbours that are models in
// memory. Minutes of a group's life take a fraction of a second of CPU, so
// thousands of schedules are possible (make chaos-sim).
//
// A seed makes a Schedule: a group and a list of (moment, fault). Run plays it
// while clients deliver, append, flag, move and expunge, each change with a key,
// again and again until it is confirmed; each remembers what it was told. Then
// everything is mended, and the promises are checked:
//
//   - G1: every confirmed change is there, and all copies are identical; the group
//     became whole by itself, with no plan open.
//   - G2: no message is there twice, and none that was removed came back.
//   - G3: each term of a database had one server that could confirm, and a
//     reader is never shown less than was confirmed before.
//   - G4: UIDs and modification numbers only grow, and name the same message.
//
// What is modelled, and how:
//
//   - The agreed state (agreed.go) has revisions, compare and swap, a leader
//     with elections that take their time, leases, and watchers that see a
//     change late. Who does not reach a leader with a majority waits. An answer
//     may be lost after the change was made.
//
//   - Links (links.go, pipe.go) have delays, and can be cut in one direction or
//     both. What was sent over a link that is cut arrives when it is mended, as
//     with TCP; a connection of a process that ended is reset.
//
//   - Neighbours (neighbours.go) find each other up, refused or silent by the
//     rules of cluster/mesh and tell each other.
//
//   - Disks are fsx.Mem: slow, hanging, full, failing, lost; a lost power leaves
//     what was durable and a random part of the rest, a kill all that was
//     written. The index is on vfs.MemFS.
//
//   - Plans are the product's: servers are taken out for maintenance, restarted
//     and brought back, by a primary that may die on the way. Their queues become
//     empty by themselves and their doors obey at once.
//
//   - Health is what servers publish of their sets, which faults turn: who selects
//     copies goes by it. Nobody probes and nobody recovers.
//
// Not modelled: wall clocks that differ between servers, a process that is
// frozen in the middle of its own work (a freeze holds up all its links), and
// transport, probes and responders. A seed repeats its schedule exactly, and the
// order of goroutines as far as one processor does.
package bubble
