// Package mesh keeps the heartbeat connections between servers: who can be
// heard, what the others say they hear, and small values each server
// publishes about itself.
//
// Every server dials every other and sends on that connection alone: a frame
// each interval, and at once when its own picture changes. What it hears
// comes on the connections it accepted. So a process that ends is known in
// milliseconds (its connections break and its port refuses), one that hangs
// or is cut off after SilentAfter.
//
// # Paths
//
// Servers with several networks in common speak on each of them, with a
// connection of its own in each direction. A server is up if it is heard on any
// path. A path is silent after SilentAfter, and already after PathSilent
// while the same server is heard on another: then it is the path, not the
// server. A beat also tells how long its sender has not heard the receiver
// on that path, so a path that carries words in one direction only is found
// silent at both ends. Sections travel on the first path that is up.
//
// # Judgement
//
// A server is judged dead if this server finds it refused or silent, and more
// than half of the other members that can be heard at this moment say the
// same. If no other member can be heard (a group of two, or all others gone),
// "refused" alone is enough, because it is the other host's own word; silence
// alone is not, because then it may be this server that is cut off. Nothing
// safe hangs on the judgement: terms, in-sync sets and the quorum of the agreed
// state do that. It only decides how soon a failover is tried.
//
// A server that was itself stopped for a while (SIGSTOP, a frozen machine)
// notices the gap and listens for SilentAfter before it finds anybody silent.
package mesh
