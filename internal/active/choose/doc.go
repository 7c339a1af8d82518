// Package choose decides, from values alone, which copy of a database should
// become the active one, and says why the others were passed over
// (Exchange: best copy and server selection).
//
// What must not be considered at all is excluded with a sentence. The rest is
// ranked, the first that differs decides:
//
//  1. A copy that holds everything confirmed before one that does not.
//  2. A server that did not fail lately as target of the same database.
//  3. The level of its server's health (Level).
//  4. The round that the copy meets: content index, copy queue, replay queue (Round).
//  5. A server below its preferred maximum, then the site of the source, then,
//     where something is missing, what lacks least, then activation preference.
//
// ChooseAll decides about many databases in one pass, and counts as it goes.
package choose
