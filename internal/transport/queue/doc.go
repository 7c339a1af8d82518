// Package queue keeps every message a server has to move, and what became of
// it: the log with bodies and states, the ledger with a row for each message
// and recipient, copies held for other servers, and the messages kept after
// delivery (Safety Net). It knows states and their order and no policy.
//
// The log (package journal) is the truth. The ledger is what the log says, in
// Pebble without a log of its own; with each batch it notes the position up to
// which it followed, and it can be made anew from the log.
//
// It promises:
//
//  1. When Accept or StoreShadow returns nil, the message is on stable
//     storage, and so is a change with the durability Wait. After any other
//     answer but Invalid, Exists, Conflict and a refusal for space, the message
//     may be there: the caller voids it.
//  2. One call is one record: all of it survives a crash, or nothing.
//  3. A state changes only as the table in state.go allows.
//  4. A body that is read is what was accepted, or an error: it is verified.
//  5. The body of a message that is not finished is never given up.
//
// One goroutine, the writer, plans changes in order, writes them to the log,
// brings them into the ledger and answers. Whoever reads a message sees what was
// planned; whoever searches sees what was written.
package queue
