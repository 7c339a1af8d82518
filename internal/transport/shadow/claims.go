package shadow

import (
	"context"
	"sync"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// survey is what the other servers said of some messages.
type survey struct {
	ids    []mail.TraceID
	said   map[org.ServerName][]claim
	silent map[org.ServerName]int64 // did not answer, but are fenced: revisions of their rows
	missed []org.ServerName         // did not answer and are not fenced
	own    int64                    // revision of this server's row
}

// of is what was said of the i-th message.
func (s *survey) of(i int) map[org.ServerName]claim {
	out := make(map[org.ServerName]claim, len(s.said))
	for from, cs := range s.said {
		out[from] = cs[i]
	}
	return out
}

// ask asks all other servers that may have to do with the messages. Those are
// the servers with a queue row: what has none never had a queue.
func (k *Keeper) ask(ctx context.Context, ids []mail.TraceID) (*survey, error) {
	v := k.d.Group.View()
	s := &survey{ids: ids, said: map[org.ServerName][]claim{}, silent: map[org.ServerName]int64{}}
	_, s.own, _ = k.row(v, k.me)
	ctx, cancel := context.WithTimeout(ctx, k.t.call)
	defer cancel()
	var wg sync.WaitGroup
	var mu sync.Mutex
	for name := range k.queueRows(v) {
		row, rev, _ := k.row(v, name)
		if name == k.me {
			continue
		}
		if _, member := v.Server(name); !member {
			if !row.Fenced() {
				s.missed = append(s.missed, name)
			}
			continue
		}
		if _, dead := k.d.Group.Dead(name); dead && row.Fenced() && !k.d.Group.Alive(name) {
			s.silent[name] = rev // it is not worth the wait
			continue
		}
		wg.Go(func() {
			cs, err := k.askOne(ctx, name, v, ids)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				s.said[name] = cs
			case row.Fenced() && !k.d.Group.Alive(name):
				s.silent[name] = rev
			default:
				k.d.Log.Debug("no claims heard", "server", name, "error", err)
				s.missed = append(s.missed, name)
			}
		})
	}
	wg.Wait()
	return s, ctx.Err()
}

// askOne asks one server about messages.
func (k *Keeper) askOne(ctx context.Context, name org.ServerName, v *cluster.View, ids []mail.TraceID) ([]claim, error) {
	var out []claim
	for len(out) < len(ids) {
		var a claimsAnswer
		in := &claimsRequest{Revision: v.Revision(), IDs: packIDs(ids[len(out):])}
		if err := k.peers(ctx, name, "Claims", in, &a); err != nil {
			return nil, err
		}
		if n := len(a.Claims); n == 0 || n > len(ids)-len(out) {
			return nil, kind.Errorf(kind.Internal, "%d claims for %d messages", n, len(ids)-len(out))
		}
		out = append(out, a.Claims...)
	}
	return out, nil
}

// still tells, by a read of the agreed state behind everything that was asked,
// that the servers that were not asked are still fenced, and that this server's
// own row is what it was.
func (k *Keeper) still(ctx context.Context, s *survey) bool {
	ctx, cancel := context.WithTimeout(ctx, k.t.call)
	defer cancel()
	if err := k.d.Group.Sync(ctx); err != nil || !k.d.Group.LeaseValid() {
		return false
	}
	v := k.d.Group.View()
	for name, was := range s.silent {
		if _, now, _ := k.row(v, name); now != was {
			return false
		}
	}
	_, now, _ := k.row(v, k.me)
	if now != s.own {
		return false
	}
	for name := range k.queueRows(v) { // somebody new
		if _, ok := s.said[name]; !ok && name != k.me {
			if _, member := v.Server(name); member {
				if _, ok := s.silent[name]; !ok {
					return false
				}
			}
		}
	}
	return true
}
