package transport

import (
	"context"

	"github.com/postern-mail/postern/internal/org"
)

// Waiting asks a server how many messages of its queue are not finished, and
// whether it accepts new ones.
func (m *Mover) Waiting(ctx context.Context, s org.ServerName) (messages int64, accepting bool, err error) {
	a, err := ask[struct{}, statusAnswer](ctx, m, s, askStatus, struct{}{})
	return a.Queue.Open, a.Shadow.Accepting, err
}
