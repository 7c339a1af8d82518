package guard

import (
	"log/slog"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/postern-mail/postern/internal/base/event"
	"github.com/postern-mail/postern/internal/mail"
)

var evHeld = event.Define(1750, "account_held_back", slog.LevelWarn,
	"An account wrote to more recipients outside than the settings allow; its mail to the outside waits.",
	"Ask its owner. Was it not them: set a new password and remove what waits (postern queue list). Else resume it, or raise outbound_account_per_hour.")

// metrics are counted per check, never per address.
type metrics struct {
	guard  *prometheus.CounterVec // check, result
	failed *prometheus.CounterVec // what
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		guard: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "postern", Subsystem: "transport", Name: "guard_total",
			Help: "What the receiving policy decided, by check."}, []string{"check", "result"}),
		failed: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "postern", Subsystem: "transport", Name: "guard_failures_total",
			Help: "What peers did that guessers do."}, []string{"what"}),
	}
	if r != nil {
		r.MustRegister(m.guard, m.failed)
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
	case "password", "recipient", "command":
		return what
	}
	return "other"
}
