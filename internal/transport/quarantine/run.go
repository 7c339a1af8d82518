package quarantine

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/cluster"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/settings"
)

const (
	turn        = time.Hour
	digestEvery = 24 * time.Hour
	// maxLines are the messages one digest names.
	maxLines = 100
	// maxDigests are the people of an organization that get one in a day.
	maxDigests = 10_000

	// DigestPrefix is where the agreed state says how far digests were sent.
	DigestPrefix = "transport/digest/"
)

// Run deletes what is too old and sends digests, every hour. Every server may
// run it: each step may be repeated.
func (q *Quarantine) Run(ctx context.Context) error {
	for {
		t := time.NewTimer(turn + rand.N(turn/10))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		for _, o := range q.d.Boxes.OrganizationIDs() {
			if ctx.Err() != nil {
				return nil
			}
			if _, ok := q.d.Boxes.FindSystemMailbox(o, Purpose); !ok {
				continue
			}
			if _, err := q.Expire(ctx, o); err != nil {
				q.d.Log.Warn("quarantine is cleaned later", "organization", o, "error", err)
			}
			if _, err := q.Digest(ctx, o); err != nil {
				q.d.Log.Warn("digests are sent later", "organization", o, "error", err)
			}
		}
	}
}

// Expire deletes what an organization has kept for longer than its policy says,
// and tells how many messages that were.
func (q *Quarantine) Expire(ctx context.Context, o org.OrganizationID) (int, error) {
	b, ok, err := q.open(ctx, o)
	if err != nil || !ok {
		return 0, err
	}
	before := q.d.Now().AddDate(0, 0, -q.d.Book.Policy(o).QuarantineDays).Unix()
	found, err := q.d.Store.Search(ctx, b.at, mail.SearchRequest{Folder: b.folder, Criteria: mail.Criteria{Before: before}})
	if err != nil || len(found.UIDs) == 0 {
		return 0, err
	}
	return len(found.UIDs), q.expunge(ctx, b, found.UIDs)
}

// sent says how far digests of an organization were sent.
type sent struct {
	Until time.Time `json:"until"`
}

// Digest tells the people of an organization what came into quarantine for them
// since the last one, once a day where its policy asks for it, and tells how many
// were written. Malware is left out: nobody has to see it.
func (q *Quarantine) Digest(ctx context.Context, o org.OrganizationID) (int, error) {
	if !q.d.Book.Policy(o).QuarantineDigest {
		return 0, nil
	}
	now := q.d.Now().UTC().Truncate(time.Second)
	key := DigestPrefix + string(o)
	last, revision, err := settings.Read[sent](q.d.Agreed.View(), key)
	if err != nil {
		return 0, err
	}
	if last.Until.IsZero() || now.Sub(last.Until) > 2*digestEvery {
		last.Until = now.Truncate(digestEvery).Add(-digestEvery) // the first one, or one after a pause
	} else if now.Sub(last.Until) < digestEvery {
		return 0, nil
	}
	all, err := q.List(ctx, o, Filter{Since: last.Until, Limit: MaxList})
	if err != nil {
		return 0, err
	}
	n := 0
	for _, s := range digests(o, all, last.Until, now) {
		// Another server may do the same: the identity makes it one message.
		if _, err := q.d.Submit(ctx, s); err != nil {
			return n, fmt.Errorf("send digest of %s: %w", o, err)
		}
		n++
	}
	var t settings.Txn
	if err := t.Put(key, revision, sent{now}); err != nil {
		return n, err
	}
	_, err = q.d.Agreed.Commit(ctx, cluster.Txn(t.Txn))
	return n, err
}

// digests writes a message to each person that has something in quarantine.
func digests(o org.OrganizationID, all []Entry, since, now time.Time) []mail.Submission {
	lines := map[string][]Entry{}
	for _, e := range all {
		if e.Malware || e.Received.After(now) {
			continue
		}
		for _, r := range e.Envelope.Recipients {
			a, err := mail.ParseAddress(r.Address)
			if err == nil && e.Origin.Organization != o { // what people sent themselves is not waiting for them
				lines[a.Key()] = append(lines[a.Key()], e)
			}
		}
	}
	var out []mail.Submission
	for to, entries := range lines {
		if len(out) == maxDigests {
			break
		}
		out = append(out, digestFor(o, to, entries, since, now))
	}
	slices.SortFunc(out, func(a, b mail.Submission) int {
		return strings.Compare(a.Envelope.Recipients[0].Address, b.Envelope.Recipients[0].Address)
	})
	return out
}

func digestFor(o org.OrganizationID, to string, entries []Entry, since, now time.Time) mail.Submission {
	id := digest("postern digest", string(o), to, since.Format(time.RFC3339))
	domain := to[strings.LastIndexByte(to, '@')+1:]
	var b strings.Builder
	for _, f := range [][2]string{
		{"From", "Quarantine <postmaster@" + domain + ">"}, {"To", to},
		{"Date", now.Format("Mon, 02 Jan 2006 15:04:05 -0700")}, {"Message-ID", fmt.Sprintf("<%x@%s>", id[:16], domain)},
		{"Subject", fmt.Sprintf("%d messages are kept in quarantine", len(entries))},
		{"Auto-Submitted", "auto-generated"}, {"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"}, {"Content-Transfer-Encoding", "8bit"},
	} {
		if line, err := message.Field(f[0], f[1]); err == nil { // an address that no field can hold gets no To
			b.Write(line)
		}
	}
	b.WriteString("\r\nThese messages for " + to + " were kept back. Ask your administrator,\r\nwith the identity of the message, if you want one of them.\r\n")
	for i, e := range entries {
		if i == maxLines {
			fmt.Fprintf(&b, "\r\nand %d more.\r\n", len(entries)-maxLines)
			break
		}
		fmt.Fprintf(&b, "\r\n%s\r\n  %s\r\n  From: %s\r\n  Subject: %s\r\n  Why: %s\r\n", e.ID,
			e.Received.UTC().Format("2006-01-02 15:04 UTC"), brief(e.Envelope.From), brief(e.Subject), brief(e.Reason))
	}
	return mail.Submission{Trace: mail.NewTraceID(now), Envelope: mail.Envelope{Recipients: []mail.EnvelopeRecipient{{Address: to, Notify: "NEVER"}}, EightBit: true},
		Origin: mail.Origin{Door: "internal", Organization: o}, Body: []byte(b.String()), Identity: id, Received: now, Priority: mail.PriorityLow}
}

// brief is a stranger's text in one line of a digest: no links to follow.
func brief(s string) string {
	s = strings.ReplaceAll(oneLine(s), "://", ": //")
	if len(s) > 200 {
		s = strings.ToValidUTF8(s[:200], "") + "..."
	}
	if s == "" {
		return "-"
	}
	return s
}
