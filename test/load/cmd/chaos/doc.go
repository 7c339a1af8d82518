// Command chaos starts a lab, puts load on it and lets servers fail; at the
// end it reads every mailbox and compares.
//
// Rounds kill, in turn, the server with the most active databases, the one
// with the primary Active Manager and the etcd leader; others pause a server
// with SIGSTOP, cut one off, fill a disk, flip bytes in a copy, or move
// databases, or fill the disk of a queue. Beside mail that comes in, people
// write to the outside world: hosts that take everything, that defer, hang and
// hang up, that are away until the end, and one that refuses all. After each the server comes
// back and has to be in sync before the next. It prints a table of the
// pauses that clients of the other servers saw and fails (exit 1) when a
// confirmed message or change is lost, doubled or damaged, when what
// was accepted for somebody outside was neither delivered nor returned, or both,
// or twice without the ledger's saying so, when ledger and reality differ (postern
// queue verify), when a session on a
// surviving server was disconnected, or when a server did not come back.
package main
