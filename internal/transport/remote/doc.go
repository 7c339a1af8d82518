// Package remote carries messages to other mail systems: to the hosts of a
// domain (mx:<domain>), through a connector (connector:<organization>/<name>)
// or to a smart host (smarthost:<host[:port]>). It keeps connections that may
// be used again and signatures that were made, and nothing that matters after
// a restart.
//
// It promises:
//
//  1. Work.Mine was asked and Work.Begun had returned before a final dot goes
//     out, and Mine is asked once more immediately before it. A row whose
//     message may have been taken without an answer says Doubtful.
//  2. A message is returned only for what a host said of it, for what DNS says
//     for certain of its domain, or because no host of the domain can carry it.
//     Everything that happens before a host knows of the message, and every
//     fault of a connector's settings, only defers.
//  3. TLS is never weaker than the policy of the domain (package tlspolicy), of
//     the connector or of the message (REQUIRETLS, RFC 8689). Where none of
//     them asks for it, TLS that fails is followed by a try in clear.
//  4. Mail for the Internet goes to public addresses only, so that DNS of
//     strangers cannot point it into the own network.
//  5. What a destination costs is bounded: 10 addresses of 5 hosts and two
//     broken sessions an attempt, 20 connections at a time, 100 messages and 5
//     minutes a connection.
package remote
