// Package smtpd keeps the SMTP doors: receive (port 25), submission (587) and
// submissions (465), as RFC 5321 and RFC 6409 have them.
//
// It speaks SMTP itself; docs/decisions tells why no library does. It stores
// nothing: a message is committed to the databases of all its recipients
// through Store before it is answered with 250.
//
// # What it promises
//
//  1. 250 after the data means committed for every recipient. Anything else
//     means that the client still has the message (pledge G1).
//  2. Only CRLF.CRLF ends a message. One with a bare CR, a bare LF or a NUL
//     is read to its real end and gets exactly one answer, 550 5.6.11 or
//     5.6.0. Content never becomes a command, also after a refused BDAT: where
//     the end of a chunk cannot be known the connection is closed.
//  3. Nothing that came before a TLS handshake counts after it. Bytes
//     behind STARTTLS end the connection.
//  4. No password is looked at without TLS; wrong password, unknown and
//     disabled account get one and the same answer.
//  5. No mail is relayed. Recipients are looked up at RCPT and literally: the
//     percent hack, bang paths and quoted @ are only odd local parts; source
//     routes and address literals are refused.
//  6. Memory is bounded: 4 KiB per connection for commands, 32 KiB more while
//     a message arrives, and one budget for all messages together
//     (452 4.3.1 above it). Announced sizes allocate at most 256 KiB.
//  7. Time is bounded: a command line has command_timeout in total; a message
//     has data_timeout for each silence and must reach min_rate on the whole.
//
// # What a message goes through
//
// What was received is stored byte for byte (promise P4) behind Return-Path
// and Received (RFC 5321 section 4.4), with two exceptions on every door: a
// Return-Path and an Authentication-Results in our own name are taken out,
// since they are ours to write. On the submission doors Bcc is taken out,
// and a missing Date or Message-ID is put in front (RFC 6409 section 8).
// One body serves all recipients, so there is no Delivered-To, and "for" is
// only written for a single recipient. Lines may be of any length. Two From
// fields are refused on every door (RFC 5322 section 3.6): filters and readers
// would differ on which one counts.
//
// A submitted message must have one From that is readable; the envelope
// sender, every address in From, and Sender if it is there, must be the account's
// own or granted to it. A null envelope sender is accepted (receipts).
//
// # Doubles
//
// The delivery identity is a SHA-256 of client (account or remote address),
// envelope sender and the bytes received without our lines. A mailbox that
// took the same identity within the duplicate window keeps one copy, so a
// client that lost our 250 may send again (promise P3). It is set when the
// message has a Message-ID. Without one, two equal messages may be meant as two, so
// then there is none, except when there are several recipients, or when such a
// message had a mixed result before: a retry must not double. A delivery
// that failed without it being known whether it took place is repeated, at the
// same server, under the same key, so it is applied once in any case.
//
// # Mixed results
//
// SMTP has one answer for all recipients. When some mailboxes took the message
// and others did not, the answer is temporary (452 4.2.2 when all refusals
// are for lack of space, 451 4.3.0 otherwise): the client repeats, the first are known by
// their identity and keep one copy. So that it ends, a mailbox seen full is remembered,
// and asked at the next RCPT, where it gets its own answer. When all refused
// for one reason, that reason is the answer.
//
// # Limits of this version
//
// DSN parameters (RFC 3461) are checked, logged and kept with the transaction;
// notifications are made by transport, so NOTIFY=SUCCESS has no effect yet.
// Limits per account are counted per server.
package smtpd
