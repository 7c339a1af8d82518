// Package drill exercises failures on the real group, within bounds, and says
// what people would have noticed.
//
// A drill is a plan: it refuses to begin without more redundancy than it uses,
// clients on up to two other servers write and read a mailbox of their own in
// each database concerned while it runs, and a report says how long they had to
// wait, and what was lost or doubled. What takes longer than twice the time that
// was allowed ends the drill and is taken back.
//
// What an exercise needs besides servers is looked for first (Equip): a copy that
// shows the past, a spare volume, a second network. Mail that is destroyed and
// recovered is that of a health mailbox, never a person's.
//
// Reports are for an auditor: each names the sum of the one before it, and is
// signed by the server that made it with its certificate of the group
// (Verify). Judge, Verify and the accounts of Meter are pure.
package drill
