// Package api is the admin door: HTTP and JSON under /api/v1, described by
// /api/v1/openapi.json, on TLS for administrators anywhere and on a unix
// socket for the one at the machine. Every entry of the command table is a
// route: GET for what only reads, POST with a JSON body for what changes.
//
// It promises:
//
//  1. Nobody runs a command without a role for it, and nobody bound to one
//     organization reaches another; both are decided in one place (Allowed,
//     InScope).
//  2. A change is in the audit log before it runs (package audit).
//  3. Errors are problem+json (RFC 9457) with a status from their kind; those
//     from inside show a trace id and nothing else.
//  4. Bodies, connections, requests at one time, requests of one caller and
//     wrong passwords of one address are limited; at a limit the answer is
//     413, 429 or 503 with Retry-After.
//  5. It uses no cookies and refuses changes from other web sites.
//
// Logins are HTTP Basic (RFC 7617) or a bearer token (RFC 6750) from
// POST /api/v1/session/login; tokens are random, kept hashed in the agreed
// state so that each server knows them, end after a while, and end at once
// with the account, its password or its roles. At the socket whoever runs as
// the server's user or root is a server administrator.
//
// Any server answers for the whole group; commands that need a certain server
// find it themselves.
package api
