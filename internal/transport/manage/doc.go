// Package manage is what administrators do with transport's rows: settings of
// the group, policies, connectors, rules, DKIM keys, the DNS records of domains,
// quarantine, and the lists of the guard. It has one file for each noun of the
// command table.
//
// It promises that a caller who is bound to an organization finds and changes
// nothing of others and gets the same answer for what a stranger has as for what
// does not exist; that a change is one transaction with the revisions that were
// read; and that what is written is valid.
package manage
