package mailbox

import (
	"sync/atomic"
	"time"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/org"
)

// leaving knows which servers are to have no part in the group's work. Leading
// copies ask many times a second, so the answer is kept for each view.
type leaving struct{ last atomic.Pointer[leavers] }

type leavers struct {
	view    *cluster.View
	servers map[org.ServerName]bool
}

// of tells which servers are, by the wishes in a view. An entry that expires is
// removed from the agreed state, so a view's answer is good as long as the view.
func (l *leaving) of(v *cluster.View) map[org.ServerName]bool {
	if known := l.last.Load(); known != nil && known.view == v {
		return known.servers
	}
	out := map[org.ServerName]bool{}
	now := time.Now()
	for _, s := range v.Servers() {
		if state, _ := v.Component(s.Name, org.HighAvailability, now); state == org.Inactive {
			out[s.Name] = true
		}
	}
	l.last.Store(&leavers{v, out})
	return out
}
