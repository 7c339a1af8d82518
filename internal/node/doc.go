// Package node builds, starts and drains everything below it: it is the one
// place that knows all rooms.
//
// It has three parts. The host (Host) is a small process that keeps two
// workers running: they are children of the same binary, watched by a
// heartbeat over a pipe. The mail worker (Run) builds the rooms in the order
// cluster, mailbox, directory, active, doors, admin, and stops them in the
// reverse order. The doors for mail are services: one that ends by itself, or that
// health wants restarted, is built anew beside the rest. The health worker (RunHealth)
// tries the doors as a user would and judges what all probes saw (package health);
// what it decides is done by the mail worker, whose own restart it orders from the
// host.
// Config joins the settings of all rooms in one file, postern.toml.
//
// Promises:
//
//  1. A worker that dies is started again at once; one that keeps dying is
//     started with a growing pause, at most thirty seconds.
//  2. A worker that no longer beats is killed and started again. Time in
//     which the host itself did not run does not count.
//  3. No worker outlives its host, whatever the host died of: the kernel sends
//     it SIGKILL (PR_SET_PDEATHSIG) and it leaves by itself when its pipe ends.
//  4. A data folder is served by one host at a time, and a new host does not begin
//     before the last worker of the former one is gone (the lock is inherited).
//  5. A refused configuration tells file, line, key, reason and remedy.
//  6. Stopping drains: doors first, then conductors, keepers, spine.
//  7. A worker can have a worker restarted, at most three times an hour and six
//     times a day: the host has limits of its own. A health worker that computes
//     without a pause is killed. What the host did stands in host.json and, as soon
//     as the group agrees, in the recovery log.
//
// It fails by leaving with an error: systemd, or whoever started it, starts it
// again. A worker that reports a mistake in the configuration (ExitConfig) before it was
// ever ready ends the host, because trying again cannot help.
package node
