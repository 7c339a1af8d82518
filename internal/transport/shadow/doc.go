// Package shadow keeps every message of a server's queue on a second server
// until it is delivered, and has that server go on with it when the first is
// lost.
//
// A row for each server in the agreed state (org.QueueRow) fences: a message
// of an epoch up to TakenUpTo belongs to whoever holds a copy. From there on the
// servers ask each other (claims) who has it, and this holds:
//
//  1. A copy is made an own message (taken) only when every other server either
//     answered that it does not own the message, or is itself fenced as a whole,
//     which was looked up behind a read of the agreed state, after this server
//     had begun to answer that it owns the message.
//  2. A server that finds its own messages fenced gives way to every holder of
//     a copy that is fenced. It goes on by itself only where nobody holds one,
//     under the same condition.
//  3. Of several holders the one with the greatest epoch and try goes on; the
//     others wait until it owns the message, and only then give up their copies.
//  4. A copy is given up only when its message is finished, was never confirmed,
//     or is owned or held by somebody else who said so.
//  5. The holder of a copy hears of a remote attempt before the final dot, as
//     long as it answers.
//
// So a message is nowhere lost while one of its two servers has a disk, and no
// two servers that the agreed state reaches may send it. What both believe to
// own for a moment is delivered to mailboxes by identity, so once.
//
// It needs the agreed state and the links (Group) and the queue. It fails by
// waiting: without quorum nothing is taken, and a server that returned sends
// nothing to other hosts.
package shadow
