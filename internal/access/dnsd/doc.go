// Package dnsd is a DNS door for the group's namespace: it answers A, AAAA and SRV
// with the servers that serve now, so that clients leave a server that is gone
// within the TTL. It is an option: one name with several addresses in any DNS
// works too (docs/operating.md), since clients try the next address by themselves.
//
// It promises:
//
//  1. It answers for its zone only and never asks anybody: no recursion, no
//     transfer (RFC 9619: one question). Everything else is REFUSED.
//  2. A server is in the answer while the service is active there and the group
//     hears it. When none is left all are answered: a wrong address costs no more
//     than none.
//  3. Answers over UDP are at most 1,232 bytes, or as small as the client says;
//     what does not fit is asked again over TCP (RFC 7766).
//  4. One network (/24, /56) gets 20 answers a second over UDP; then every second
//     one is "ask over TCP" and the others are dropped, so that the door is of no
//     use for attacking somebody whose address was forged. TCP has 100
//     connections, 5 s to wait and 100 questions each.
//
// Names of the zone mail.example.com: itself (servers on which all client
// services are active), imap., submission. and smtp. below it (by service),
// <server>. (the addresses of one server, always), and SRV of RFC 6186 and 8314.
package dnsd
