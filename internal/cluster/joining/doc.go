// Package joining keeps the words of the join protocol: the one-time token,
// the request of a server that wants to be a member, and the answer.
//
// The joiner knows nothing but the token. It pins the group's authority by
// the fingerprint in it, so it gives the secret to nobody else; the member
// that answers learns nothing it could use before the secret is right.
package joining
