// Package milter asks a mail filter that speaks Sendmail's milter protocol what
// it thinks of a message. The filter gets the whole session at once, when the
// message is here: who connected, what was said, each field, the body.
//
// It may accept, refuse, defer, discard or quarantine, in its own words, and
// name header fields to add, change or remove. What it says of one recipient
// counts for the message, since all were accepted when it is asked. It cannot
// change recipients or the sender (that is logged), and not the body: a message
// that the filter wanted otherwise is one that was not scanned.
//
// Answers are bounded in time and size; anything but an answer of the protocol
// is an error.
package milter
