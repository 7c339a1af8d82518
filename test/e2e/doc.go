// Package e2e tests the built program from outside: real processes, real
// sockets, real faults. Most tests run a lab (postern lab); those about how a
// group grows and about data folders of older versions run `postern serve` by
// themselves.
//
// Every process a test starts dies with the test program, also when that is
// killed: the kernel sends the signal (prctl(2), PR_SET_PDEATHSIG).
//
// Each test has 600 ports of its own, so that tests run beside each other. They
// lie below 32768: a port from which the kernel may let a client's connection go
// out is not there for a server that comes back. Partitions need root and nft.
package e2e
