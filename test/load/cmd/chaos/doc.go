// Command chaos starts a lab, puts load on it and lets servers fail; at the
// end it reads every mailbox and compares.
//
// Rounds kill, in turn, the server with the most active databases, the one
// with the primary Active Manager and the etcd leader; others pause a server
// with SIGSTOP, cut one off, fill a disk, flip bytes in a copy, or move
// databases. After each the server comes
// back and has to be in sync before the next. It prints a table of the
// pauses that clients of the other servers saw and fails (exit 1) when a
// confirmed message or change is lost, doubled or damaged, when a session on a
// surviving server was disconnected, or when a server did not come back.
package main
