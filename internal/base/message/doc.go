// Package message reads and writes the header of a message: one reading for the
// doors, the categoriser and policy, so that what one judged the other does not
// see otherwise.
//
// It promises:
//
//  1. Any bytes give an answer; nothing panics and nothing is repaired. Offsets
//     point into the bytes as they are.
//  2. Time is linear in the message. A header is read for at most 1 MiB and
//     20,000 lines, parts to a depth of 100 and at most 10,000 of them; what
//     lies beyond is said to be there, never passed over in silence.
//  3. What Field writes is one field: no value can end it early.
//
// It follows RFC 5322, RFC 2045 to 2047, RFC 2183 and RFC 2231.
package message
