// Package respond decides which deed follows from a monitor's state and whether
// it is allowed, and has the one gate through which every deed goes.
//
// It promises:
//  1. Chain and Allow are pure: states, rows and a time in, deeds and reasons out.
//  2. No deed happens but by Gate.Do, and Gate.Do does none before its grant and
//     its row in the recovery log were written together, by one compare-and-swap
//     of the row BudgetKey. So the limits of the group are exact.
//  3. No sequence of grants exceeds a throttle or takes the last spare.
//  4. A dry run is judged in the same way on a history of its own and writes rows
//     of the recovery log, nothing else.
//  5. A refusal is written down with its reason, like a deed.
//  6. Without quorum only the restart of a part of this server is possible, on
//     local counts; it is written to a file and to the log once there is quorum.
package respond
