// Package upgrade brings a whole group to another version, or restarts it,
// one server after the other, as a plan.
//
// For each server: what has to be well is looked at, the server goes out as for
// maintenance, its host starts the installed program in its own place, the version
// that runs is compared, the server comes back with all copies in sync, and the
// group has to stay calm for a while. Any doubt holds the plan until a person
// resumes it; the next server is never begun with the last one in doubt.
//
// Putting the new program onto the disks is left to whoever installs packages.
package upgrade
