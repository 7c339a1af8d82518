// Package dns asks resolvers what mail needs to know: MX, addresses, TXT,
// TLSA and names of addresses.
//
// It promises:
//
//  1. An error is NotFound (the resolvers say so: no name or no such record),
//     Invalid (what is there cannot be used, such as a null MX) or Busy
//     (nobody could tell). Mail is returned for the first two only, so silence,
//     SERVFAIL and refusals are never taken for an answer. That a domain takes
//     no mail because it does not exist has to be said by two resolvers where
//     two answer.
//  2. What strangers put into answers is bounded: 100 MX, 20 addresses, 10
//     aliases, 64 KiB of text, a day of TTL, 5 minutes for "there is none"
//     (RFC 2308), a cache of names and of bytes.
//  3. Info.Authentic is true only where every step was validated by DNSSEC and
//     the resolver that says so is on this host, or the settings vouch for the
//     way to it (RFC 4035 section 4.9.3, RFC 7672 section 2.1).
//
// It is a stub: the resolvers it asks do the recursion and the validation.
package dns
