package store

import (
	"encoding/binary"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// The first byte of a key is its kind. Numbers in keys are big endian, so keys
// sort by them.
const (
	kLocal    byte = 0x00 // of this copy only: position, format, identity
	kBody     byte = 'B'  // record LSN -> blob
	kSeenAt   byte = 'D'  // time, mailbox, identity -> nothing
	kFolder   byte = 'F'  // mailbox, folder -> mail.Folder
	kGrave    byte = 'G'  // mailbox -> graveRow
	kDoneAt   byte = 'K'  // time, key -> nothing
	kMailbox  byte = 'M'  // mailbox -> mailboxRow
	kName     byte = 'N'  // mailbox, name -> folder number
	kSub      byte = 'S'  // mailbox, name -> nothing (subscription)
	kBlob     byte = 'b'  // blob -> blobRow
	kChange   byte = 'c'  // mailbox, folder, modseq, uid -> nothing
	kSeen     byte = 'd'  // mailbox, delivery identity -> seenRow
	kEmail    byte = 'e'  // mailbox, email -> emailRow
	kDone     byte = 'k'  // change key -> doneRow
	kMessage  byte = 'm'  // mailbox, folder, uid -> mail.Message without summary
	kSummary  byte = 's'  // mailbox, email -> mail.Summary
	kThread   byte = 't'  // mailbox, hash of a message id -> threadRow
	kVanished byte = 'v'  // mailbox, modseq, folder -> vanishedRow
)

// MaxKey is the longest key in bytes: a folder name with its prefix.
const MaxKey = 1 + 16 + maxNameBytes

var be = binary.BigEndian

func keyOf(k byte, mbx org.MailboxID, extra int) []byte {
	b := make([]byte, 0, 17+extra)
	b = append(b, k)
	return append(b, mbx[:]...)
}

func mailboxKey(id org.MailboxID) []byte { return keyOf(kMailbox, id, 0) }
func graveKey(id org.MailboxID) []byte   { return keyOf(kGrave, id, 0) }

func folderKey(id org.MailboxID, f mail.FolderID) []byte {
	return be.AppendUint32(keyOf(kFolder, id, 4), uint32(f))
}

func nameKey(id org.MailboxID, name string) []byte {
	return append(keyOf(kName, id, len(name)), name...)
}

func subKey(id org.MailboxID, name string) []byte {
	return append(keyOf(kSub, id, len(name)), name...)
}

func messageKey(id org.MailboxID, f mail.FolderID, u mail.UID) []byte {
	return be.AppendUint32(be.AppendUint32(keyOf(kMessage, id, 8), uint32(f)), uint32(u))
}

func emailKey(id org.MailboxID, e mail.EmailID) []byte {
	return be.AppendUint64(keyOf(kEmail, id, 8), uint64(e))
}

func summaryKey(id org.MailboxID, e mail.EmailID) []byte {
	return be.AppendUint64(keyOf(kSummary, id, 8), uint64(e))
}

func changeKey(id org.MailboxID, f mail.FolderID, m mail.ModSeq, u mail.UID) []byte {
	b := be.AppendUint32(keyOf(kChange, id, 16), uint32(f))
	return be.AppendUint32(be.AppendUint64(b, uint64(m)), uint32(u))
}

func vanishedKey(id org.MailboxID, m mail.ModSeq, f mail.FolderID) []byte {
	return be.AppendUint32(be.AppendUint64(keyOf(kVanished, id, 12), uint64(m)), uint32(f))
}

func threadKey(id org.MailboxID, h []byte) []byte {
	return append(keyOf(kThread, id, threadHashSize), h...)
}

func seenKey(id org.MailboxID, ident [32]byte) []byte {
	return append(keyOf(kSeen, id, 32), ident[:]...)
}

func seenAtKey(at int64, id org.MailboxID, ident [32]byte) []byte {
	b := be.AppendUint64(append(make([]byte, 0, 57), kSeenAt), timeBits(at))
	return append(append(b, id[:]...), ident[:]...)
}

func doneKey(k mail.Key) []byte { return append([]byte{kDone}, k[:]...) }

func doneAtKey(at int64, k mail.Key) []byte {
	b := be.AppendUint64(append(make([]byte, 0, 25), kDoneAt), timeBits(at))
	return append(b, k[:]...)
}

func blobKey(b mail.BlobID) []byte { return be.AppendUint64([]byte{kBlob}, uint64(b)) }
func bodyKey(l org.LSN) []byte     { return be.AppendUint64([]byte{kBody}, uint64(l)) }

// timeBits makes Unix nanoseconds sort as unsigned numbers; times before 1970
// count as 1970.
func timeBits(ns int64) uint64 { return uint64(max(ns, 0)) }

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

// keySize is the length of keys of a kind, or the shortest one for kinds that
// end with a name; 0 for no such kind.
func keySize(k byte) (n int, open bool) {
	switch k {
	case kMailbox, kGrave, kDone:
		return 17, false
	case kName, kSub:
		return 18, true
	case kFolder:
		return 21, false
	case kMessage, kEmail, kSummary, kDoneAt:
		return 25, false
	case kThread:
		return 17 + threadHashSize, false
	case kChange:
		return 33, false
	case kVanished:
		return 29, false
	case kSeen:
		return 49, false
	case kSeenAt:
		return 57, false
	case kBlob, kBody:
		return 9, false
	}
	return 0, false
}

// checkKey refuses keys that no planner makes.
func checkKey(key []byte) error {
	if len(key) == 0 {
		return kind.Errorf(kind.Corrupt, "ops: empty key")
	}
	n, open := keySize(key[0])
	if n == 0 || len(key) < n || len(key) > n && !open || len(key) > MaxKey {
		return kind.Errorf(kind.Corrupt, "ops: key of kind %#x with %d bytes", key[0], len(key))
	}
	return nil
}
