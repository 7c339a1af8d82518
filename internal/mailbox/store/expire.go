package store

import (
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// KeyWindow is how long the answer to a change with a key is remembered.
const KeyWindow = time.Hour

// Rows with an end are found by time keys. Every plan removes a few that are
// over, so that they go about as fast as they come, and nobody walks a long
// list at once.
const (
	expirePerPlan = 4
	expireBatch   = 256
	expireEvery   = time.Second
)

// expiry is what the planner knows of rows that are over.
type expiry struct {
	done, seen expiryList
}

// expiryList holds time keys read ahead. from is where the next read starts: past
// everything handed out, so that the walk does not meet its own tombstones.
type expiryList struct {
	keys [][]byte
	from []byte
	last int64 // time of the last read that found less than a batch
}

// pop returns the next time key before cutoff, nil for none now.
func (l *expiryList) pop(ix *Index, k byte, cutoff, now int64) ([]byte, error) {
	if len(l.keys) == 0 {
		if d := now - l.last; d >= 0 && d < int64(expireEvery) {
			return nil, nil
		}
		lo := []byte{k}
		hi := be.AppendUint64([]byte{k}, timeBits(cutoff))
		if l.from != nil {
			lo = l.from
		}
		if string(lo) < string(hi) {
			c, err := ix.scan(lo, hi)
			if err != nil {
				return nil, err
			}
			for ; c.ok && len(l.keys) < expireBatch; c.next() {
				l.keys = append(l.keys, append([]byte(nil), c.k...))
			}
			if err := c.close(); err != nil {
				return nil, err
			}
		}
		if len(l.keys) < expireBatch {
			l.last = now
		}
		if len(l.keys) == 0 {
			return nil, nil
		}
		l.from = append(append([]byte(nil), l.keys[len(l.keys)-1]...), 0)
	}
	key := l.keys[0]
	l.keys = l.keys[1:]
	return key, nil
}

// expire removes a few rows that are over. A row that was renewed since its
// time key was written stays; only the time key goes.
func (t *txn) expire() error {
	for range expirePerPlan {
		key, err := t.p.old.done.pop(t.p.ix, kDoneAt, t.now-int64(KeyWindow), t.now)
		if err != nil {
			return err
		}
		if key == nil {
			break
		}
		if err := t.expireRow(key, doneKey(mail.Key(key[9:]))); err != nil {
			return err
		}
	}
	for range expirePerPlan {
		key, err := t.p.old.seen.pop(t.p.ix, kSeenAt, t.now-int64(t.p.window), t.now)
		if err != nil {
			return err
		}
		if key == nil {
			break
		}
		if err := t.expireRow(key, seenKey(org.MailboxID(key[9:25]), [32]byte(key[25:]))); err != nil {
			return err
		}
	}
	return nil
}

// expireRow removes a time key and the row it stands for.
func (t *txn) expireRow(timeKey, rowKey []byte) error {
	v, err := t.get(timeKey)
	if err != nil || v == nil {
		return err // went with a change in flight
	}
	t.del(timeKey)
	var row struct {
		At int64 `cbor:"1,keyasint"` // of seenRow and doneRow alike
	}
	ok, err := load(t, rowKey, &row, "expiring")
	if err != nil || !ok {
		return err
	}
	if timeBits(row.At) == be.Uint64(timeKey[1:]) {
		t.del(rowKey)
	}
	return nil
}
