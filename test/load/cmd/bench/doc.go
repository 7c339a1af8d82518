// Command bench measures a lab of three servers with three copies against
// Debian's Postfix and Dovecot (LMTP, sdbox, one copy, fsync on) and against the
// disk, on this machine and in one run, and prints ratios.
//
// Each row gives rate, latency quantiles and processor time per message or
// operation, the latter summed over all processes of all servers: the load
// client shares the machine. Postfix and Dovecot run on ports and in folders
// of their own and are left out, with a word, where they are not installed.
//
// Groups (-only): smtp and imap compare under load, and relay what comes in
// and goes out again to a host on this machine; outage takes a database away for
// 5 s and tells how long it takes until all that was accepted meanwhile is
// visible; safetynet has kept messages delivered again beside new ones; deferred
// fills a queue with messages for a host that defers all; failover moves databases
// and kills servers under a light load and tells what clients of the others saw;
// memory looks at servers that are idle, hold idle sessions, many mailboxes or a
// very large one; growth adds the steps in between. Memory is read after the
// runtime was asked to collect garbage, which an idle server does by itself
// within two minutes.
//
// Nothing stays behind, also after Ctrl-C: what was measured until then is
// printed, the servers are stopped and their folders removed.
package main
