// Package sign proves and checks who sent a message: DKIM signatures (RFC
// 6376, with the algorithms of RFC 8301 and 8463) and the Authenticated
// Received Chain (ARC, RFC 8617).
//
// It keeps nothing and starts nothing that outlives a call. Messages come as
// bytes with CRLF line ends, as the doors accepted them; DNS is a function of
// the caller. Time comes as an argument.
//
// What it promises:
//
//  1. A message is read once: one pass over the header, one hash of the body
//     for each canonicalisation that some signature asks for, however many
//     signatures and seals there are.
//  2. Hostile input costs a bounded amount: a header of at most 1 MiB and
//     20,000 lines, the topmost 10 signatures, 100 names in h=, 50 ARC sets,
//     64 tags in a list, RSA keys of at most 8192 bits, 10 look-ups at a time.
//  3. Only what is safe to rely on passes: RSA keys under 1024 bits and SHA-1
//     are refused (RFC 8301), a signature over a part of the body (l=) and one
//     that leaves a From field uncovered never pass (RFC 6376 section 8.2 and
//     8.15), x= and t= are judged with five minutes of tolerance.
//  4. What it signs it would accept itself, and the names that readers show or
//     act on are signed once more than they occur, so that nobody can add a
//     second one (RFC 6376 section 5.4.2).
//
// How it fails: Sign and Seal refuse (kind.Invalid) what cannot be signed as
// it stands; Verify and VerifyChain never fail, they say what they found. A
// look-up that could not be answered is a temporary result, never a failed
// signature.
package sign
