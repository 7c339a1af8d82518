// Package route is the categoriser: it says where each recipient of a message
// goes. It follows aliases, groups, forwards, catch-alls and returning SRS
// addresses, chooses the way (connector, database, smart host, MX), stops
// loops, and carries out the rules, journals and disclaimers of organizations.
//
// # What it promises
//
//  1. It is pure: the same question and the same directory and settings give
//     the same decision. It decides about rows in StateNew only; asked again
//     after a crash or a takeover it goes on, and adds no row and no copy twice:
//     copies have a trace that follows from the message.
//  2. What a group or forward leads to gets a message once, whatever ways lead
//     there.
//  3. Expansion is bounded in depth and number; a group that is too large is
//     returned as a whole (5.5.3), the other recipients go on.
//  4. Nothing of one organization decides about another's mail: the sender's
//     organization has a say in what it sends, the recipient's in what it gets.
//
// # How a decision is carried out
//
// Copies first, each accepted with its trace (one that exists is fine), then
// the rows in one change: a row that a copy replaces is expanded and names it
// as its child. A message with FlagFinal is such a copy: its recipients are final,
// nobody's rules see it.
//
// # Rows that leave again
//
// Mail that is sent on for somebody outside has to leave under a sender of ours
// (SPF), and a report has to find its way back: Sender is the envelope sender of
// a row, computed at each attempt, so that no record keeps it. A row in
// WhyForward names who forwards in Original; that address's domain is the one of
// the rewritten sender (SRS0, or SRS1 where it is rewritten already), which is
// good for 21 days. ReportTo is who hears of a row's failure: of the members of
// a group its owner.
package route
