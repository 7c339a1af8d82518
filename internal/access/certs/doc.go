// Package certs keeps the certificate that the doors of a server show.
//
// It comes from one of three sources: the group's own CA (the default, works
// without any setting), files (renewed by somebody else; changes are taken up
// without a restart), or an ACME authority (RFC 8555) by way of certmagic, with
// its account, certificates and locks in the agreed state, so that one server
// renews for all and any server can answer a challenge.
//
// # What it promises
//
//  1. There is always a certificate: until the source has given its first one,
//     and when files are damaged, the last good one or one of the group's own CA is
//     shown. Doors never fall back to clear text.
//  2. TLS 1.2 is the oldest version spoken.
//  3. A certificate that nears its end without having been renewed is an event
//     21, 7 and 1 days before (earlier parts of its life where that is short), and
//     its end is a metric.
//
// With ACME the private key of the certificate is a row of the agreed state,
// readable by every server of the group and in its backups.
package certs
