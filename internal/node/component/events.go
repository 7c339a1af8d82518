package component

import (
	"log/slog"

	"github.com/postern-mail/postern/internal/base/event"
)

// Events of component states.
var (
	EventChanged = event.Define(1810, "component_changed", slog.LevelWarn, "What a component of this server may do has changed.",
		"`postern component list SERVER` shows who wants it.")
	EventHeld = event.Define(1811, "component_held", slog.LevelWarn, "A requester gave a component free that another one still holds back.",
		"`postern component list SERVER` shows who; it has to end its own wish.")
	EventExpired = event.Define(1812, "component_expired", slog.LevelInfo, "A wish about a component has reached its end and was removed.", "")
)
