// Package port keeps the one address at which a server speaks with the other
// servers: a TLS 1.3 listener that hands connections to what the two sides
// agreed on by ALPN (RFC 7301), and the dialing side of the same.
//
// It promises that a handler only ever sees a peer whose certificate was
// issued by the group's authority and whom Admit let in at that moment; the
// single exception are protocols registered with HandleOpen. Connections of
// peers who are no longer admitted are closed by Evict.
package port
