// Package wire is what the admin API and its clients say to each other: where
// a command is, what an error looks like (RFC 9457), and the lines of a
// stream.
package wire
