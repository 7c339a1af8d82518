// Command bench measures a lab of three servers with three copies against
// Debian's Postfix and Dovecot (LMTP, sdbox, one copy, fsync on) and against the
// disk, on this machine and in one run, and prints ratios.
//
// Each row gives rate, latency quantiles and processor time per message or
// operation, the latter summed over all processes of all servers: the load
// client shares the machine. Postfix and Dovecot run on ports and in folders
// of their own and are left out, with a word, where they are not installed.
package main
