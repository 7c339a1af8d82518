// Package transport moves messages: from the doors into mailboxes, to other
// mail systems and back to their senders.
//
// It promises (pledges G1, G2, G5 and G6 of the design):
//
//  1. When Accept returns nil, the message is on stable storage of this server
//     and, where the group has a second server that can store, of that one too.
//  2. Every recipient of an accepted message ends in exactly one way that the
//     ledger names: delivered, relayed, returned with a report to the sender,
//     dropped or quarantined by a policy, or removed by an administrator.
//  3. What may have reached a remote host twice says so in the ledger. A mailbox
//     never has a message twice.
//  4. A delivered message is kept for the hold time and delivered again when a
//     database lost it (Safety Net).
//
// The packages inside are queue (what is on the disk), schedule (what is tried
// next), deliver (who tries), route (where it goes), remote (other systems),
// shadow (the second copy), safetynet, guard (what is taken from whom), dsn,
// and what these need. Only this package knows all of them.
package transport
