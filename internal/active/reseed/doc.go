// Package reseed decides what AutoReseed does with a volume whose copies
// failed: it waits, tries the copies again, gives them a spare volume or seeds
// them where they are, and makes sure that they stay healthy.
//
// It is pure: Next takes what is known and the row of the work so far, and
// returns the next row and at most one deed. Nothing in it remembers anything,
// so another process of the server goes on where the last one was. The loop
// that gathers facts and carries deeds out is active.Reseeder.
//
// It promises that no deed is ordered for a copy that is active or has no
// healthy copy in sync elsewhere, that every try is counted in the row, and
// that a volume which failed is not used again by itself.
package reseed
