package queue

import (
	"crypto/sha256"
	"encoding/binary"
	"strings"

	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// The first byte of a key is its kind. Numbers in keys are big endian, names
// end with a null byte, times are Unix nanoseconds.
const (
	kLocal    byte = 0x00 // format, position, how far was forgotten
	kBody     byte = 'B'  // LSN -> message; a body that is needed
	kFinished byte = 'F'  // time, message -> nothing; forgotten after the hold time
	kHistory  byte = 'H'  // time, message -> nothing; leaves the ledger after the retention
	kCopyKept byte = 'S'  // primary, database, time, message, row -> mailbox
	kJob      byte = 'a'  // message, destination -> job
	kOwed     byte = 'd'  // holder, LSN, message -> fate, time
	kMessage  byte = 'm'  // message -> messageRow
	kKept     byte = 'n'  // database, time, message, row -> mailbox
	kRequest  byte = 'q'  // request -> requestRec
	kRow      byte = 'r'  // message, row -> row
	kCopy     byte = 's'  // primary, message -> try, epoch, LSN
	kSearch   byte = 'x'  // what, hash, time, message -> nothing
)

// What a search key is about.
const (
	bySender    byte = 's'
	byRecipient byte = 'r'
	byMessageID byte = 'm'
	byOrg       byte = 'o'
)

// extraHistory is how much longer messages without an ending of their own are
// remembered: taken and void ones (30 days instead of 14).
const extraHistory = 16 * 24 * int64(3600e9)

var be = binary.BigEndian

func idKey(k byte, id mail.TraceID) []byte { return append([]byte{k}, id[:]...) }

func rowKey(id mail.TraceID, n uint16) []byte { return be.AppendUint16(idKey(kRow, id), n) }

func jobKey(id mail.TraceID, dest string) []byte { return append(idKey(kJob, id), dest...) }

func bodyKey(l org.LSN) []byte { return be.AppendUint64([]byte{kBody}, uint64(l)) }

func timeKey(k byte, at int64, id mail.TraceID) []byte {
	return append(be.AppendUint64([]byte{k}, uint64(at)), id[:]...)
}

func nameKey(k byte, names ...string) []byte {
	b := []byte{k}
	for _, n := range names {
		b = append(append(b, n...), 0)
	}
	return b
}

func keptKey(prefix []byte, at int64, id mail.TraceID, n uint16) []byte {
	b := be.AppendUint64(prefix, uint64(at))
	return be.AppendUint16(append(b, id[:]...), n)
}

func copyKey(primary org.ServerName, id mail.TraceID) []byte {
	return append(nameKey(kCopy, string(primary)), id[:]...)
}

func owedKey(holder org.ServerName, l org.LSN, id mail.TraceID) []byte {
	return append(be.AppendUint64(nameKey(kOwed, string(holder)), uint64(l)), id[:]...)
}

// Hash is what stands for a text in keys; texts are compared without case.
func Hash(s string) uint64 {
	sum := sha256.Sum256([]byte(strings.ToLower(s)))
	return be.Uint64(sum[:])
}

func searchPrefix(what byte, s string) []byte {
	return be.AppendUint64([]byte{kSearch, what}, Hash(s))
}

func searchKey(what byte, s string, m *messageRow) []byte {
	return append(be.AppendUint64(searchPrefix(what, s), uint64(m.Received)), m.ID[:]...)
}

// after returns the least key greater than all that begin with prefix.
func after(prefix []byte) []byte {
	b := append([]byte(nil), prefix...)
	for i := len(b) - 1; i >= 0; i-- {
		if b[i] != 0xff {
			b[i]++
			return b[:i+1]
		}
	}
	return []byte{0xff, 0xff}
}

// messageKeys gives all keys of a message but those of its rows and jobs. The
// value of the message itself is only encoded on demand.
func messageKeys(m *messageRow, encode bool, put func(k, v []byte)) {
	var v []byte
	if encode {
		v = codec.MustMarshal(m)
	}
	put(idKey(kMessage, m.ID), v)
	if !m.Forgotten {
		put(bodyKey(m.LSN), m.ID[:])
	}
	if m.Finished == 0 && !m.own() {
		put(copyKey(m.Primary, m.ID), be.AppendUint64(be.AppendUint64([]byte{m.Try}, m.Epoch), uint64(m.LSN)))
	}
	if m.Finished != 0 {
		if !m.Forgotten {
			put(timeKey(kFinished, m.Finished, m.ID), nil)
		}
		put(timeKey(kHistory, m.historyAt(), m.ID), nil)
	}
	put(searchKey(bySender, m.Envelope.From, m), nil)
	if m.MessageID != "" {
		put(searchKey(byMessageID, m.MessageID, m), nil)
	}
	if m.Origin.Organization != "" {
		put(searchKey(byOrg, string(m.Origin.Organization), m), nil)
	}
}

func (m *messageRow) historyAt() int64 {
	if m.Fate == FateTaken || m.Fate == FateVoid {
		return m.Finished + extraHistory
	}
	return m.Finished
}

// rowKeys gives all keys of a row.
func rowKeys(m *messageRow, n uint16, r *row, encode bool, put func(k, v []byte)) {
	var v []byte
	if encode {
		v = codec.MustMarshal(r)
	}
	put(rowKey(m.ID, n), v)
	put(searchKey(byRecipient, r.Address, m), nil)
	if r.Org != "" {
		put(searchKey(byOrg, string(r.Org), m), nil)
	}
	if r.State != StateDelivered || r.Mailbox.Database == "" || m.Forgotten {
		return
	}
	switch {
	case m.own():
		put(keptKey(nameKey(kKept, string(r.Mailbox.Database)), r.Last, m.ID, n), r.Mailbox.ID[:])
	case m.Finished != 0:
		put(keptKey(nameKey(kCopyKept, string(m.Primary), string(r.Mailbox.Database)), r.Last, m.ID, n), r.Mailbox.ID[:])
	}
}

// job is the work that is left of a message for one destination.
type job struct {
	lsn, changed  org.LSN
	size          uint32
	next, expires int64
	org, sender   uint64
	flags         uint32
	attempts      uint16
	priority      mail.Priority
	state         State
	first, last   uint16
}

const jobSize = 64

func (j *job) encode() []byte {
	b := make([]byte, 0, jobSize)
	b = be.AppendUint64(b, uint64(j.lsn))
	b = be.AppendUint64(b, uint64(j.changed))
	b = be.AppendUint32(b, j.size)
	b = be.AppendUint64(b, uint64(j.next))
	b = be.AppendUint64(b, uint64(j.expires))
	b = be.AppendUint64(b, j.org)
	b = be.AppendUint64(b, j.sender)
	b = be.AppendUint32(b, j.flags)
	b = be.AppendUint16(b, j.attempts)
	b = append(b, byte(j.priority), byte(j.state))
	b = be.AppendUint16(b, j.first)
	return be.AppendUint16(b, j.last)
}

func decodeJob(b []byte) (job, error) {
	if len(b) != jobSize {
		return job{}, kind.Errorf(kind.Corrupt, "job of %d bytes", len(b))
	}
	return job{
		lsn: org.LSN(be.Uint64(b)), changed: org.LSN(be.Uint64(b[8:])), size: be.Uint32(b[16:]),
		next: int64(be.Uint64(b[20:])), expires: int64(be.Uint64(b[28:])), org: be.Uint64(b[36:]), sender: be.Uint64(b[44:]),
		flags: be.Uint32(b[52:]), attempts: be.Uint16(b[56:]), priority: mail.Priority(b[58]), state: State(b[59]),
		first: be.Uint16(b[60:]), last: be.Uint16(b[62:]),
	}, nil
}

// work gives the jobs of a message, by destination.
func (e *entry) work() map[string]job {
	m := &e.m
	if !m.own() || m.Finished != 0 || e.gone {
		return nil
	}
	out := map[string]job{}
	for i := range e.rows {
		r := &e.rows[i]
		if r.State.Finished() {
			continue
		}
		j, ok := out[r.Dest]
		if !ok {
			o := string(r.Org)
			if m.Origin.Organization != "" {
				o = string(m.Origin.Organization)
			}
			j = job{lsn: m.LSN, size: uint32(m.Size), next: r.Next, expires: m.Expires, org: Hash(o), sender: Hash(m.Envelope.From),
				flags: m.Flags, priority: m.Priority, state: r.State, first: uint16(i)}
		}
		if j.state == StateSuspended {
			j.state = r.State
		}
		j.next, j.attempts, j.changed, j.last = min(j.next, r.Next), max(j.attempts, r.Attempts), max(j.changed, r.Changed), uint16(i)
		out[r.Dest] = j
	}
	return out
}
