// Package admintest is a small world for tests of the admin door: agreed
// state in memory, accounts with passwords, and a table of real commands about
// shelves and the books on them.
package admintest
