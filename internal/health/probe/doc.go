// Package probe runs probes on their timers and by hand.
//
// It promises:
//  1. Every run has a goroutine of its own, and a probe that has not come back is
//     never started a second time.
//  2. A run that passes its time-out is a result "timed out"; one that does not
//     come back either is hung: counted, shown, and no further result is made up
//     for it.
//  3. At most Limit runs go on at a time; the others wait, and their wait is not
//     held against what they probe.
//  4. Run returns when its loop is gone and all runs that obey their context are;
//     those that hang are named in the log and left behind.
package probe
