// Package logging makes the handler behind log/slog: text or JSON, one level
// that can change while running, and the trace id of the context on every
// line. One trace id follows a message, connection or command through all
// servers.
package logging
