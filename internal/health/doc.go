// Package health notices that something is wrong for users, repairs the smallest
// thing that helps and never makes it worse (Exchange: Managed Availability).
//
// It knows nothing of mail. Rooms bring Items: health sets, probes and monitors
// with their chains of responders, by a function Health(room) that works with a nil room for
// listing them. The Desk stands in the mail worker: it runs the inside probes, takes
// notifications, keeps the last results, does deeds and publishes how the server
// is. The Engine stands in the health worker: it runs the outside probes, judges
// all results and asks the Desk for deeds, over the admin socket. Either goes on
// without the other and says that it is missing.
//
// It promises:
//  1. A hung or lying probe costs nothing but its own result: hung ones are never
//     started twice and never red, and what takes something out of service needs a
//     second server's opinion.
//  2. No deed exceeds what the group can spare; see package respond.
//  3. Every deed and every refusal is in the recovery log with its evidence.
//  4. A restart of either process does not begin a ladder anew.
//  5. Overrides have a bound and are listed in every report.
//
// It needs Rows, Mesh, Actor and Clock, plugged by node. Errors have kinds
// Invalid, NotFound, Busy and Conflict.
package health
