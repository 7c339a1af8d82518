// Package deliver carries out what the schedule hands out: it gives a message
// to the agent of its destination, writes what became of it, and tells the
// schedule.
//
// It promises that nothing is tried twice at a time, that an outcome is in the
// ledger before the schedule forgets the job, and that each attempt ends when
// Run's context does.
package deliver
