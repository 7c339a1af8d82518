// Package settings reads and checks the rows of the agreed state that belong
// to transport: what holds for the group, the policy of an organization, its
// connectors, rules and DKIM keys.
//
// It promises that a row it returns is within its limits, and that what is
// missing has the default that docs/settings.md names. It writes nothing: the
// commands of transport do.
package settings
