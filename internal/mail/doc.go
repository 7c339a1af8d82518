// Package mail holds the words for what travels: addresses, messages, folders,
// flags, and the questions a door may ask of a mailbox (Store).
//
// It keeps no state and does no I/O. Structs with integer CBOR keys are stored
// in indexes and sent between servers: keys are never reused, only added.
package mail
