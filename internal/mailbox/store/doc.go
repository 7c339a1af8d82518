// Package store keeps the index of one database copy: mailboxes, folders,
// messages, changes and where bodies are, in Pebble without a log of its own.
// The database's log (package journal) is the truth; the index is what it says
// and can be rebuilt from it.
//
// # How a change travels
//
// A log record carries ops: physical changes of keys (set, delete, delete
// range). The active copy's Planner turns a request into ops before the record
// is confirmed; Index.Apply, on every copy, puts the ops of confirmed records
// into Pebble blindly, together with the position reached, in one batch. So
// copies that applied the same log are equal key by key (Index.Digest), and
// applying a record needs no knowledge of mail.
//
// Several planned records may be unconfirmed at a time. The planner keeps what
// they will change in an overlay that its reads consult first. Readers never
// see it: they see what was confirmed and applied (G4).
//
// # What it promises
//
//  1. One modification number per request and mailbox: it grows by one and is
//     stamped on all rows the request touches. UIDs, UIDVALIDITY, folder, email
//     and modification numbers are never used twice, also not by a mailbox made
//     again under an old identity.
//  2. A change with a key is applied once while the key is remembered (1 h); a
//     delivery identity puts one copy in a mailbox within 48 h.
//  3. After a crash the index holds the effect of a prefix of the log, and says
//     which (Applied). Applying the rest gives the state it had.
//  4. All keys derived from content (names, thread keys) are bounded in length.
//  5. One request plans at most MaxOps bytes of ops.
//
// # Dropping the oldest segment of the log
//
// The index must stay rebuildable from what is left. Before the oldest segment
// is dropped, each of its records goes through a CompactReq. That sets again,
// in a new record at the end of the log, every key whose present value is the
// one the old record set, and writes a living body again and moves its blob row
// there. Why that loses nothing: take any key and the last op on it in the
// whole log. If that op is outside the segment, a rebuild applies it whether
// the segment is there or not, and nothing older matters. If it is a set inside
// the segment, its value is the present one, so it was carried and the last op
// is now outside. If it is a delete inside the segment, nothing follows it, and
// without the segment nothing precedes it either: the key is absent without it.
// So deletes need no carrying, but only the oldest segment may be dropped. The
// comparison is made by the planner, that is in log order: a change planned
// later has a later position and wins in every replay as it did in life.
//
// It needs package journal for positions and records and fails by returning
// errors of base/kind: Corrupt when the files are damaged (delete and rebuild
// from the log), Full when the disk is.
package store
