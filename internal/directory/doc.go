// Package directory keeps the people: organizations, their domains, mailboxes,
// aliases, groups and shared mailboxes, and the credentials and roles that say
// who may do what.
//
// # What it keeps
//
// Rows of JSON in the agreed state, so that every server answers alike and
// goes on answering without quorum:
//
//	organizations/<id>            a tenant
//	domains/<domain>              a domain and the organization that has it
//	recipients/<organization>/<id> a mailbox or a group
//	addresses/<address>           the recipient an address belongs to
//	credentials/<organization>/<id> password and app passwords of a mailbox
//	administrators/<name>         an administrator without a mailbox
//	nesting/<organization>        serialises changes of groups within groups
//
// It has no index of its own that could lag behind: look-ups read the local
// view of the agreed state by key, and decoded rows are kept by revision.
//
// # What it promises
//
//  1. A look-up takes the organization from the domain or the login and never
//     leaves it: an address, member, grant or role of one organization cannot
//     lead to another (design pledge G7).
//  2. An address belongs to one recipient of the whole system. Changes that
//     race are decided by the agreed state: one of them gets Conflict or Exists.
//  3. Groups have no loops: a change that would make one is refused, and so is a
//     forward inside an organization that leads back. Expanding a group is bounded
//     in depth and in number.
//  4. Every refused login is Denied and costs one password hash, whether
//     the account is unknown, disabled, without a password or the password wrong.
//  5. Password hashing uses bounded memory: so many hashes at once, so many
//     that wait; more is Busy. Guessing is throttled per account and per address, and
//     a stranger's guesses do not keep out a person who comes from an address
//     that person has logged in from before.
//  6. Passwords are kept as argon2id (RFC 9106), app passwords, which are random
//     and long, as SHA-256; a password is shown once, when it was made here.
//
// # How it fails
//
// Without quorum all look-ups and logins go on from the last view; changes are
// Busy. A mailbox whose database cannot be reached when it is created is set up
// as soon as it can be (field provisioned).
package directory
