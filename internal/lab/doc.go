// Package lab runs several Postern servers on one machine: real `postern
// serve` processes on loopback, a group of them, databases with copies, users
// with mail. Newcomers meet Postern here, and everything automatic (tests,
// chaos, benchmarks) hooks in here through DIR/lab.json.
//
// The doors of server i listen on 127.0.0.1 with ports of its own; what is
// spoken between servers goes over the address 127.0.0.(10+i), so that a
// partition can be made with packet filter rules between addresses.
//
// Promises:
//
//  1. lab.json appears, complete, when the group is ready for mail, and is kept
//     true while processes come and go.
//  2. A lab that was stopped or killed goes on where it was when it is started
//     again on the same folder.
//  3. Faults are real: kill is SIGKILL for the host and its workers, pause is SIGSTOP for all of
//     them, fill-disk fills a volume, corrupt changes bytes in a file, a
//     partition drops packets. A server that was killed stays down until it is started again.
//  4. No process outlives the lab, whatever it died of.
//
// It asks for root and nft only where packets are to be dropped.
package lab
