package mailbox

import (
	"context"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// TestDelivered shows that the store tells what it delivered, and for how
// long, and that a copy tells the time of its newest record, also after a
// restart.
func TestDelivered(t *testing.T) {
	g := newAgreed()
	g.define(t, "MBX1")
	d := newDisks()
	k := startKeeper(t, g.server("MBX1"), d)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	at := org.MailboxRef{ID: org.MailboxID{1}, Database: "DB01"}
	s := k.Client()
	if err := s.Setup(ctx, at, mail.MailboxSetup{Organization: "acme"}); err != nil {
		t.Fatal(err)
	}
	before := time.Now().UnixNano()
	got, err := s.Deliver(ctx, mail.Delivery{Recipients: []mail.Recipient{{Mailbox: at}}, Body: body(1), Identity: [32]byte{7}})
	if err != nil || got[0].Email == 0 {
		t.Fatal(got, err)
	}
	last := k.Statuses()[0].LastTime
	if last < before || last > time.Now().UnixNano() {
		t.Errorf("the newest record is of %d, delivered after %d", last, before)
	}
	k.stop()
	k = startKeeper(t, g.server("MBX1"), d)
	s = k.Client()
	if e, known, err := s.Delivered(ctx, at, [32]byte{7}); err != nil || !known || e != got[0].Email {
		t.Errorf("delivered as %d, told %d, %v, %v", got[0].Email, e, known, err)
	}
	if _, known, err := s.Delivered(ctx, at, [32]byte{8}); err != nil || known {
		t.Errorf("never delivered, told %v, %v", known, err)
	}
	if now := k.Statuses()[0].LastTime; now < last {
		t.Errorf("after a restart the newest record is of %d, before it was of %d", now, last)
	}
	c := k.copy("DB01")
	if got := c.timeBefore(c.index().Applied().LSN); got != k.Statuses()[0].LastTime {
		t.Errorf("the log says %d, the status %d", got, k.Statuses()[0].LastTime)
	}
	k.cfg.DuplicateWindow = time.Nanosecond
	if _, known, err := s.Delivered(ctx, at, [32]byte{7}); err != nil || known {
		t.Errorf("remembered beyond the window: %v, %v", known, err)
	}
}
