// Package roll rolls the states of monitors up: to health sets, to servers and
// to groups of servers. It is pure. The worst one decides.
package roll
