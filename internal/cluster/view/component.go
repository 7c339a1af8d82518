package view

import (
	"time"

	"github.com/postern-mail/postern/internal/org"
)

// Component tells the state that all requesters together want a component of a
// server to have, and the entries that hold it back, strongest first.
func (v *View) Component(s org.ServerName, c org.Component, now time.Time) (org.ComponentState, []org.ComponentEntry) {
	return org.Combine(v.ComponentEntries(s), c, now)
}

// ComponentEntries lists the entries of a server's components, also those that
// have expired.
func (v *View) ComponentEntries(s org.ServerName) []org.ComponentEntry {
	return org.ComponentEntries(func(yield func(string, []byte) bool) {
		for k, it := range v.Prefix(org.ComponentPrefix(s)) {
			if !yield(k, it.Value) {
				return
			}
		}
	})
}
