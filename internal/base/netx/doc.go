// Package netx keeps the network ground: a dialer that speaks from a server's
// own address, a listener that bounds how many connections are open, an
// accept loop that outlives passing errors, and which addresses are public.
//
// It promises that nothing it accepts goes unbounded: a listener made by Limit
// holds back at its limit instead of accepting more.
package netx
