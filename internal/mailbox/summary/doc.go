// Package summary parses a message once, when it enters a mailbox: envelope,
// MIME structure with byte offsets, and a preview of the text.
//
// It promises:
//
//  1. Any bytes give a summary; nothing panics and nothing is repaired: offsets
//     point into the bytes as they are.
//  2. Time and memory are linear in the message and memory is bounded beyond
//     it: at most 100 levels, 10,000 parts, 1 MiB and 20,000 lines of one
//     header section, 10,000 addresses. What is beyond a limit belongs to the
//     part it is in, which is then opaque.
//  3. Every string kept is bounded in length.
//
// It follows RFC 5322 and RFC 2045 to 2049 as far as messages do.
package summary
