package store

import (
	"fmt"
	"testing"

	"github.com/postern-mail/postern/internal/base/journal"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/mailbox/summary"
	"github.com/postern-mail/postern/internal/org"
)

// BenchmarkPlanDelivery is what one delivery costs the sequencer, with 64
// records in flight.
func BenchmarkPlanDelivery(b *testing.B) {
	db := newBench(b)
	for i := range 64 {
		db.setup(org.MailboxID{byte(i)})
	}
	db.apply()
	reqs := make([]*DeliverReq, 4096)
	fill := func(n int) {
		for i := range reqs {
			reqs[i] = delivery(fmt.Sprint(n, "-", i), org.MailboxID{byte(i % 64)})
			reqs[i].Key = mail.Key{byte(n), byte(n >> 8), byte(i), byte(i >> 8), byte(n >> 16)}
			reqs[i].Summary = summary.Parse(reqs[i].Body)
			reqs[i].Prepare()
		}
	}
	fill(0)
	n := 0
	for b.Loop() {
		if n > 0 && n%len(reqs) == 0 {
			b.StopTimer()
			fill(n)
			b.StartTimer()
		}
		db.must(reqs[n%len(reqs)])
		n++
		if n%64 == 0 {
			b.StopTimer()
			db.apply()
			db.log, db.done = nil, 0
			b.StartTimer()
		}
	}
}

// BenchmarkApply is what one delivery costs each copy.
func BenchmarkApply(b *testing.B) {
	db := newBench(b)
	db.setup(box1())
	db.apply()
	db.log, db.done = nil, 0
	for i := range b.N {
		db.must(delivery(fmt.Sprint(i), box1()))
		if i%64 == 63 {
			// Planned ahead, applied in one go.
			db.plan.Settled(0)
		}
	}
	b.ResetTimer()
	for len(db.log) > 0 {
		n := min(64, len(db.log))
		if _, err := db.ix.Apply(db.log[:n]); err != nil {
			b.Fatal(err)
		}
		db.log = db.log[n:]
	}
}

// big fills a folder with n messages.
func big(b *bench, n int) mail.Folder {
	b.t.Helper()
	b.setup(box1())
	for i := range n {
		b.must(delivery(fmt.Sprint(i), box1()))
		if i%1000 == 999 {
			b.apply()
			b.log, b.done = nil, 0
		}
	}
	return b.folder(box1(), inbox)
}

func BenchmarkBigFolder(b *testing.B) {
	db := newBench(b)
	f := big(db, 100_000)
	b.Run("UIDs", func(b *testing.B) {
		for b.Loop() {
			db.read(func(r *Reader) { r.UIDs(box1(), f.ID) })
		}
	})
	b.Run("Messages page", func(b *testing.B) {
		for b.Loop() {
			db.read(func(r *Reader) {
				r.Messages(box1(), mail.MessagesRequest{Folder: f.ID, UIDs: []mail.UIDRange{{First: 50_000, Last: 51_000}}})
			})
		}
	})
	b.Run("one flag", func(b *testing.B) {
		uid := mail.UID(1)
		for b.Loop() {
			db.must(&FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{
				Folder: f.ID, UIDs: []mail.UIDRange{{First: uid, Last: uid}}, Op: "add", Flags: mail.Seen}})
			uid++
			if uid%64 == 0 {
				b.StopTimer()
				db.apply()
				db.log, db.done = []journal.Record{}, 0
				b.StartTimer()
			}
		}
		db.apply()
	})
	b.Run("all flags", func(b *testing.B) {
		op := "add"
		for b.Loop() {
			db.must(&FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{Folder: f.ID, Op: op, Flags: mail.Flagged}})
			op = map[string]string{"add": "remove", "remove": "add"}[op]
			b.ReportMetric(float64(len(db.log[len(db.log)-1].Ops)), "ops-bytes")
			b.StopTimer()
			db.apply()
			db.log, db.done = nil, 0
			b.StartTimer()
		}
	})
}
