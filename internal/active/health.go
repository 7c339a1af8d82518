package active

import (
	"context"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/health"
	"github.com/postern-mail/postern/internal/org"
)

// Health are the room's health items. m may be nil for listing them.
func Health(m *Manager) health.Items {
	look := func(f func(*Manager) (health.Reading, error)) health.Look {
		return func(context.Context, string) (health.Reading, error) { return f(m) }
	}
	return health.ActiveItems(health.Active{Role: look(lookAtRole), Serving: look(lookAtServing)})
}

// lookAtRole fails while nobody who lives has the primary role.
func lookAtRole(m *Manager) (health.Reading, error) {
	p := m.Primary()
	if p == "" {
		return health.Reading{}, kind.Errorf(kind.Busy, "no server has the primary role")
	}
	if p != m.me {
		if why, dead := m.group.Dead(p); dead || !m.group.Alive(p) {
			return health.Reading{}, kind.Errorf(kind.Busy, "%s has the primary role and is gone: %s", p, why)
		}
	}
	return health.Reading{Text: string(p) + " has the primary role"}, nil
}

// lookAtServing fails, at the server with the primary role, while databases that
// should be mounted are served by nobody.
func lookAtServing(m *Manager) (health.Reading, error) {
	if m.Primary() != m.me {
		return health.Reading{Text: "another server looks"}, nil
	}
	v := m.group.View()
	sc := m.look(v)
	var none []string
	for _, def := range v.Databases() {
		mt, ok := v.Mount(def.Name)
		if def.Dismounted || !ok && len(def.Copies) == 0 {
			continue
		}
		if !ok || !sc.serves(mt) || !isMounted(sc, mt) {
			none = append(none, string(def.Name))
		}
	}
	slices.Sort(none)
	r := health.Reading{Value: float64(len(none))}
	if len(none) > 0 {
		return r, kind.Errorf(kind.Busy, "nobody serves %s", strings.Join(none[:min(len(none), 8)], " "))
	}
	return r, nil
}

// isMounted tells whether the server of the active copy says that it is mounted.
func isMounted(sc *scene, mt org.Mount) bool {
	return sc.server(mt.Active).copies[mt.Database].State == org.CopyMounted
}
