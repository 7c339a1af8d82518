package quarantine

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/queue"
	"github.com/postern-mail/postern/internal/transport/settings"
)

const spam = "Received: from x\r\nX-Postern-Quarantine: forged\r\nFrom: s@spam.example\r\nSubject: win http://spam.example/\r\n\r\nbuy\r\n"

func rows(addresses ...string) (out []queue.RecipientRow) {
	for _, a := range addresses {
		r := queue.RecipientRow{Address: a}
		if strings.HasSuffix(a, "@red.example") {
			r.Organization = "red"
		} else if strings.HasSuffix(a, "@blue.example") {
			r.Organization = "blue"
		}
		out = append(out, r)
	}
	return out
}

func (w *world) put(t *testing.T, body, reason string, to ...string) mail.TraceID {
	t.Helper()
	m := queue.Message{ID: mail.NewTraceID(w.now), Received: w.now, Identity: [32]byte{1, 2, 3}, Envelope: mail.Envelope{From: "s@spam.example", EightBit: true}}
	for _, it := range Split(m, rows(to...), reason, 7.5) {
		for range 2 { // it may be repeated
			if err := w.Put(t.Context(), it, []byte(body)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return m.ID
}

func (w *world) list(t *testing.T, o org.OrganizationID, f Filter) []Entry {
	t.Helper()
	all, err := w.List(t.Context(), o, f)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func TestEachOrganizationHasItsOwn(t *testing.T) {
	w := newWorld()
	if got := w.list(t, "red", Filter{}); got != nil {
		t.Fatal(got)
	}
	if _, err := w.SystemMailbox(t.Context(), "red", Purpose); err != nil || w.list(t, "red", Filter{}) != nil {
		t.Fatal("a mailbox that its database has not heard of", err)
	}
	id := w.put(t, spam, "spam score 7.5", "a@red.example", "b@red.example", "c@blue.example", "d@elsewhere.example")
	red, blue := w.list(t, "red", Filter{}), w.list(t, "blue", Filter{})
	if len(red) != 1 || len(blue) != 1 || len(red[0].Envelope.Recipients) != 2 || blue[0].Envelope.Recipients[0].Address != "c@blue.example" {
		t.Fatalf("%+v\n%+v", red, blue)
	}
	e := red[0]
	if e.ID == id || e.Trace != id || e.Reason != "spam score 7.5" || e.Score != 7.5 || e.From != "s@spam.example" || !strings.HasPrefix(e.Subject, "win") ||
		e.Size != int64(len(spam)) || e.Envelope.From != "s@spam.example" || !e.Expires.Equal(noon.AddDate(0, 0, 30)) {
		t.Errorf("%+v", e)
	}
	_, head, err := w.Show(t.Context(), "red", id)
	if err != nil || !strings.HasPrefix(head, "Received: from x\r\n") || strings.Contains(head, "buy") {
		t.Errorf("%q, %v", head, err)
	}
	if _, _, err := w.Show(t.Context(), "red", mail.NewTraceID(noon)); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	if err := w.Delete(t.Context(), "red", id); err != nil || len(w.list(t, "red", Filter{})) != 0 || len(w.list(t, "blue", Filter{})) != 1 {
		t.Error(err)
	}
	if err := w.Delete(t.Context(), "red", id); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
}

func TestRelease(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	long := spam + strings.Repeat("0123456789\r\n", 50_000)
	id := w.put(t, long, "spam", "a@red.example", "b@red.example")
	if _, err := w.Release(ctx, "red", id, []string{"x@blue.example"}, true); !kind.Is(err, kind.Invalid) {
		t.Error(err)
	}
	if _, err := w.Release(ctx, "blue", id, nil, true); !kind.Is(err, kind.NotFound) {
		t.Error(err)
	}
	if _, err := w.Release(ctx, "red", id, []string{"A@red.example"}, false); err != nil {
		t.Fatal(err)
	}
	if len(w.list(t, "red", Filter{})) != 1 {
		t.Error("one has it, and it is gone for the other")
	}
	w.full = true
	if _, err := w.Release(ctx, "red", id, nil, false); !kind.Is(err, kind.Full) || len(w.list(t, "red", Filter{})) != 1 {
		t.Error(err)
	}
	w.full = false
	if _, err := w.Release(ctx, "red", id, nil, false); err != nil {
		t.Fatal(err)
	}
	if len(w.list(t, "red", Filter{})) != 0 || len(w.sent) != 2 {
		t.Fatal(len(w.sent))
	}
	one, all := w.sent[0], w.sent[1]
	if len(one.Envelope.Recipients) != 1 || len(all.Envelope.Recipients) != 2 || one.Identity != all.Identity || one.Identity == [32]byte{1, 2, 3} ||
		one.Trace == all.Trace || all.Origin.Door != Door || !all.Envelope.EightBit || all.Quarantine != "" {
		t.Errorf("%+v", one.Envelope)
	}
	if !bytes.Equal(all.Body, []byte(long)) {
		t.Error("it is not the message that came")
	}

	virus := w.put(t, spam, Malware+": Eicar", "a@red.example")
	if _, err := w.Release(ctx, "red", virus, nil, false); !kind.Is(err, kind.Denied) {
		t.Error(err)
	}
	if _, err := w.Release(ctx, "red", virus, nil, true); err != nil {
		t.Error(err)
	}
}

func TestListFiltersNewestFirst(t *testing.T) {
	w := newWorld()
	for i := range 7 {
		w.now = noon.Add(time.Duration(i) * time.Hour)
		w.put(t, spam, fmt.Sprintf("rule %d", i), fmt.Sprintf("p%d@red.example", i%2))
	}
	var reasons []string
	for _, e := range w.list(t, "red", Filter{Recipient: "P1@", Limit: 2}) {
		reasons = append(reasons, e.Reason)
	}
	if got := strings.Join(reasons, ","); got != "rule 5,rule 3" {
		t.Errorf("%s", got)
	}
	if got := w.list(t, "red", Filter{Since: noon.Add(5 * time.Hour)}); len(got) != 2 {
		t.Errorf("%d since then", len(got))
	}
	if got := w.list(t, "red", Filter{Reason: "nothing"}); len(got) != 0 {
		t.Errorf("%+v", got)
	}
	w.store.down = true
	if _, err := w.List(t.Context(), "red", Filter{}); !kind.Is(err, kind.Busy) {
		t.Error(err)
	}
}

// Recipients of one message may be kept back at different times.
func TestLaterRecipients(t *testing.T) {
	w := newWorld()
	m := queue.Message{ID: mail.NewTraceID(noon), Received: noon, Identity: [32]byte{1}, Envelope: mail.Envelope{From: "s@spam.example"}}
	for _, to := range []string{"a@red.example", "b@red.example", "a@red.example"} {
		for _, it := range Split(m, rows(to), "rule", 0) {
			if err := w.Put(t.Context(), it, []byte(spam)); err != nil {
				t.Fatal(err)
			}
		}
	}
	all := w.list(t, "red", Filter{})
	if len(all) != 2 || all[0].ID == all[1].ID {
		t.Fatalf("%+v", all)
	}
	for _, e := range all {
		if _, err := w.Release(t.Context(), "red", e.ID, nil, false); err != nil {
			t.Error(err)
		}
	}
	if len(w.sent) != 2 || w.sent[0].Identity == w.sent[1].Identity {
		t.Error(len(w.sent))
	}
}

// A message for many is kept in several entries, and one with a large header is read.
func TestManyRecipients(t *testing.T) {
	w := newWorld()
	var to []string
	for i := range 2*maxRecipients + 1 {
		to = append(to, fmt.Sprintf("somebody-with-a-long-name-%d@red.example", i))
	}
	id := w.put(t, spam, "spam", to...)
	all := w.list(t, "red", Filter{})
	if len(all) != 3 || all[0].Trace != id || all[0].ID == all[1].ID || all[1].ID == all[2].ID {
		t.Fatalf("%d entries", len(all))
	}
	for _, e := range all {
		if _, err := w.Release(t.Context(), "red", e.ID, nil, false); err != nil {
			t.Error(err)
		}
	}
	n := 0
	for _, s := range w.sent {
		n += len(s.Envelope.Recipients)
	}
	if n != len(to) {
		t.Errorf("released for %d", n)
	}
}

func TestExpire(t *testing.T) {
	w := newWorld()
	w.policy(t, settings.Policy{Organization: "red", QuarantineDays: 2})
	w.put(t, spam, "spam", "a@red.example")
	w.now = noon.AddDate(0, 0, 1)
	w.put(t, spam, "spam", "a@red.example")
	w.now = noon.AddDate(0, 0, 2).Add(time.Minute)
	if n, err := w.Expire(t.Context(), "red"); err != nil || n != 1 || len(w.list(t, "red", Filter{})) != 1 {
		t.Error(n, err)
	}
	if n, err := w.Expire(t.Context(), "blue"); err != nil || n != 0 || len(w.refs) != 1 {
		t.Error("a quarantine is made to be cleaned", n, err)
	}
}

func TestDigest(t *testing.T) {
	w := newWorld()
	ctx := t.Context()
	w.put(t, spam, "spam", "a@red.example", "b@red.example")
	w.put(t, spam, Malware+": Eicar", "a@red.example")
	if n, err := w.Digest(ctx, "red"); n != 0 || err != nil {
		t.Fatal("nobody asked for one", n, err)
	}
	w.policy(t, settings.Policy{Organization: "red", QuarantineDigest: true})
	w.now = noon.Add(time.Hour)
	if n, err := w.Digest(ctx, "red"); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	s := w.sent[0]
	body := string(s.Body)
	if s.Envelope.From != "" || s.Envelope.Recipients[0].Address != "a@red.example" || !strings.Contains(body, "Subject: 1 messages") ||
		!strings.Contains(body, "Why: spam\r\n") || strings.Contains(body, "Eicar") || strings.Contains(body, "http://") {
		t.Errorf("%s", body)
	}
	w.now = noon.Add(2 * time.Hour)
	w.put(t, spam, "spam", "b@red.example")
	if n, err := w.Digest(ctx, "red"); n != 0 || err != nil {
		t.Error("twice a day", n, err)
	}
	w.now = noon.Add(26 * time.Hour)
	if n, err := w.Digest(ctx, "red"); n != 1 || err != nil {
		t.Error(n, err)
	}
	if w.sent[2].Envelope.Recipients[0].Address != "b@red.example" || w.sent[2].Identity == w.sent[1].Identity {
		t.Errorf("%+v", w.sent[2])
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld()
		w.d.Now = time.Now
		w.now = time.Now()
		w.put(t, spam, "spam", "a@red.example")
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- w.Run(ctx) }()
		time.Sleep(29 * 24 * time.Hour)
		synctest.Wait()
		if len(w.list(t, "red", Filter{})) != 1 {
			t.Error("it is gone early")
		}
		time.Sleep(26 * time.Hour)
		synctest.Wait()
		if len(w.list(t, "red", Filter{})) != 0 {
			t.Error("it stays")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
