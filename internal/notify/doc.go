// Package notify tells people outside that something is wrong: by e-mail to a
// host that is not of the group, by webhook, by the HTTP gateway of an SMS
// service.
//
// It keeps rows of the agreed state: channels (how somebody is told; secrets
// sealed), rules (what becomes an alert, who is told when), alerts (one row for
// each thing that is wrong) and for each channel what was told through it. It
// promises:
//
//  1. While any server of the group that runs can reach a channel, an alert is
//     told through it. The server that owns a channel sends; when it dies, or
//     cannot reach the channel, another claims the row by compare-and-swap and
//     goes on. A message may come twice around such a change, never not at all.
//  2. Without quorum the first server by name that is heard tells what all of
//     them have on their minds, marked "no quorum".
//  3. A storm costs a bounded amount: at most 1,000 alerts, 1,024 reports that
//     wait to become some, one message at a time for each channel, a message a
//     minute about the same kind, and a limit for each hour, after which one
//     summary tells the rest.
//  4. What an endpoint says costs at most 4 KiB and its time-out; redirects are
//     not followed; a channel that hangs holds up no other.
//  5. A channel that does not work is an alert of its own, told through the
//     others. Each channel is tried once a week.
//
// An alert is about a code and an object. It is open, acknowledged (a person
// has it: no repeats, no escalation) or closed. It closes when whoever raised it
// says so, when an event that ends it comes (event.Definition.Ends), or, where
// nothing says so, after an hour of quiet.
//
// What it needs of others are the small interfaces Rows, Mesh and Secrets; it
// knows neither mail nor health.
package notify
