// Package view keeps an immutable, sorted picture of the agreed state in
// memory, with the rows every room reads all the time already decoded.
//
// A View never changes; Apply makes the next one and shares with its
// predecessor everything that did not change, so that one changed key among
// tens of thousands costs a few kilobytes of copying. Reading takes no lock.
//
// The snapshot file format is in snapshot.go.
package view
