// Package netns tests the built program on three hosts with two networks each:
// network namespaces with two interfaces, and two bridges for switches. Cables
// are cut, in one direction or both, while mail goes on.
//
// It is for root and needs ip(8) (apt-get install iproute2). It leaves nothing
// behind: the namespaces are named after the process and end with the test.
package netns
