package store

import (
	"github.com/postern-mail/postern/internal/mail"
)

// A mailbox remembers at most maxVanished ranges of expunged UIDs, for clients
// that come back (RFC 7162 QRESYNC). The oldest are trimmed, not at every
// expunge but when vanishedSlack more have come, and the floor rises.
const (
	maxVanished   = 10_000
	vanishedSlack = 1_000
)

// vanish records UIDs that left a folder.
func (t *txn) vanish(b *box, f mail.FolderID, gone []mail.UIDRange) error {
	m, n := b.stamp(), int64(len(gone))
	if n > maxVanished {
		// One request removed more than is ever kept: nobody can follow it.
		b.row.Floor = m
		return t.trimVanished(b, 0)
	}
	t.setRow(vanishedKey(b.id, m, f), vanishedRow{UIDs: gone})
	b.row.Vanished += n
	if b.row.Vanished > maxVanished+vanishedSlack {
		return t.trimVanished(b, maxVanished)
	}
	return nil
}

// trimVanished removes the oldest rows until at most limit ranges are left.
// The row of this request is not seen by the walk and so is never removed.
func (t *txn) trimVanished(b *box, limit int64) error {
	prefix := keyOf(kVanished, b.id, 0)
	c, err := t.scan(prefix, after(prefix))
	if err != nil {
		return err
	}
	for ; c.ok && b.row.Vanished > limit; c.next() {
		var row vanishedRow
		if err := decode(c.v, &row, "vanished"); err != nil {
			c.close()
			return err
		}
		b.row.Vanished -= int64(len(row.UIDs))
		b.row.Floor = max(b.row.Floor, mail.ModSeq(be.Uint64(c.k[17:])))
		t.del(append([]byte(nil), c.k...))
	}
	return c.close()
}
