// Package metrics serves what a server counts: a Prometheus registry that
// refuses metrics without help or outside the name space, the page
// docs/metrics.md made from it, and the listener with /metrics, /healthz and
// /readyz. It listens in plain HTTP and shows nothing about people or mail;
// keep it on an inner address.
package metrics
