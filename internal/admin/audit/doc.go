// Package audit keeps the record of who changed what.
//
// It promises:
//
//  1. A change is in the agreed state under audit/<id> before it runs; where
//     that cannot be written, the change does not run.
//  2. The outcome is added afterwards. A record without one is of a change
//     whose server went away in the middle.
//  3. Secrets are not in it (fields of In with the tag secret).
//  4. The newest 10,000 records stay in the agreed state; each server also
//     appends its own to audit.jsonl, which an administrator rotates.
//
// Ids sort by time: 16 hex digits of nanoseconds since 1970, then random ones.
package audit
