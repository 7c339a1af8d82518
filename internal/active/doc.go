// Package active is Active Manager: it decides which copy of each database is
// active, and sees to it that one is.
//
// One member of the group has the primary role (Exchange: PAM), by a row in
// the agreed state; the others stand by and take the role when its holder is
// judged dead. Safety does not rest on there being only one: each decision is
// a compare and swap of one database's mount row, and a copy confirms changes
// only for the term that row gives it (mailbox, G3).
//
// It promises:
//
//  1. A database whose active copy's server died is active again on an
//     in-sync copy as soon as the group's state can be written, or the log
//     says why not.
//  2. No mount loses anything confirmed unless a mount dial allows it.
//  3. Each turn of the loop that decided something new leaves one sentence (postern active log).
//  4. Every change of an active copy, and every database that finds no target, is
//     explained by a row that is written in the same transaction (postern database why).
//  5. A server gets no more databases than it may, however many are lost at once.
//  6. A database that is served is moved by itself only within limits (history,
//     storm); one without service is never held back.
//  7. Once it is written that a server is out of service, a site is stopped, or
//     the activation of a copy is suspended, no earlier decision puts a database there.
//
// choose is the pure decision about copies, balance the one about how
// databases are spread. What is dangerous is a plan: shown by --dry-run, then
// carried out step by step.
//
// Rows of the room: active/primary, decisions/<database>/<0..7>,
// moves/<database>; mounts/<database> belongs to the mailbox room too.
package active
