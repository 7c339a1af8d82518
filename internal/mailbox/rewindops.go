package mailbox

import (
	"context"

	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// deliveriesPage is how many deliveries one answer tells of.
const deliveriesPage = 10_000

// Requests about a whole database.
type (
	boxRow struct {
		ID           org.MailboxID      `cbor:"1,keyasint"`
		Organization org.OrganizationID `cbor:"2,keyasint"`
	}
	deliveriesRequest struct {
		Since int64    `cbor:"1,keyasint"` // Unix nanoseconds
		After [32]byte `cbor:"2,keyasint"`
	}
	deliveriesAnswer struct {
		Rows []store.DeliveryRow `cbor:"1,keyasint"`
		More bool                `cbor:"2,keyasint"`
	}
	forgetRequest struct {
		Identities [][32]byte `cbor:"1,keyasint"`
	}
)

var (
	opMailboxes = op[none, []boxRow]{"Mailboxes", func(ctx context.Context, c *dbCopy, _ org.MailboxRef, _ none) ([]boxRow, error) {
		return read(ctx, c, func(r *store.Reader) (out []boxRow, err error) {
			all, err := r.Mailboxes()
			for _, m := range all {
				out = append(out, boxRow{m.ID, m.Organization})
			}
			return out, err
		})
	}}
	opDeliveries = op[deliveriesRequest, deliveriesAnswer]{"Deliveries", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q deliveriesRequest) (deliveriesAnswer, error) {
		return read(ctx, c, func(r *store.Reader) (a deliveriesAnswer, err error) {
			a.Rows, a.More, err = r.Deliveries(at.ID, q.Since, q.After, deliveriesPage)
			return a, err
		})
	}}
	opForget = op[forgetRequest, int]{"Forget", func(ctx context.Context, c *dbCopy, at org.MailboxRef, q forgetRequest) (int, error) {
		return change[int](ctx, c, &store.ForgetReq{Mailbox: at.ID, Identities: q.Identities}, false)
	}}
)
