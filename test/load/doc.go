// Package load is mail clients with a memory. They send and change mail at
// full speed while servers fail, note each answer with its time, and afterwards
// the Checker reads every mailbox over IMAP and says what was lost, doubled or
// damaged.
//
// What counts: a message is confirmed by the 250 after its data or the tagged
// OK of an APPEND; a flag change or move by its tagged OK. A confirmed message
// has to be there exactly once, byte for byte behind the trace lines. An
// outcome that no answer told (the connection broke) may be either, but never
// twice: senders repeat such a message until it is confirmed.
package load
