// Package imapd is the IMAP door: IMAP4rev1 (RFC 3501) and IMAP4rev2
// (RFC 9051) for any mailbox of the group, whichever server it is active on.
//
// It keeps nothing but the sessions. What it promises:
//
//  1. A session outlives the failover of its database. Commands wait up to
//     wait_timeout and then answer; one whose wait was in vain gets NO
//     [UNAVAILABLE] and may be repeated. IDLE goes on.
//  2. Nothing is reported twice or skipped. A session knows which UIDs its
//     client knows and the mod-sequence up to which it told of changes; what
//     the store reports is compared with that, so it may be repeated.
//  3. Every change carries a key of its own, so a change that was answered OK
//     was made once.
//  4. Messages are returned byte for byte as stored.
//  5. An APPEND that was cut or malformed stores nothing.
//  6. Memory is bounded: before login by a few kilobytes for each
//     connection, after it by one command, one page of messages and one chunk
//     of a body, and for all appends together by append_memory.
//  7. No password is taken without TLS.
//  8. A bug met in one session ends that session only.
//
// It needs a mail.Store that waits through failovers and a Directory for the
// passwords. It fails closed: what it cannot read it answers with BAD.
//
// The protocol is spoken by the packages imapserver, imapwire and utf7 below,
// which began as copies from go-imap v2; DESIGN.md says why.
package imapd
