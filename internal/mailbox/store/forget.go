package store

import (
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// maxForget bounds how many deliveries one request forgets.
const maxForget = 10_000

// DeliveryRow is a delivery that a mailbox remembers.
type DeliveryRow struct {
	Identity [32]byte     `cbor:"1,keyasint"`
	Email    mail.EmailID `cbor:"2,keyasint"`
	At       int64        `cbor:"3,keyasint"` // Unix nanoseconds
}

// Deliveries lists what a mailbox remembers of deliveries made at since (Unix
// nanoseconds) or later, in the order of their identities, after that of after;
// more tells that there are more than limit.
func (r *Reader) Deliveries(id org.MailboxID, since int64, after [32]byte, limit int) (out []DeliveryRow, more bool, err error) {
	c, err := r.scan(append(seenKey(id, after), 0), afterBox(kSeen, id))
	if err != nil {
		return nil, false, err
	}
	for ; c.ok; c.next() {
		var row seenRow
		if err := decode(c.v, &row, "delivery"); err != nil {
			c.close()
			return nil, false, err
		}
		if row.At < since {
			continue
		}
		if len(out) >= limit {
			more = true
			break
		}
		out = append(out, DeliveryRow{Identity: [32]byte(c.k[17:49]), Email: row.Email, At: row.At})
	}
	return out, more, c.close()
}

func afterBox(k byte, id org.MailboxID) []byte { return after(keyOf(k, id, 0)) }

// ForgetReq has a mailbox forget deliveries whose message is no longer in it, so
// that they may be made once more. Others are left alone. Result: int, how many
// were forgotten.
type ForgetReq struct {
	Mailbox    org.MailboxID
	Identities [][32]byte // at most 10,000 count
}

func (t *txn) forget(r *ForgetReq) (Planned, error) {
	b, err := t.mustBox(r.Mailbox)
	if err != nil {
		return Planned{}, err
	}
	n := 0
	for _, identity := range r.Identities[:min(len(r.Identities), maxForget)] {
		var row seenRow
		key := seenKey(b.id, identity)
		known, err := load(t, key, &row, "delivery")
		if err != nil {
			return Planned{}, err
		}
		if !known {
			continue
		}
		there, err := t.get(emailKey(b.id, row.Email))
		if err != nil {
			return Planned{}, err
		}
		if there != nil {
			continue
		}
		t.del(seenAtKey(row.At, b.id, identity))
		t.del(key)
		n++
	}
	return Planned{NoOp: n == 0, Result: n}, t.err
}
