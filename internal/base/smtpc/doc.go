// Package smtpc speaks SMTP as the client (RFC 5321): one Conn is one session
// with one peer, through which messages go one after the other.
//
// It promises:
//
//  1. What a peer says costs a bounded amount: 2 KiB a line, 100 lines and
//     64 KiB a reply, a time for each step (RFC 5321 section 4.5.3.2) and one
//     for all of it.
//  2. Sent.Outcome tells precisely whether the final dot may have left this
//     host: NotSent means that no byte of it was given to the network, so the
//     message can go again without fear of a double.
//  3. Only CRLF ends a line on the wire and no line but the last is a lone
//     dot: bodies with a bare CR, a bare LF or a NUL are refused before
//     anything is sent (RFC 5321 section 2.3.8), all others arrive byte for
//     byte.
//  4. Nothing that came from outside can add a command or a parameter:
//     addresses are parsed and written again, other values are encoded
//     (RFC 3461 section 4) or from a fixed list.
//
// It knows no policy: which host, whether TLS is wanted and whose certificate
// is good is the caller's choice. A Conn belongs to one goroutine.
package smtpc
