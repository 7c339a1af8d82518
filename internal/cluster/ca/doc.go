// Package ca keeps the group's own certification authority: it makes the CA,
// seals its key with the group key so that it can lie in the agreed state,
// issues short-lived certificates to servers and tells from a peer's
// certificate which server it is.
//
// Keys are ECDSA P-256. A server's certificate names it twice: the common
// name is "server:<name>", the subject's serial number is the server's
// identity, so that a server made anew under an old name is another one.
package ca
