// Package dsn writes delivery status notifications: what a sender is told of a
// message that failed, waits for long, was delivered, or went to a server that
// does not report. It is pure: a Report in, a message for the queue out.
//
// The form is multipart/report (RFC 6522) with a text for people, the fields of
// RFC 3464 for programs, and the original message or its header. Who is told
// what follows RFC 3461 (NOTIFY, RET, ENVID, ORCPT); addresses beyond ASCII
// follow RFC 6533; REQUIRETLS is kept (RFC 8689 section 5).
//
// Promises:
//
//  1. No notification about a message from the null sender nor about another
//     notification, and none that RFC 3461 says is not wanted. It is sent from
//     the null sender and says Auto-Submitted (RFC 3834), so it is answered by
//     nobody.
//  2. Trace and delivery identity follow from the parent, the kind and the
//     recipients alone: two servers that tell the same make one message.
//  3. Whatever stands in addresses, replies of servers and the original
//     message, the result is a valid message: CRLF only, lines of at most 998
//     octets, 7-bit unless its envelope says otherwise, no header field that
//     is not ours, each part ending where it should.
//  4. The size is bounded: 64 KiB of header, Report.MaxFull of message, 10,000
//     recipients of which 100 are explained in the text.
//
// The text is in English or German; other languages get English.
package dsn
