package store

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// TestForget: a mailbox forgets deliveries whose message is gone, and only
// those; a forgotten one may be made once more.
func TestForget(t *testing.T) {
	b := newBench(t)
	b.must(&SetupReq{Mailbox: box1()})
	deliver := func(n byte) mail.Delivered {
		t.Helper()
		res := b.must(&DeliverReq{Delivery: mail.Delivery{Identity: [32]byte{n}, Body: fmt.Appendf(nil, "Subject: %d\r\n\r\n", n),
			Recipients: []mail.Recipient{{Mailbox: org.MailboxRef{ID: box1()}}}}})
		return res.([]mail.Delivered)[0]
	}
	first := deliver(1)
	b.now = b.now.Add(1e9)
	since := b.now.UnixNano()
	for n := byte(2); n <= 5; n++ {
		deliver(n)
	}
	b.apply()
	b.read(func(r *Reader) {
		page, more, err := r.Deliveries(box1(), since, [32]byte{}, 3)
		if err != nil || !more || len(page) != 3 || page[0].Identity != [32]byte{2} {
			t.Fatalf("%+v, %v, %v", page, more, err)
		}
		page, more, err = r.Deliveries(box1(), since, page[2].Identity, 3)
		if err != nil || more || len(page) != 1 || page[0].Identity != [32]byte{5} || page[0].At != since {
			t.Fatalf("%+v, %v, %v", page, more, err)
		}
		if page, _, err = r.Deliveries(box1(), 0, [32]byte{}, 10); err != nil || len(page) != 5 {
			t.Fatalf("%+v, %v", page, err)
		}
	})
	var in mail.FolderID
	b.read(func(r *Reader) {
		fs, err := r.Folders(box1())
		if err != nil {
			t.Fatal(err)
		}
		in = fs[0].ID
	})
	b.must(&ExpungeReq{Mailbox: box1(), Expunge: mail.Expunge{Folder: in, UIDs: []mail.UIDRange{{First: 2, Last: 3}}}})
	// Of 2 and 3 the message is gone; 4 is still there, 9 never was.
	if n := b.must(&ForgetReq{Mailbox: box1(), Identities: [][32]byte{{2}, {2}, {4}, {9}}}); n != 1 {
		t.Errorf("%d were forgotten, want 1", n)
	}
	b.apply()
	if n := b.must(&ForgetReq{Mailbox: box1(), Identities: [][32]byte{{2}, {4}}}); n != 0 {
		t.Errorf("%d were forgotten once more", n)
	}
	for n, again := range map[byte]bool{1: false, 2: true, 3: false, 4: false} {
		if d := deliver(n); d.Duplicate == again {
			t.Errorf("delivery %d: %+v", n, d)
		}
	}
	if first.UID != 1 {
		t.Errorf("%+v", first)
	}
	if _, err := b.req(&ForgetReq{Mailbox: org.MailboxID{77}}); err == nil {
		t.Error("a mailbox that is not there forgot")
	}
}
