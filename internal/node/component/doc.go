// Package component keeps the states of the components of all servers: who wants
// which part of a server held back (Exchange: Get-ServerComponentState), what
// follows from that, and what the server does about it now.
//
// Wishes are rows components/<server>/<component>/<requester> of the agreed
// state. Each requester has a row of its own and can neither end nor weaken that
// of another; the strongest counts (org.Combine). The parts of this server ask
// Book.State and are told of changes; Book.Run publishes what they say they do in
// the mesh section "components", so that whoever wrote a wish can wait for it.
//
// It promises:
//  1. A wish survives restarts of the server that it is about.
//  2. A wish that has expired counts for nothing, on any server; the server with the
//     primary role removes its row.
//  3. Setting Active removes the requester's own row only and names who still
//     holds the component.
package component
