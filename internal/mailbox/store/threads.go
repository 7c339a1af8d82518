package store

import (
	"crypto/sha256"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Messages of a conversation name each other by message id. A mailbox keeps,
// for each id seen in Message-ID, In-Reply-To or References, the thread it
// belongs to; a new message joins the oldest thread it finds.
const (
	threadHashSize = 8
	maxThreadKeys  = 16
)

// threadHashes picks the ids that place a message: its own, those it answers,
// the first reference (the root) and the last ones (the nearest).
func threadHashes(e *mail.MessageEnvelope) []byte {
	ids := make([]string, 0, maxThreadKeys)
	add := func(list ...string) {
		for _, id := range list {
			if id != "" && len(ids) < maxThreadKeys {
				ids = append(ids, id)
			}
		}
	}
	add(e.MessageID)
	add(e.InReplyTo[:min(2, len(e.InReplyTo))]...)
	if n := len(e.References); n > 0 {
		add(e.References[0])
		for i := n - 1; i > 0; i-- {
			add(e.References[i])
		}
	}
	out := make([]byte, 0, len(ids)*threadHashSize)
next:
	for _, id := range ids {
		h := sha256.Sum256([]byte(id))
		for i := 0; i < len(out); i += threadHashSize {
			if string(out[i:i+threadHashSize]) == string(h[:threadHashSize]) {
				continue next
			}
		}
		out = append(out, h[:threadHashSize]...)
	}
	return out
}

// joinThread returns the thread of a new email and counts it in the rows of
// its thread keys. A thread has the number of its first email.
func (t *txn) joinThread(id org.MailboxID, email mail.EmailID, hashes []byte) (mail.ThreadID, error) {
	rows := make([]threadRow, len(hashes)/threadHashSize)
	var thread mail.ThreadID
	for i := range rows {
		h := hashes[i*threadHashSize:][:threadHashSize]
		ok, err := load(t, threadKey(id, h), &rows[i], "thread")
		if err != nil {
			return 0, err
		}
		if ok && (thread == 0 || rows[i].Thread < thread) {
			thread = rows[i].Thread
		}
	}
	if thread == 0 {
		thread = mail.ThreadID(email)
	}
	for i, row := range rows {
		if row.Refs == 0 {
			row.Thread = thread
		}
		row.Refs++
		t.setRow(threadKey(id, hashes[i*threadHashSize:][:threadHashSize]), row)
	}
	return thread, nil
}

// dropThreads counts an email out of its thread keys.
func (t *txn) dropThreads(id org.MailboxID, hashes []byte) error {
	for ; len(hashes) >= threadHashSize; hashes = hashes[threadHashSize:] {
		key := threadKey(id, hashes[:threadHashSize])
		var row threadRow
		ok, err := load(t, key, &row, "thread")
		if err != nil {
			return err
		}
		if !ok {
			continue
		}
		if row.Refs--; row.Refs > 0 {
			t.setRow(key, row)
		} else {
			t.del(key)
		}
	}
	return nil
}
