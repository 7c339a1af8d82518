// Package sock is the local way to the admin API: a unix socket that only the
// server's own account and root can use. It makes the socket, dials it, and
// tells who is at the other end (SO_PEERCRED).
package sock
