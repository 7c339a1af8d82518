// Package keys keeps the DKIM keys of domains (RFC 6376): it makes them, seals
// them into the agreed state, tells when a new one signs and an old one goes,
// and hands out those that sign. It also knows which DNS records a domain needs
// and compares them with what DNS says.
//
// It promises:
//
//  1. A private key leaves a server only sealed with the group's key, for its
//     domain and selector.
//  2. A key signs only after DNS has answered with its record for an hour
//     (setting dkim_wait), so that a signature can be checked wherever it arrives;
//     until then the one before it signs.
//  3. The record of a key that stopped signing is asked for seven days more, for
//     messages on their way; then the key is removed.
//  4. Signers costs a look into a map.
//
// It needs a resolver. Where DNS does not answer, nothing changes: keys go on as
// they are. Two RSA and Ed25519 keys sign beside each other (RFC 8463).
package keys
