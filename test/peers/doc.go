// Package peers tests the built program against mail software of others, as
// Debian has it: Postfix sends to it and receives from it over TLS, swaks talks to
// its doors, rspamd and ClamAV look at what comes in, python3-dkim verifies what it
// signs and signs what it has to verify. DNS is a server in the test.
//
// It is for root: Postfix starts as root, and packages that are missing are
// installed with apt-get. Without root, tests that lack a package fail and say
// how to install it.
//
// Ports are 27000 to 28999 of 127.0.0.0/8.
package peers
