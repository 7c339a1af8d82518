// Package org holds the words for what stands: servers, sites, databases,
// copies, mounts, organizations and the people in them.
//
// It keeps no state and does no I/O. Everything here is a value that travels
// between rooms and servers; structs that are stored in the group's agreed
// state are encoded as JSON, so field names are part of the format and only
// ever added to.
package org
