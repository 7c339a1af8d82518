package mailbox

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/store"
	"github.com/postern-mail/postern/internal/org"
)

// offerLoop offers the messages of parts that were set aside to the active
// copy, again and again until all are there (design 5.3, promise P15).
func (c *dbCopy) offerLoop(ctx context.Context) {
	wait := time.Second
	for sleep(ctx, c.k.tillNext(wait)) {
		if !c.aside.Swap(false) {
			continue
		}
		names, err := c.vol.fs.List(c.asideDir())
		if err != nil {
			c.aside.Store(true)
			continue
		}
		for _, n := range names {
			if !strings.HasSuffix(n, ".log") {
				continue
			}
			c.aside.Store(true) // until there is none left
			path := filepath.Join(c.asideDir(), n)
			count, err := c.offer(ctx, path)
			if err != nil {
				c.log.Warn("offer diverged messages", "file", path, "err", err)
				wait = min(2*wait, 10*time.Minute)
				continue
			}
			wait = time.Second
			if err := moveDurably(c.k.fs, path, offered(path)); err != nil {
				c.log.Warn("offer diverged messages", "file", path, "err", err)
				continue
			}
			c.k.note(org.Note{Action: actOffer, Target: string(c.name), Responder: "Store", Cause: "log was set aside that was only here",
				Evidence: proof("Store", c.name, "offered", "%s", path), Result: fmt.Sprintf("%d messages are in their mailboxes, the rest was there already", count)})
			c.k.deps.Events.Emit(evOffered, "%d messages of %s that were only on %s are in their mailboxes; the rest was there already", count, c.name, c.k.me)
		}
	}
}

// offer appends each message of one part to its mailbox unless it is there,
// and returns how many were not. Repeating it changes nothing.
func (c *dbCopy) offer(ctx context.Context, path string) (int, error) {
	count := 0
	for r, err := range journal.OpenAside(c.vol.fs, path) {
		if err != nil {
			return count, err
		}
		if r.Kind != journal.KindChange || len(r.Body) == 0 {
			continue
		}
		arrivals, err := store.Arrivals(r.Ops)
		if err != nil {
			return count, err
		}
		for _, a := range arrivals {
			added, err := c.offerOne(ctx, r, a)
			if err != nil {
				return count, fmt.Errorf("message at %d: %w", r.LSN, err)
			}
			if added {
				count++
			}
		}
	}
	return count, nil
}

func (c *dbCopy) offerOne(ctx context.Context, r journal.Record, a store.Arrival) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	at := org.MailboxRef{ID: a.Mailbox, Database: c.name}
	cl := c.k.Client()
	folders, err := cl.Folders(ctx, at)
	if kind.Is(err, kind.NotFound) {
		return false, nil // the mailbox is gone on purpose
	}
	if err != nil {
		return false, err
	}
	target := "INBOX"
	for _, f := range folders {
		if f.ID == a.Folder {
			target = f.Name
		}
	}
	if a.Identity != [32]byte{} {
		// Its sender may have sent it again through another server, with
		// other trace lines: the identity tells, the bytes would not.
		got, err := cl.Deliver(ctx, mail.Delivery{
			Key: offerKey(r, a), Recipients: []mail.Recipient{{Mailbox: at, Folder: target}}, Body: r.Body,
			Date: a.Message.InternalDate, Identity: a.Identity,
		})
		if err == nil && got[0].Refused != "" && kind.Kind(got[0].RefusedKind) != kind.NotFound {
			err = kind.Errorf(kind.Kind(got[0].RefusedKind), "%s", got[0].Refused)
		}
		return err == nil && !got[0].Duplicate && got[0].Refused == "", err
	}
	var before mail.ModSeq
	for _, f := range folders {
		there, err := c.holds(ctx, at, f, r.Body)
		if err != nil || there {
			return false, err
		}
		before = max(before, f.HighestModSeq)
	}
	// Who appended it may have done so again, and have moved it while the folders
	// were looked through, or removed it: under its own key this is the same
	// change, whoever comes first.
	got, err := cl.Append(ctx, at, mail.Append{
		Key: cmpOr(a.Key, offerKey(r, a)), Folder: target, Flags: a.Message.Flags, Keywords: a.Message.Keywords,
		InternalDate: a.Message.InternalDate, Body: r.Body,
	})
	return err == nil && got.ModSeq > before, err
}

// holds tells whether a folder has a message with exactly these bytes.
func (c *dbCopy) holds(ctx context.Context, at org.MailboxRef, f mail.Folder, body []byte) (bool, error) {
	cl := c.k.Client()
	found, err := cl.Search(ctx, at, mail.SearchRequest{Folder: f.ID, Criteria: mail.Criteria{
		Larger: int64(len(body)) - 1, Smaller: int64(len(body)) + 1,
	}})
	if err != nil {
		return false, err
	}
	for _, uid := range found.UIDs {
		ms, err := cl.Messages(ctx, at, mail.MessagesRequest{Folder: f.ID, UIDs: []mail.UIDRange{{First: uid, Last: uid}}})
		if err != nil {
			return false, err
		}
		for _, m := range ms.Messages {
			same, err := c.sameBody(ctx, at, m, body)
			if err != nil || same {
				return same, err
			}
		}
	}
	return false, nil
}

func (c *dbCopy) sameBody(ctx context.Context, at org.MailboxRef, m mail.Message, body []byte) (bool, error) {
	h := sha256.New()
	for off := int64(0); off < m.Size; {
		b, err := c.k.Client().Body(ctx, at, mail.BodyRequest{Blob: m.Blob, Offset: off})
		if err != nil {
			return false, err
		}
		if len(b) == 0 {
			break
		}
		h.Write(b)
		off += int64(len(b))
	}
	want := sha256.Sum256(body)
	return [32]byte(h.Sum(nil)) == want, nil
}

// offerKey makes repeating an offer harmless: it depends on nothing but the
// record and the mailbox.
func offerKey(r journal.Record, a store.Arrival) mail.Key {
	b := []byte("offer")
	b = binary.BigEndian.AppendUint64(b, uint64(r.LSN))
	b = binary.BigEndian.AppendUint32(b, r.Chain)
	b = append(b, a.Mailbox[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(a.Folder))
	b = binary.BigEndian.AppendUint32(b, uint32(a.Message.UID))
	sum := sha256.Sum256(b)
	return mail.Key(sum[:16])
}
