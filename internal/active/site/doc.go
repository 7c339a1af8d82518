// Package site decides about whole sites: whether a server may lead (Exchange:
// datacenter activation coordination, DAC), and what a forced activation keeps
// and gives up.
//
// All of it is pure. It promises:
//
//  1. A server that was started while it cannot hear from the others of a group
//     with several sites does not lead, even if it has a majority of the votes:
//     a site that returns after the others went on without it cannot mount what
//     it has.
//  2. A server that knows of a newer generation than its own never leads.
//  3. A group whose mailbox servers stand in one site is not held back.
package site
