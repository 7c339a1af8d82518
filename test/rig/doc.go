// Package rig is what tests from outside need to run the built program: building
// it, starting and ending servers with configurations of their own, running
// commands, waiting for what has to happen.
//
// Every process that a test starts dies with the test program, also when that is
// killed: the kernel sends the signal (prctl(2), PR_SET_PDEATHSIG).
package rig
