// Package tlspolicy decides how far TLS with a host that takes mail has to be
// believed in: DANE (RFC 7672) over MTA-STS (RFC 8461) over opportunistic TLS
// (RFC 7435).
//
// It promises:
//
//  1. What a domain or host published is never weakened by silence: a policy
//     that was fetched holds until its max_age is over whatever DNS and HTTPS
//     say meanwhile, and a TLSA look-up without an answer closes the host for
//     now (Busy), it does not open it.
//  2. Plan.Verify tells for one connection whether the certificate is the one
//     that was promised.
//  3. Fetching costs a bounded amount: 64 KiB, 60 s, no redirects, public
//     addresses only, once in 5 minutes a domain after a failure.
//
// It needs a resolver whose Info.Authentic can be trusted.
package tlspolicy
