// Package schedule decides which delivery of the transport queue is attempted
// next and when. It is pure: no goroutines, no I/O, no clock; time comes as an
// argument (nanoseconds since 1970) and must not run backwards (where it does,
// the latest time heard counts). It is not safe for concurrent use: the
// dispatcher holds one mutex around it.
//
// A job is one message for one destination, with the recipients (rows) that go
// there. A destination is a database, a domain, a connector or a smart host.
//
// Promises:
//
//  1. Destinations that can be tried take turns, one job each.
//  2. Within a destination the priorities share 64:16:4:1, and the lowest holds
//     at most half of the slots while others wait. None starves.
//  3. Within a priority the flows (sender of an organization) take turns in a
//     deficit round robin (Shreedhar and Varghese 1995): a job of up to 64 KiB
//     costs one turn, a larger one as many as it has quanta. A flow that comes
//     anew waits until each other flow had one turn, however much those hold.
//     Within a flow the order is first in, first out.
//  4. No limit is exceeded: jobs in flight per kind of destination, per
//     destination, per destination and organization, per organization, per
//     sender; starts per minute per destination, organization and sender.
//  5. Nothing is handed out before its own time nor before its destination's.
//  6. A destination that fails costs one probe per step of its ladder, whatever
//     waits behind it. The message that failed goes to the end of its flow, so
//     that a poisonous one cannot keep a destination down for the others.
//  7. Who comes to look at a job because of its age (delay notice, expiry) gets
//     it at that time also when its destination is down; suspended jobs wait
//     until they are resumed.
//  8. Memory is bounded by Rules.MaxJobs and Rules.MaxDests: about 200 bytes
//     for a job of a known flow, 400 for a destination, 400 for a new sender.
//
// Blocked flows are not looked at again until what blocks them gives way: a
// flow whose organization, sender or share of a destination is at its limit is
// parked at that gate, so the cost of a decision does not grow with the number
// of those that wait.
//
// Concurrency towards a destination begins at Limits.Start, grows by one with
// each answer about a message up to Limits.Concurrency, is halved by a connection that failed
// beside others that work, and is one after the destination failed as a whole.
// The ladders follow the retry intervals of Exchange transport (glitch,
// transient, then the outbound connection failure interval).
package schedule
