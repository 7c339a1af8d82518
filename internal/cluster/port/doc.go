// Package port keeps the one port at which a server speaks with the other
// servers: TLS 1.3 listeners, at one address or in all of the server's networks,
// that hand connections to what the two sides agreed on by ALPN (RFC 7301),
// and the dialing side of the same.
//
// It promises that a handler only ever sees a peer whose certificate was
// issued by the group's authority and whom Admit let in at that moment; the
// single exception are protocols registered with HandleOpen. Connections of
// peers who are no longer admitted are closed by Evict, those on a path that
// was cut by Cut; Abort does the same for connections that etcd opened itself.
package port
