// Package quarantine keeps mail aside that policy did not let through, until
// an administrator releases or deletes it or its time is over.
//
// Messages lie in a mailbox of the organization that nobody logs in to, in an
// ordinary database: they are as safe as all mail. In front of each stands one
// header field, X-Postern-Quarantine, that says why it is there, who it is for and
// what the envelope was; what follows is the message as it came.
//
// It promises:
//
//  1. When Put returns nil, the message is kept. Put may be repeated.
//  2. An organization finds its own mail only: a message for several is kept
//     once for each, with its own recipients.
//  3. A message that is released is the one that came, byte for byte, and goes to
//     recipients of its envelope only. Released twice it is delivered once.
//  4. Malware is released by administrators of the servers only.
//  5. What a stranger wrote into the message is never taken for our field: ours
//     is the first line, and only that one is read.
//
// It needs the mailbox store and the directory's system mailboxes. Where a
// database is away, calls answer Busy.
package quarantine
