package store

import (
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// Arrival is a message that a record brought into a mailbox.
type Arrival struct {
	Mailbox org.MailboxID
	Folder  mail.FolderID
	Message mail.Message
	// Identity is the delivery identity it came with, zero for none.
	Identity [32]byte
	// Key is what its append is repeated under, zero for none and for a delivery.
	Key mail.Key
}

// Arrivals lists the messages whose body first came with the record that has
// these ops: what deliveries and appends brought, not copies, moves or bodies
// carried on from an older part of the log.
func Arrivals(ops []byte) ([]Arrival, error) {
	fresh := map[mail.BlobID]bool{}
	var all []Arrival
	identities := map[seenAt][32]byte{}
	var key mail.Key
	err := eachOp(ops, func(o op) error {
		if o.code != opSet {
			return nil
		}
		switch o.key[0] {
		case kBlob:
			var row blobRow
			if err := decode(o.val, &row, "blob"); err != nil {
				return err
			}
			if id := be.Uint64(o.key[1:]); uint64(row.LSN) == id {
				fresh[mail.BlobID(id)] = true
			}
		case kMessage:
			a := Arrival{Mailbox: org.MailboxID(o.key[1:17]), Folder: mail.FolderID(be.Uint32(o.key[17:]))}
			if err := decode(o.val, &a.Message, "message"); err != nil {
				return err
			}
			all = append(all, a)
		case kDone:
			var row doneRow
			if err := decode(o.val, &row, "key"); err != nil {
				return err
			}
			if row.Verb == verbAppend && len(o.key) == 17 {
				key = mail.Key(o.key[1:])
			}
		case kSeen:
			var row seenRow
			if err := decode(o.val, &row, "identity"); err != nil {
				return err
			}
			identities[seenAt{org.MailboxID(o.key[1:17]), row.Email}] = [32]byte(o.key[17:49])
		}
		return nil
	})
	out := all[:0]
	for _, a := range all {
		if fresh[a.Message.Blob] {
			a.Identity, a.Key = identities[seenAt{a.Mailbox, a.Message.Email}], key
			out = append(out, a)
		}
	}
	return out, err
}

// seenAt finds the identity row of a message.
type seenAt struct {
	mailbox org.MailboxID
	email   mail.EmailID
}
