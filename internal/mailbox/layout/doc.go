// Package layout judges how a volume is laid out: whether it can hold copies,
// and whether it can take the place of one that failed. It is pure: what is on
// the disk is gathered by the room (mailbox.Keeper), the verdict is a list of
// problems, each with its remedy. It promises to name every problem there is,
// not only the first.
package layout
