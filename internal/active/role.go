package active

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// primaryKey holds who has the primary role.
const primaryKey = "active/primary"

// primary is the row of the primary role.
type primary struct {
	Server org.ServerName `json:"server"`
	Since  time.Time      `json:"since"`
	Why    string         `json:"why"`
}

// primary returns the row of the role and its revision.
func (m *Manager) primary() (primary, int64) {
	it, ok := m.group.View().Get(primaryKey)
	if !ok {
		return primary{}, 0
	}
	var row primary
	if err := json.Unmarshal(it.Value, &row); err != nil {
		m.deps.Log.Error("row of the primary role", "err", err)
	}
	return row, it.Revision
}

// Primary tells which server has the primary role.
func (m *Manager) Primary() org.ServerName {
	row, _ := m.primary()
	return row.Server
}

// mayTake tells whether this standby should take the role: its holder is
// gone, and this is the first by name of the members that live.
func (m *Manager) mayTake(row primary) (string, bool) {
	v := m.group.View()
	me, ok := v.Server(m.me)
	if !ok || me.Witness {
		return "", false
	}
	why := "nobody had it"
	if row.Server != "" {
		if _, member := v.Server(row.Server); member {
			w, dead := m.group.Dead(row.Server)
			switch hangs := m.pulse.silent(row.Server); {
			case dead || !m.group.Alive(row.Server):
				why = cmp.Or(w, string(row.Server)+" no longer renews its lease")
			case hangs > 0:
				why = fmt.Sprintf("Active Manager of %s has not turned for %s", row.Server, hangs.Round(time.Second))
			default:
				return "", false
			}
		} else {
			why = string(row.Server) + " is no longer a member"
		}
	}
	if first := m.firstFit(v, row.Server); first != m.me {
		return "", false
	}
	return why, true
}

func (m *Manager) take(ctx context.Context, rev int64, why string) error {
	b, err := json.Marshal(primary{Server: m.me, Since: time.Now().UTC(), Why: why})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	t := cluster.Txn{If: []cluster.Cond{{Key: primaryKey, Revision: rev}}, Then: []cluster.Op{{Key: primaryKey, Value: b}}}
	if rev > 0 { // the first of a group repairs nothing
		was, _ := m.primary()
		now := time.Now().UTC()
		r := m.entry(actPrimary, string(was.Server), why, now)
		r.Ended, r.Result = now, string(m.me)+" has the primary role"
		r.Evidence = []org.RecoveryEvidence{{At: now, Item: byManager, Target: string(was.Server), Result: "source", Text: cut(why, 256)}}
		op, err := entryOp(r)
		if err != nil {
			return err
		}
		t.Then = append(t.Then, op)
	}
	_, err = m.group.Commit(ctx, t)
	if err == nil {
		m.said.say("role", "%s has the primary role: %s", m.me, why)
		m.deps.Events.Emit(evPrimary, "%s has the primary role: %s", m.me, why)
	}
	return err
}

// firstFit is who should have the primary role if not except: of the members
// that live the first by name, those that take databases before others.
func (m *Manager) firstFit(v *cluster.View, except org.ServerName) org.ServerName {
	var first org.ServerName
	for _, s := range v.Servers() {
		if s.Witness || s.Name == except {
			continue
		}
		if _, dead := m.group.Dead(s.Name); dead || !m.group.Alive(s.Name) {
			continue
		}
		if m.component(s.Name) == org.Active {
			return s.Name
		}
		first = cmp.Or(first, s.Name)
	}
	return first
}

// handOnRole gives the role to another server while this one is to be left
// alone, if there is one that is not, and tells whether it did.
func (m *Manager) handOnRole(ctx context.Context) bool {
	st := m.component(m.me)
	if st == org.Active {
		return false
	}
	to := m.firstFit(m.group.View(), m.me)
	if to == "" || m.component(to) != org.Active {
		return false
	}
	err := m.GivePrimary(ctx, to, fmt.Sprintf("%s of %s is %s", org.HighAvailability, m.me, st))
	if err != nil {
		m.said.say("role", "%s keeps the primary role: %v", m.me, err)
	}
	return err == nil
}

// GivePrimary gives the primary role to a live member. An empty to gives it to
// the best other server than the one that has it.
func (m *Manager) GivePrimary(ctx context.Context, to org.ServerName, why string) error {
	v := m.group.View()
	row, rev := m.primary()
	if to == "" {
		to = m.firstFit(v, row.Server)
	}
	s, ok := v.Server(to)
	_, dead := m.group.Dead(to)
	switch {
	case to == "":
		return kind.Errorf(kind.Conflict, "no other server can have the primary role")
	case !ok || s.Witness:
		return kind.WithHint(kind.Errorf(kind.NotFound, "%s is no member that can have the primary role", to), "postern active status")
	case dead || !m.group.Alive(to):
		return kind.Errorf(kind.Conflict, "%s does not answer", to)
	case row.Server == to:
		return nil
	}
	b, err := json.Marshal(primary{Server: to, Since: time.Now().UTC(), Why: why})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	_, err = m.group.Commit(ctx, cluster.Txn{If: []cluster.Cond{{Key: primaryKey, Revision: rev}}, Then: []cluster.Op{{Key: primaryKey, Value: b}}})
	if err != nil {
		return fmt.Errorf("give the primary role to %s: %w", to, err)
	}
	m.said.say("role", "%s has the primary role: %s", to, why)
	return nil
}

// pulseSection is the name under which the primary publishes that its loop turns.
const pulseSection = "pam"

// A primary whose loop has not turned for pulseSilent while its server lives
// loses the role; it says that it turns every pulseEvery.
const (
	pulseEvery  = time.Second
	pulseSilent = 10 * time.Second
)

// pulse is what is known of the loop of the primary.
type pulse struct {
	of    org.ServerName
	value string
	at    time.Time // of the last change
	now   time.Time
	beat  int
}

// feelPulse publishes that this loop turns where it is the primary's, and
// notes whether that of another primary does.
func (m *Manager) feelPulse(now time.Time) {
	row, rev := m.primary()
	p := &m.pulse
	p.now = now
	if row.Server == m.me {
		if p.of != m.me || now.Sub(p.at) >= pulseEvery {
			p.beat++
			p.of, p.at = m.me, now
			m.group.Publish(pulseSection, fmt.Appendf(nil, "%d %d", rev, p.beat))
		}
		return
	}
	raw, _, ok := m.group.Published(row.Server, pulseSection)
	if value := string(raw); !ok || p.of != row.Server || p.value != value {
		p.of, p.value, p.at = row.Server, value, now
	}
}

// silent tells for how long the loop of the primary s has not turned, zero
// while that is not too long or nothing was ever heard of it.
func (p *pulse) silent(s org.ServerName) time.Duration {
	if p.of != s || p.value == "" {
		return 0
	}
	if d := p.now.Sub(p.at); d >= pulseSilent {
		return d
	}
	return 0
}
