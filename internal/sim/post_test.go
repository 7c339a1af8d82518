package sim

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/directory"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport"
)

// posted is a world whose servers have queues: DB01 has copies everywhere, and
// ann and bob have mailboxes in it.
type posted struct {
	*World
	t     *testing.T
	boxes map[string]org.MailboxRef // by address

	mu   sync.Mutex        // guards the rest
	to   map[string]string // recipients of what was confirmed, by Message-ID
	next int
}

func address(t *testing.T, s string) mail.Address {
	t.Helper()
	a, err := mail.ParseAddress(s)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// settings are those of transport for the group, as its row has them.
const quickSettings = `{"shadow_timeout":"500ms","accept_timeout":"5s","shadow_heartbeat":"1s","takeover_after":"1s","safetynet_shadow_after":"1s"}`

func newPosted(t *testing.T, o Options) *posted {
	t.Helper()
	o.Transport = true
	p := &posted{World: world(t, o), t: t, boxes: map[string]org.MailboxRef{}, to: map[string]string{}}
	p.mustRun(t, 1, "database create", `{"database":"DB01","servers":"MBX1,MBX2,MBX3"}`)
	p.inSync(t, 1, "DB01", 3)
	s := p.Server(1)
	if !o.Slow {
		if _, err := s.Cluster.Commit(t.Context(), cluster.Txn{Then: []cluster.Op{{Key: "transport/settings", Value: []byte(quickSettings)}}}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Directory.CreateOrganization(t.Context(), "o1", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Directory.AddDomain(t.Context(), "o1", "example.test"); err != nil {
		t.Fatal(err)
	}
	for _, a := range []string{"ann@example.test", "bob@example.test"} {
		r, _, err := s.Directory.CreateMailbox(t.Context(), directory.NewMailbox{Address: address(t, a), Password: "correct horse", Database: "DB01"})
		if err != nil {
			t.Fatal(err)
		}
		p.boxes[a] = r.Ref()
	}
	for n := range 3 {
		p.accepts(n + 1)
	}
	return p
}

// accepts waits until a server sees two others that can hold copies.
func (p *posted) accepts(n int) {
	p.t.Helper()
	eventually(p.t, fmt.Sprintf("MBX%d sees where copies can be", n), func() bool {
		rows, _ := p.queue(n, fmt.Sprintf("MBX%d", n))
		return len(rows) == 1 && rows[0].Accepting && len(rows[0].Copies) == 2
	})
}

func (p *posted) queue(asked int, of string) ([]transport.QueueRow, error) {
	v, err := p.Server(asked).Command(p.t.Context(), "queue status", `{"server":"`+of+`"}`)
	rows, _ := v.([]transport.QueueRow)
	return rows, err
}

// submission is a message with a number.
func submission(n int, to ...string) (mail.Submission, string) {
	id := fmt.Sprintf("%d@example.test", n)
	now := time.Now()
	s := mail.Submission{Trace: mail.NewTraceID(now), Received: now, Priority: mail.PriorityNormal,
		Origin:   mail.Origin{Door: "receive", Remote: "192.0.2.1"},
		Envelope: mail.Envelope{From: "someone@elsewhere.test"},
		Body:     fmt.Appendf(nil, "From: someone@elsewhere.test\r\nTo: %s\r\nSubject: number %d\r\nMessage-ID: <%s>\r\n\r\nBody %d\r\n", to[0], n, id, n)}
	for _, a := range to {
		s.Envelope.Recipients = append(s.Envelope.Recipients, mail.EnvelopeRecipient{Address: a})
	}
	s.Identity = sha256.Sum256(s.Body)
	return s, id
}

// send has a server accept a message that was not sent before.
func (p *posted) send(ctx context.Context, n int, to string) (mail.Receipt, error) {
	p.mu.Lock()
	m, id := submission(p.next, to)
	p.next++
	p.mu.Unlock()
	r, err := p.Server(n).Accept(ctx, m)
	if err == nil {
		p.confirmed(id, to)
	}
	return r, err
}

func (p *posted) confirmed(id, to string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to[id] = to
}

func (p *posted) mustSend(n int, to string) mail.Receipt {
	p.t.Helper()
	r, err := p.send(p.t.Context(), n, to)
	if err != nil {
		p.t.Fatalf("MBX%d: %v", n, err)
	}
	return r
}

// arrived waits until each confirmed message is in its mailbox, and sees to it
// that nothing is there twice.
func (p *posted) arrived(n int) {
	p.t.Helper()
	p.mu.Lock()
	want := maps.Clone(p.to)
	p.mu.Unlock()
	got := map[string]map[string]int{}
	missing := ""
	defer func() {
		if p.t.Failed() {
			p.t.Logf("missing at the end: %q", missing)
		}
	}()
	eventually(p.t, "all messages are in the mailboxes", func() bool {
		for a, ref := range p.boxes {
			got[a] = p.Server(n).holds(p.t, ref)
		}
		missing = ""
		for id, to := range want {
			if got[to][id] == 0 {
				missing = id
				return false
			}
		}
		return true
	})
	for a, ids := range got {
		for id, times := range ids {
			if times != 1 {
				p.t.Errorf("%s has %s %d times", a, id, times)
			}
			if to, ok := want[id]; ok && to != a {
				p.t.Errorf("%s has %s, which is for %s", a, id, to)
			}
		}
	}
}

// settled waits until no queue has work left, and compares the ledgers with
// what they name.
func (p *posted) settled(n int) {
	p.t.Helper()
	var rows []transport.QueueRow
	eventually(p.t, "nothing is unfinished", func() bool {
		rows, _ = p.queue(n, "")
		for _, r := range rows {
			if r.Error != "" || r.Unfinished != 0 || r.Reconciling != 0 {
				return false
			}
		}
		return len(rows) == 3
	})
	v, err := p.Server(n).Command(p.t.Context(), "queue verify", "")
	if err != nil {
		p.t.Errorf("queue verify: %v: %+v", err, v)
	}
}

// hold keeps servers from delivering what waits for DB01.
func (p *posted) hold(servers ...int) {
	p.t.Helper()
	for _, n := range servers {
		p.mustRun(p.t, n, "queue suspend", fmt.Sprintf(`{"destination":"db:DB01","server":"MBX%d"}`, n))
	}
	for _, n := range servers {
		eventually(p.t, fmt.Sprintf("MBX%d holds back", n), func() bool { return p.holdsBack(n) })
	}
}

// release ends hold.
func (p *posted) release(asked int) {
	p.t.Helper()
	p.mustRun(p.t, asked, "queue resume", `{"destination":"db:DB01"}`)
}

// holdsBack tells whether the schedule of a server has heard that DB01 is to
// wait: a message that is sent now is counted as suspended there.
func (p *posted) holdsBack(n int) bool {
	p.t.Helper()
	p.mustSend(n, "bob@example.test")
	for _, d := range p.mustRun(p.t, n, "queue list", fmt.Sprintf(`{"server":"MBX%d"}`, n)).([]transport.DestRow) {
		if d.Dest == "db:DB01" && d.Suspended > 0 {
			return true
		}
	}
	return false
}

// holds counts what a mailbox has, by Message-ID.
func (s *Server) holds(t *testing.T, at org.MailboxRef) map[string]int {
	t.Helper()
	out := map[string]int{}
	fs, err := s.Store().Folders(t.Context(), at)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range fs {
		for from := mail.UID(1); ; {
			ms, err := s.Store().Messages(t.Context(), at, mail.MessagesRequest{Folder: f.ID, UIDs: []mail.UIDRange{{First: from, Last: 1<<32 - 1}}, Summaries: true})
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range ms.Messages {
				out[m.Summary.Envelope.MessageID]++
				from = m.UID + 1
			}
			if !ms.More {
				break
			}
		}
	}
	return out
}

func TestPostDelivers(t *testing.T) {
	p := newPosted(t, Options{})
	for i := range 30 {
		r := p.mustSend(1+i%3, []string{"ann@example.test", "bob@example.test"}[i%2])
		if r.Shadow == "" {
			t.Errorf("message %d has no second copy", i)
		}
	}
	p.arrived(2)
	p.settled(3)
}

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
