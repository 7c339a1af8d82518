// Package smtpd keeps the SMTP doors: receive (port 25), submission (587) and
// submissions (465), as RFC 5321 and RFC 6409 have them.
//
// It speaks SMTP itself; docs/decisions tells why no library does. It stores
// nothing and decides nothing about mail: Queue keeps a message, durably and
// on two servers, before it is answered with 250; Guard is asked at each step
// who may talk, write and relay, which recipients there are and what is in a
// message. The doors keep the dialogue: syntax, order, limits, codes and texts.
//
// # What it promises
//
//  1. 250 after the data means that Queue keeps the message for every
//     recipient (or that policy decided to drop it). Anything else means that
//     the client still has it (pledge G1).
//  2. Only CRLF.CRLF ends a message. One with a bare CR, a bare LF or a NUL
//     is read to its real end and gets exactly one answer, 550 5.6.11 or
//     5.6.0. Content never becomes a command, also after a refused BDAT: where
//     the end of a chunk cannot be known the connection is closed.
//  3. Nothing that came before a TLS handshake counts after it. Bytes
//     behind STARTTLS end the connection.
//  4. No password is looked at without TLS; wrong password, unknown and
//     disabled account get one and the same answer.
//  5. Nothing is relayed that Guard did not let pass at RCPT. Recipients are
//     taken literally: the percent hack, bang paths and quoted @ are only odd
//     local parts; source routes and address literals are refused. A connector
//     is proven for one transaction and not for the next.
//  6. Memory is bounded: 4 KiB per connection for commands, 32 KiB more while
//     a message arrives, at most 32 KiB of certificates of the client, and one
//     budget for all messages together (452 4.3.1 above it). Announced sizes
//     allocate at most 256 KiB. A message that is kept is counted by the queue.
//  7. Time is bounded: a command line has command_timeout in total; a message
//     has data_timeout for each silence and must reach min_rate on the whole;
//     a question to policy has 20 s, that about the content, and the queue,
//     deliver_timeout each.
//
// # What a message goes through
//
// At the end of the data its header is judged (too many Received lines, more
// than one From), then Guard judges the content, then our lines are put in
// front, and Queue takes it. The buffer in which it was received goes all the
// way: room for our lines is kept in front of it, and nothing is copied.
//
// What was received is kept byte for byte (promise P4) behind Return-Path,
// Received (RFC 5321 section 4.4) and the lines of Guard, with two exceptions on
// every door: a Return-Path and an Authentication-Results in our own name (the
// hostname, RFC 8601 section 5) are taken out, since they are ours to write. On
// the submission doors Bcc is taken out, and a missing Date or Message-ID is
// put in front (RFC 6409 section 8). One body serves all recipients, so there is
// no Delivered-To, and "for" is only written for a single recipient. Lines may
// be of any length. Two From fields are refused on every door (RFC 5322 section
// 3.6): filters and readers would differ on which one counts. The id in
// Received is the trace, under which every server and log knows the message;
// the answer tells it to the client.
//
// A submitted message must have one From that is readable; the envelope
// sender, every address in From, and Sender if it is there, must be the account's
// own or granted to it. A null envelope sender is accepted (receipts).
//
// The parameters of RFC 3461 (DSN), 6152 (8BITMIME), 6531 (SMTPUTF8) and 8689
// (REQUIRETLS, under TLS only) travel in the envelope, decoded.
//
// # Doubles
//
// The delivery identity is a SHA-256 of client (account or remote address),
// envelope sender and the bytes received without our lines. A mailbox that
// took the same identity within the duplicate window keeps one copy, so a
// client that lost our 250 may send again (promise P3). Where a message has no
// Message-ID and one recipient, two equal messages may be meant as two: the
// trace is part of the identity then.
//
// # Client certificates
//
// On the receive door clients are asked for a certificate, and none has to show
// one. It is not verified in the handshake: Guard gets it with the peer
// and judges it where it is to prove a connector.
//
// # Limits of this version
//
// Limits per account are counted per server; those over all servers are
// policy's.
package smtpd
