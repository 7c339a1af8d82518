// Package safetynet delivers again what a database lost. A queue keeps each
// message for the hold time after it was delivered, and so does the holder of
// its copy; a request names a database and an interval, and every server
// delivers what it kept of both once more.
//
// Requests are rows of the agreed state. Active Manager writes one in the same
// transaction as a lossy mount, an administrator by hand. Each server works for
// its own messages, and for those of a server that is away or lost its queue
// as far as it held copies of them.
//
// It promises:
//
//  1. A request that is Completed was answered for every server that was in the
//     group: by itself, or by all others that may have held copies.
//  2. A mailbox gets nothing twice: a message is delivered with the identity it
//     had the first time, which the mailbox remembers for longer than anything
//     is kept. Whatever is done again, after a crash or because a server came
//     back, is a duplicate and counted as one.
//  3. A restart goes on about where the request was.
//  4. Nobody is told: no message of Safety Net causes a report to a sender.
package safetynet
