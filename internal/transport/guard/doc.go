// Package guard is the policy of the receiving doors: who may connect, send,
// relay and write to whom, and what becomes of content.
//
// It keeps, in memory and within limits (100,000 entries each, the least used
// go), what it has seen of networks: connections, failures, first attempts
// (greylist), and who wrote how much to the outside. Servers tell each other, so
// that who was refused by one is no stranger to the next; all of it may be lost
// at any time.
//
// It promises:
//
//  1. Strangers relay nothing, however the address is written: percent hack,
//     bang path, source route, quoted @, literal.
//  2. A connector is proven by a verified certificate or by the network, and by
//     the sender's domain being of its organization. What other tenants of a
//     cloud share (its addresses, its certificate) needs a DKIM signature of the
//     organization as well, or the message is a stranger's.
//  3. Recipients are judged before DATA: nobody is told later that there is no
//     such mailbox.
//  4. DNS faults and missing block lists never refuse mail. Scanners that do not
//     answer do what the settings say.
//  5. What a stage does ends: 2 s for DNS at the connection, 10 s for
//     authentication, the scanners' own time-outs, 20 s for a tarpit.
//
// It needs the directory, the settings in force, a resolver, and a way to tell
// other servers (Broadcast, Remember); what the doors saw fail comes by Failed.
package guard
