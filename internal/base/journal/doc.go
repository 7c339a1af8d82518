// Package journal keeps a log: one endless stream of records in segment files,
// the same bytes at the same position on every copy of it. A copy of a mailbox
// database is one, the queue of a server is another.
//
// It promises:
//
//  1. When Write or WriteChunk returns nil, the records are on stable storage
//     and are there, bit by bit, after any crash.
//  2. A record is there whole or not at all.
//  3. A write or sync that fails ends writing for good (promise P6); nothing
//     is ever tried again on the same file.
//  4. A torn end, left by a crash in the last write, is cut off. Damage
//     anywhere else is never cut off: it is reported, and can be repaired from
//     another copy without closing the log (promise P7).
//  5. Readers see nothing beyond End, and nothing that was not verified.
//
// How the two are told apart: each record carries, in eight bytes of its
// header that belong to the disk and not to the stream, how far before it the
// write began that stored it. A write begins only when the one before was
// synced, so any sound record proves everything before its write durable. For
// the very last write an end mark says the same when the log comes to rest or
// is closed. The same eight bytes note that a body is a hole, before it
// becomes one, so a block of zeros that a disk made up is damage.
//
// The log never looks into operations and bodies, and knows nothing of terms
// but that they do not decrease. One process opens a log at a time.
package journal
