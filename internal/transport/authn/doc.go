// Package authn says who a message is really from: SPF (RFC 7208) for the
// client, DMARC (RFC 9989, the successor of RFC 7489) for the author, and the
// Authentication-Results field (RFC 8601) that carries the findings.
//
// It keeps nothing but what a Checker was made with. Signatures (DKIM, ARC)
// are verified by the caller's function and arrive here as plain values.
//
// It promises:
//
//  1. Check ends within Limit (10 s), whatever the resolver does with names
//     that strangers chose, as long as the resolver obeys its context.
//  2. A DNS fault is never a fail: it is temperror, and the author's policy is
//     not applied then (RFC 9989 section 5.3.6). But no server that the sender
//     chose can make a fail temperror by being slow or broken.
//  3. DMARC passes only if every author domain a reader may be shown passes.
//  4. What a message claims in our name is found, however the name is written
//     (RFC 8601 section 5).
//  5. Records and fields are bounded before they are read: record MaxRecord
//     octets and MaxTags tags, field MaxField octets, MaxAuthors author
//     domains, MaxSignatures signatures, 8 queries for each walk up the tree.
//
// It needs a Resolver that tells "no such name" and "no such record" from a
// fault, as *net.DNSError does.
package authn
