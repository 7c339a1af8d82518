// Package settings reads and checks the rows of the agreed state that belong
// to transport: what holds for the group, the policy of an organization, its
// connectors, rules and DKIM keys.
//
// It promises:
//
//  1. A row that Book returns is within its limits and belongs under the key
//     it was found under; one that is not is logged once and counts as missing.
//  2. What is missing has the default that docs/settings.md names, which is made
//     from the same tags.
//  3. Asking costs no decoding: a row is decoded once for each of its revisions.
//  4. A value that Set and Validate take can be read back.
//
// Who changes rows does it by Change, with the revisions that were read as
// conditions. The book itself writes nothing.
package settings
