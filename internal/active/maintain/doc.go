// Package maintain takes a server out of service and brings it back, as plans
// (Exchange: maintenance mode, StartDagServerMaintenance).
//
// It promises:
//
//  1. A server is not taken out while that would leave a database with fewer
//     copies in sync than wanted, the group without a majority of votes, or
//     more servers out at the same time than the group can spare (Judge).
//  2. Clients are sent away before anything they need goes: doors close between
//     commands, then the queue is handed over, then databases move.
//  3. When the plan is done, the server can be stopped without anybody
//     noticing: nothing is active on it, nobody waits for its answers, it has no
//     role.
//  4. Maintenance ends only the wishes it made: whoever else holds a component
//     back is named.
//
// Judge and Look are pure. The steps (Library) are shared with upgrades and
// drills; what they need of the other rooms is the interface World.
package maintain
