// Package imapserver speaks IMAP4rev1 and IMAP4rev2 on one connection: it
// reads commands, keeps the connection's state and writes what a Session
// answers.
//
// It began as a copy of the package of the same name of
// github.com/emersion/go-imap/v2 2.0.0-beta.8 (MIT, see LICENSE). imapd's
// DESIGN.md lists what was changed and why.
//
// What it promises:
//
//  1. Nothing of a rejected command is taken for a command, also not the text
//     of a non-synchronizing literal.
//  2. What it holds for a connection is bounded: a 512-byte reader, one
//     command within Options.Limits, and a writer borrowed while there is
//     something to write. An idle connection holds no writer.
//  3. A client that does not read is dropped after Options.WriteTimeout.
//  4. A panic ends the connection it happened on and no other.
package imapserver
