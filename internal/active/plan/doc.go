// Package plan carries out dangerous work in named steps.
//
// A plan is a row of the agreed state (org.Plan, plans/<id>), written before
// anything is done. The server with the primary Active Manager role carries it
// out; when that server dies, or gives the role away, the next one goes on at the
// same step.
//
// It promises:
//
//  1. Before a step is begun the row says so. Whoever goes on looks first
//     whether the step has come about already (Check), and does it again only
//     where it has not: what a step does has to be safe to do twice.
//  2. Everything a step writes has the condition that the plan's row and the
//     primary role are what they were: of two servers that both believe to be
//     the primary, only one changes anything (Pen).
//  3. A step that does not come about in its time is never passed over in
//     silence: the plan fails and is undone, waits for a person, or says in the
//     row what it left out, whichever the step asks for.
//  4. One plan at a time: whoever starts a second one hears which one runs.
//  5. The last 200 ended plans are kept.
//
// Wishes and facts: Do writes what somebody is to obey, Check reads what
// servers publish. A step does not call a server and believe its answer.
//
// Plans of a kind this version does not know are kept and shown, and left to a
// server that knows them.
package plan
