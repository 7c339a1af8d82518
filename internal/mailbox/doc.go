// Package mailbox keeps the mailbox databases: their copies on this server,
// the replication between copies, and the way of every caller to a mailbox
// wherever its active copy is.
//
// It promises (numbers are those of docs/promises in the design):
//
//   - G1: a change is confirmed only when every member of the in-sync set has
//     it on stable storage. A database with two copies in sync does not go on
//     with one while another copy's server could store (org.TwoWhilePossible).
//   - G2: a change with a key, and a delivery with an identity, is applied
//     once, however often it is repeated and over any number of failovers.
//   - G3: a copy takes the log only from the active of the newest term it has
//     seen; an active that lost its term confirms nothing.
//   - G4: what a reader was shown was confirmed before, so numbers never go back.
//   - G9: requests in flight, batches, frames and watchers have limits.
//
// The log of a copy is base/journal. Inside: store is its index, summary what is
// parsed of a message once. Keeper (the front door) runs one copy per
// database of this server, each in one of three roles: leading (the active
// copy), following, or at rest. Client is the store as callers see it.
//
// It needs from others: the group's agreed state and links (cluster). Who is
// active is decided above, by Active Manager; a Keeper only obeys the mount
// row, except that a leading copy changes its own in-sync set by compare and
// swap.
//
// It fails by answering kind.Busy: a caller may try again. A copy whose disk
// fails reports org.CopyFailed and stops; it never retries a failed fsync.
package mailbox
