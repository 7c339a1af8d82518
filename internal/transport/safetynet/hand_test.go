package safetynet

import (
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
)

// TestByHand shows conditions, another recipient, and what is refused.
func TestByHand(t *testing.T) {
	w := newWorld(t)
	p := w.join("MBX1")
	for n := range 10 {
		p.delivered(n, start.Add(time.Duration(n)*time.Second), "DB01")
	}
	w.pass(time.Hour)
	p.run()
	for _, c := range []struct {
		name string
		q    Request
		want int
		err  kind.Kind
	}{
		{"all", Request{Database: "DB01"}, 10, 0},
		{"sender", Request{Database: "DB01", Conditions: org.SafetyNetConditions{Sender: "From3@Example.test"}}, 1, 0},
		{"recipient", Request{Database: "DB01", Conditions: org.SafetyNetConditions{Recipient: "TO4@example.test"}}, 1, 0},
		{"message", Request{Database: "DB01", Conditions: org.SafetyNetConditions{MessageID: "<5@example.test>"}}, 1, 0},
		{"no such", Request{Database: "DB01", Conditions: org.SafetyNetConditions{Sender: "from3@example.test", Recipient: "to4@example.test"}}, 0, 0},
		{"interval", Request{Database: "DB01", From: start.Add(-time.Hour), To: start.Add(-30 * time.Minute)}, 0, 0},
		{"no database", Request{Database: "DB09"}, 0, kind.NotFound},
		{"expired", Request{Database: "DB01", From: start.Add(-72 * time.Hour), To: start.Add(-71 * time.Hour)}, 0, kind.Invalid},
		{"wrong way round", Request{Database: "DB01", From: start.Add(time.Minute), To: start}, 0, kind.Invalid},
		{"two lines", Request{Database: "DB01", Conditions: org.SafetyNetConditions{Sender: "a\nb"}}, 0, kind.Invalid},
		{"no address", Request{Database: "DB01", ResubmitTo: "nobody"}, 0, kind.Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			id, err := p.net.Create(t.Context(), c.q)
			if c.err != 0 {
				if !kind.Is(err, c.err) {
					t.Fatal(err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if st := p.reaches(id, StateCompleted); st.Found != c.want {
				t.Fatalf("%+v", st)
			}
		})
	}
	before, _ := w.have()
	id, err := p.net.Create(t.Context(), Request{Database: "DB01", ResubmitTo: "audit@example.test", Why: "audit", By: "ann"})
	if err != nil {
		t.Fatal(err)
	}
	if st := p.reaches(id, StateCompleted); st.Delivered != 10 || st.Request.By != "ann" {
		t.Fatalf("%+v", st)
	}
	if m, _ := w.have(); m != before+10 {
		t.Fatalf("%d messages", m)
	}
}

// TestTrouble shows what is tried again, passed over and counted as failed.
func TestTrouble(t *testing.T) {
	w := newWorld(t)
	p := w.join("MBX1")
	for n := range 10 {
		p.delivered(n, start.Add(time.Duration(n)*time.Second), "DB01")
	}
	var busy atomic.Int64
	w.deliver = func(it Item) error {
		switch it.Message.MessageID {
		case "<1@example.test>":
			return kind.Errorf(kind.NotFound, "no mailbox")
		case "<2@example.test>":
			return kind.Errorf(kind.Full, "mailbox is full")
		case "<3@example.test>":
			if busy.Add(1) < 4 {
				return kind.Errorf(kind.Busy, "later")
			}
		}
		return nil
	}
	p.run()
	id := p.ask(time.Time{})
	st := p.reaches(id, StateFailed)
	if st.Found != 10 || st.Delivered != 8 || st.Failed != 1 || !strings.Contains(st.Why, "full") || busy.Load() != 4 {
		t.Fatalf("%+v", st)
	}
	if !st.Request.From.Equal(st.Request.Created.Add(-48 * time.Hour)) {
		t.Fatalf("since ever: %+v", st.Request)
	}
}

// TestExpired shows that nothing is done for an interval that is not kept any
// more.
func TestExpired(t *testing.T) {
	w := newWorld(t)
	p := w.join("MBX1")
	p.run()
	w.put(requestKey("r1"), org.SafetyNetRequest{ID: "r1", Database: "DB01", From: start.Add(-90 * time.Hour), To: start.Add(-80 * time.Hour), Created: start, Expires: start.Add(240 * time.Hour)})
	p.reaches("r1", StateExpired)
	w.pass(time.Hour)
	if st, err := p.net.Show("r1"); err != nil || len(st.Parts) != 0 {
		t.Fatalf("%+v %v", st, err)
	}
}

// TestGroupAddress shows that a recipient counts by the address that was
// written, whatever it became.
func TestGroupAddress(t *testing.T) {
	rows := []queue.RecipientRow{{N: 0, Address: "all@example.test"}, {N: 1, Parent: 0, Why: queue.WhyGroup, Address: "ann@example.test"},
		{N: 2, Parent: 1, Why: queue.WhyForward, Address: "ann@home.test"}}
	for rcpt, want := range map[string]bool{"all@example.test": true, "ann@example.test": true, "ann@home.test": true, "bob@example.test": false} {
		if matches(&org.SafetyNetConditions{Recipient: rcpt}, &queue.Message{}, rows, 2) != want {
			t.Error(rcpt)
		}
	}
	if matches(&org.SafetyNetConditions{Recipient: "ann@home.test"}, &queue.Message{}, rows, 1) {
		t.Error("what came of it does not count")
	}
}
