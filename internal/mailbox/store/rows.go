package store

import (
	"github.com/postern-mail/postern/internal/base/codec"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Rows are CBOR with integer keys (base/codec): a later version may add
// fields. Folder and message rows are mail.Folder and mail.Message themselves.

type mailboxRow struct {
	Org           org.OrganizationID `cbor:"1,keyasint"`
	ModSeq        mail.ModSeq        `cbor:"2,keyasint"`
	Used          int64              `cbor:"3,keyasint"` // bytes of all messages in all folders
	Messages      int64              `cbor:"4,keyasint"`
	NextFolder    mail.FolderID      `cbor:"5,keyasint"`
	NextEmail     mail.EmailID       `cbor:"6,keyasint"`
	QuotaBytes    int64              `cbor:"7,keyasint"`
	QuotaMessages int64              `cbor:"8,keyasint"`
	Floor         mail.ModSeq        `cbor:"9,keyasint"`  // changes up to it may be forgotten
	Validity      uint32             `cbor:"10,keyasint"` // last UIDVALIDITY given out
	Vanished      int64              `cbor:"11,keyasint"` // ranges in the vanished rows
	Folders       int64              `cbor:"12,keyasint"`
}

// graveRow stays where a mailbox was removed, so that one made again under its
// identity goes on counting (promise 1).
type graveRow struct {
	ModSeq     mail.ModSeq   `cbor:"1,keyasint"`
	Validity   uint32        `cbor:"2,keyasint"`
	NextFolder mail.FolderID `cbor:"3,keyasint"`
	NextEmail  mail.EmailID  `cbor:"4,keyasint"`
}

type emailRow struct {
	Blob    mail.BlobID   `cbor:"1,keyasint"`
	Thread  mail.ThreadID `cbor:"2,keyasint"`
	Size    int64         `cbor:"3,keyasint"`
	Refs    int64         `cbor:"4,keyasint"`           // messages in folders
	Threads []byte        `cbor:"5,keyasint,omitempty"` // hashes of its thread keys
}

type blobRow struct {
	LSN  org.LSN `cbor:"1,keyasint"` // record that holds the bytes now
	Size int64   `cbor:"2,keyasint"`
	Refs int64   `cbor:"3,keyasint"` // emails
}

type vanishedRow struct {
	UIDs []mail.UIDRange `cbor:"1,keyasint"`
}

type threadRow struct {
	Thread mail.ThreadID `cbor:"1,keyasint"`
	Refs   int64         `cbor:"2,keyasint"` // emails
}

type seenRow struct {
	At    int64        `cbor:"1,keyasint"` // Unix nanoseconds
	Email mail.EmailID `cbor:"2,keyasint"`
	UID   mail.UID     `cbor:"3,keyasint"`
}

// doneRow remembers the answer to a change with a key.
type doneRow struct {
	At      int64         `cbor:"1,keyasint"` // Unix nanoseconds
	Mailbox org.MailboxID `cbor:"2,keyasint"` // zero for deliveries
	Verb    uint8         `cbor:"3,keyasint"`
	Result  []byte        `cbor:"4,keyasint,omitempty"`
}

// What a doneRow answers.
const (
	verbDeliver uint8 = 1 + iota
	verbAppend
	verbFolder
	verbFlags
	verbExpunge
	verbCopy
)

// Answers that would be long are remembered short and completed on replay.

type flagsDone struct {
	UIDs     []mail.UIDRange `cbor:"1,keyasint,omitempty"`
	Modified []mail.UIDRange `cbor:"2,keyasint,omitempty"`
	ModSeq   mail.ModSeq     `cbor:"3,keyasint"`
}

type copyDone struct {
	Validity uint32          `cbor:"1,keyasint"`
	Source   []mail.UIDRange `cbor:"2,keyasint,omitempty"`
	Target   []mail.UIDRange `cbor:"3,keyasint,omitempty"`
	ModSeq   mail.ModSeq     `cbor:"4,keyasint"`
}

// decode reads a row; damage is Corrupt.
func decode(data []byte, row any, what string) error {
	if err := codec.Unmarshal(data, row); err != nil {
		return kind.Errorf(kind.Corrupt, "index: %s row: %w", what, err)
	}
	return nil
}

// source is where rows are read from: a snapshot, or the planner's view.
type source interface {
	// get returns the value of a key, nil when there is none.
	get(key []byte) ([]byte, error)
	// scan positions a cursor at the first key in [lo, hi).
	scan(lo, hi []byte) (*cursor, error)
}

// load reads and decodes a row; ok is false when there is none.
func load(s source, key []byte, row any, what string) (ok bool, err error) {
	v, err := s.get(key)
	if err != nil || v == nil {
		return false, err
	}
	return true, decode(v, row, what)
}

func loadFolder(s source, id org.MailboxID, f mail.FolderID) (mail.Folder, bool, error) {
	var row mail.Folder
	ok, err := load(s, folderKey(id, f), &row, "folder")
	return row, ok, err
}

func loadFolders(s source, id org.MailboxID) ([]mail.Folder, error) {
	prefix := keyOf(kFolder, id, 0)
	var out []mail.Folder
	err := each(s, prefix, after(prefix), func(_, v []byte) error {
		var f mail.Folder
		if err := decode(v, &f, "folder"); err != nil {
			return err
		}
		out = append(out, f)
		return nil
	})
	return out, err
}

// each calls fn for every key in [lo, hi). The slices are valid during the call.
func each(s source, lo, hi []byte, fn func(k, v []byte) error) error {
	c, err := s.scan(lo, hi)
	if err != nil {
		return err
	}
	for ; c.ok; c.next() {
		if err := fn(c.k, c.v); err != nil {
			c.close()
			return err
		}
	}
	return c.close()
}

// eachMessage calls fn for the messages of a folder in UID order: those in
// uids (sorted, not overlapping), all when nil. fn returns false to stop.
func eachMessage(s source, id org.MailboxID, f mail.FolderID, uids []mail.UIDRange, fn func(m mail.Message) (bool, error)) error {
	if uids == nil {
		uids = []mail.UIDRange{{First: 0, Last: 1<<32 - 1}}
	}
	if len(uids) == 0 {
		return nil
	}
	prefix := messageKey(id, f, 0)[:21]
	c, err := s.scan(messageKey(id, f, uids[0].First), after(prefix))
	if err != nil {
		return err
	}
	for i := 0; c.ok && i < len(uids); {
		uid := mail.UID(be.Uint32(c.k[21:]))
		switch {
		case uid > uids[i].Last:
			i++
		case uid < uids[i].First:
			c.seek(messageKey(id, f, uids[i].First))
		default:
			var m mail.Message
			if err := decode(c.v, &m, "message"); err != nil {
				c.close()
				return err
			}
			more, err := fn(m)
			if err != nil || !more {
				c.close()
				return err
			}
			c.next()
		}
	}
	return c.close()
}
