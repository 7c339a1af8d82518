// Package imapwire reads and writes the IMAP wire syntax (RFC 9051 sections 4
// and 9) for the server side.
//
// It began as a copy of the internal package of the same name of
// github.com/emersion/go-imap/v2 2.0.0-beta.8 (MIT, see LICENSE); imapd's
// DESIGN.md lists what was changed and why. It keeps nothing between
// commands: a Decoder lives for one command, and what it buffers for it is
// bounded by Limits.
package imapwire
