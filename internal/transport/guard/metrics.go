package guard

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/mail"
)

// The operator events of this package.
var (
	evHeld = event.Define(1750, "account_held_back", slog.LevelWarn,
		"An account wrote to more recipients outside than the settings allow; its mail to the outside waits.",
		"Ask its owner. Was it not them: set a new password and remove what waits (postern queue list). Else resume it (postern queue resume), and let it write to as many as it likes: postern guard allow ADDRESS.")
	evScanner = event.Define(1770, "scanner_state", slog.LevelWarn,
		"A scanner of content does not answer, or answers again.",
		"Look at rspamd, clamd or the milter on the host of this server. Until it answers, mail is deferred or passes as spam_scan_fail, malware_scan_fail and the milter's fail say.")
	evMalware = event.Define(1771, "malware_found", slog.LevelWarn,
		"A message held malware; it was refused or put into quarantine.",
		"If an account of yours sent it, its computer or its password is in other hands.")
)

// metrics are counted per check, never per address.
type metrics struct {
	guard  *prometheus.CounterVec // check, result
	failed *prometheus.CounterVec // what
	auth   *prometheus.CounterVec // method, result
	scans  *prometheus.CounterVec // scanner, result

	scanSeconds *prometheus.HistogramVec // scanner
}

func newMetrics(r prometheus.Registerer) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "postern", Subsystem: "transport", Name: name, Help: help}, labels)
	}
	m := &metrics{
		guard:  vec("guard_total", "What the receiving policy decided, by check.", "check", "result"),
		failed: vec("guard_failures_total", "What peers did that guessers do.", "what"),
		auth:   vec("auth_total", "What was found about who messages are from, by method.", "method", "result"),
		scans:  vec("scan_total", "Messages that scanners looked at.", "scanner", "result"),
		scanSeconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "postern", Subsystem: "transport", Name: "scan_seconds",
			Help: "Time that a scanner takes for a message, waiting for its turn included.", Buckets: prometheus.ExponentialBuckets(0.005, 2, 14)}, []string{"scanner"}),
	}
	if r != nil {
		r.MustRegister(m.guard, m.failed, m.auth, m.scans, m.scanSeconds)
	}
	return m
}

// result is an action as a label.
func result(a mail.Action) string {
	switch a {
	case mail.ActionDefer:
		return "defer"
	case mail.ActionRefuse:
		return "refuse"
	case mail.ActionDiscard:
		return "discard"
	case mail.ActionQuarantine:
		return "quarantine"
	}
	return "pass"
}

// said counts what a check decided.
func (g *Guard) said(check string, v mail.Verdict) mail.Verdict {
	g.m.guard.WithLabelValues(check, result(v.Action)).Inc()
	return v
}

// failure is what Failed was told, as a label; the doors' words are few.
func failure(what string) string {
	switch what {
	case "password", "recipient", "command", "relay":
		return what
	}
	return "other"
}
