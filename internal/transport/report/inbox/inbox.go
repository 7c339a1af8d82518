package inbox

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/base/message"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
	"github.com/postern-mail/postern/internal/transport/authn"
)

// Limits of one question.
const (
	MaxMessages = 2_000
	MaxRows     = 10_000
	maxMessage  = 16 << 20 // bytes; a larger message is not looked at
	page        = 100
)

// Store is what is asked of mailboxes; every mail.Store is one.
type Store interface {
	Folders(ctx context.Context, at org.MailboxRef) ([]mail.Folder, error)
	Search(ctx context.Context, at org.MailboxRef, r mail.SearchRequest) (mail.Found, error)
	Messages(ctx context.Context, at org.MailboxRef, r mail.MessagesRequest) (mail.Messages, error)
	Body(ctx context.Context, at org.MailboxRef, r mail.BodyRequest) ([]byte, error)
}

// Filter chooses reports.
type Filter struct {
	Folder string    // INBOX if empty
	Domain string    // only about this one, in its one spelling; empty for all
	Since  time.Time // reports that came since
}

// Source is what reports say of mail in the name of a domain that came from an
// address.
type Source struct {
	Domain      string     `json:"domain" col:"DOMAIN"`
	Source      netip.Addr `json:"source" col:"SOURCE"`
	Messages    uint64     `json:"messages" col:"MESSAGES"`
	Passed      uint64     `json:"passed" col:"PASSED"` // DMARC
	DKIM        uint64     `json:"dkim" col:"DKIM"`     // aligned and passed
	SPF         uint64     `json:"spf" col:"SPF"`
	Quarantined uint64     `json:"quarantined" col:"QUARANTINED"`
	Rejected    uint64     `json:"rejected" col:"REJECTED"`
	Reporters   []string   `json:"reporters" col:"REPORTERS"`
	First       time.Time  `json:"first" col:"-"`
	Last        time.Time  `json:"last" col:"LAST"`
}

// Sessions is what reports say of TLS with the hosts of a domain.
type Sessions struct {
	Domain    string    `json:"domain" col:"DOMAIN"`
	Policy    string    `json:"policy" col:"POLICY"`
	Result    string    `json:"result" col:"RESULT"` // success, or a result-type of RFC 8460
	Host      string    `json:"host,omitempty" col:"HOST"`
	Sessions  uint64    `json:"sessions" col:"SESSIONS"`
	Reporters []string  `json:"reporters" col:"REPORTERS"`
	Last      time.Time `json:"last" col:"LAST"`
}

// Read says what a question went over.
type Read struct {
	Reports  int  // that counted
	Bad      int  // messages with something like a report that is none
	Unproven int  // messages that failed DMARC when they came
	Cut      bool // there is more than the limits let through
}

const maxReporters = 20 // of a row

func addReporter(list []string, name string) []string {
	if len(list) >= maxReporters || slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

// DMARC sums up the aggregate reports in a mailbox, the sources with most
// failures first.
func DMARC(ctx context.Context, s Store, at org.MailboxRef, f Filter) ([]Source, Read, error) {
	type key struct {
		domain string
		source netip.Addr
	}
	rows := map[key]*Source{}
	q := question{store: s, at: at, filter: f, seen: map[string]bool{}}
	err := q.each(ctx, func(doc []byte) error {
		r, err := parseDMARC(doc)
		if err != nil || !q.counts("dmarc", r.Domain, r.Reporter, r.ID) {
			return err
		}
		for _, rec := range r.Records {
			k := key{r.Domain, rec.Source}
			row := rows[k]
			if row == nil {
				if len(rows) == MaxRows {
					q.read.Cut = true
					continue
				}
				row = &Source{Domain: r.Domain, Source: rec.Source, First: r.Begin}
				rows[k] = row
			}
			row.add(r, rec)
		}
		return nil
	})
	out := make([]Source, 0, len(rows))
	for _, row := range rows {
		slices.Sort(row.Reporters)
		out = append(out, *row)
	}
	slices.SortFunc(out, func(a, b Source) int {
		return cmp.Or(cmp.Compare(b.Messages-b.Passed, a.Messages-a.Passed), cmp.Compare(b.Messages, a.Messages), strings.Compare(a.Domain, b.Domain), a.Source.Compare(b.Source))
	})
	return out, q.read, err
}

func (s *Source) add(r dmarcReport, rec dmarcRecord) {
	s.Messages += rec.Count
	for _, c := range []struct {
		yes bool
		n   *uint64
	}{{rec.DKIM || rec.SPF, &s.Passed}, {rec.DKIM, &s.DKIM}, {rec.SPF, &s.SPF}, {rec.Quarantined, &s.Quarantined}, {rec.Rejected, &s.Rejected}} {
		if c.yes {
			*c.n += rec.Count
		}
	}
	s.Reporters = addReporter(s.Reporters, r.Reporter)
	if r.Begin.Before(s.First) {
		s.First = r.Begin
	}
	if r.End.After(s.Last) {
		s.Last = r.End
	}
}

// TLS sums up the TLS reports in a mailbox, failures first.
func TLS(ctx context.Context, s Store, at org.MailboxRef, f Filter) ([]Sessions, Read, error) {
	type key struct{ domain, policy, result, host string }
	rows := map[key]*Sessions{}
	q := question{store: s, at: at, filter: f, seen: map[string]bool{}}
	add := func(r tlsReport, k key, n uint64) {
		row := rows[k]
		if n == 0 {
			return
		}
		if row == nil {
			if len(rows) == MaxRows {
				q.read.Cut = true
				return
			}
			row = &Sessions{Domain: k.domain, Policy: k.policy, Result: k.result, Host: k.host}
			rows[k] = row
		}
		row.Sessions += n
		row.Reporters = addReporter(row.Reporters, r.Reporter)
		if r.Range.End.After(row.Last) {
			row.Last = r.Range.End.UTC()
		}
	}
	err := q.each(ctx, func(doc []byte) error {
		r, err := parseTLS(doc)
		if err != nil || !slices.ContainsFunc(r.Policies, func(p tlsPolicy) bool { return q.about(p.Policy.Domain) }) ||
			!q.counts("tls", q.filter.Domain, r.Reporter, r.ID) {
			return err
		}
		for _, p := range r.Policies {
			if !q.about(p.Policy.Domain) {
				continue
			}
			k := key{domain: p.Policy.Domain, policy: p.Policy.Type}
			k.result = "success"
			add(r, k, p.Summary.Good)
			rest := p.Summary.Failed
			for _, x := range p.Failures {
				k.result, k.host = x.Result, x.Host
				add(r, k, x.Count)
				rest -= min(rest, x.Count)
			}
			k.result, k.host = "not said", ""
			add(r, k, rest)
		}
		return nil
	})
	out := make([]Sessions, 0, len(rows))
	for _, row := range rows {
		slices.Sort(row.Reporters)
		out = append(out, *row)
	}
	good := func(s Sessions) int { return map[bool]int{true: 1}[s.Result == "success"] }
	slices.SortFunc(out, func(a, b Sessions) int {
		return cmp.Or(good(a)-good(b), cmp.Compare(b.Sessions, a.Sessions), strings.Compare(a.Domain, b.Domain), strings.Compare(a.Policy, b.Policy),
			strings.Compare(a.Result, b.Result), strings.Compare(a.Host, b.Host))
	})
	return out, q.read, err
}

// question is one on its way through a mailbox.
type question struct {
	store  Store
	at     org.MailboxRef
	filter Filter
	seen   map[string]bool // reports
	read   Read
}

func (q *question) about(domain string) bool {
	return q.filter.Domain == "" || q.filter.Domain == domain
}

// counts tells whether a report is one that was asked for and not seen before.
func (q *question) counts(what, domain, reporter, id string) bool {
	k := strings.Join([]string{what, domain, reporter, id}, "\x00")
	if !q.about(domain) || q.seen[k] {
		return false
	}
	q.seen[k] = true
	q.read.Reports++
	return true
}

// each gives the documents of the messages that were asked for, newest first.
func (q *question) each(ctx context.Context, f func(doc []byte) error) error {
	folders, err := q.store.Folders(ctx, q.at)
	if err != nil {
		return fmt.Errorf("read reports: %w", err)
	}
	name := cmp.Or(q.filter.Folder, "INBOX")
	i := slices.IndexFunc(folders, func(f mail.Folder) bool { return f.Name == name })
	if i < 0 {
		return kind.Errorf(kind.NotFound, "read reports: the mailbox has no folder %.80q", name)
	}
	var c mail.Criteria
	if !q.filter.Since.IsZero() {
		c.Since = q.filter.Since.Unix()
	}
	found, err := q.store.Search(ctx, q.at, mail.SearchRequest{Folder: folders[i].ID, Criteria: c})
	if err != nil {
		return fmt.Errorf("read reports: %w", err)
	}
	if n := len(found.UIDs); n > MaxMessages {
		found.UIDs, q.read.Cut = found.UIDs[n-MaxMessages:], true
	}
	slices.Reverse(found.UIDs)
	for some := range slices.Chunk(found.UIDs, page) {
		if err := q.some(ctx, folders[i].ID, some, f); err != nil {
			return err
		}
	}
	return nil
}

// some reads messages.
func (q *question) some(ctx context.Context, folder mail.FolderID, uids []mail.UID, f func(doc []byte) error) error {
	var ranges []mail.UIDRange
	for _, u := range uids {
		ranges = append(ranges, mail.UIDRange{First: u, Last: u})
	}
	slices.SortFunc(ranges, func(a, b mail.UIDRange) int { return cmp.Compare(a.First, b.First) })
	for len(ranges) > 0 {
		got, err := q.store.Messages(ctx, q.at, mail.MessagesRequest{Folder: folder, UIDs: ranges})
		if err != nil {
			return fmt.Errorf("read reports: %w", err)
		}
		for _, m := range got.Messages {
			if m.Size > maxMessage {
				q.read.Bad++
				continue
			}
			body, err := q.body(ctx, m)
			if err != nil {
				return fmt.Errorf("read reports: %w", err)
			}
			if failed(body) {
				q.read.Unproven++
				continue
			}
			bad := false
			for _, doc := range documents(body) {
				err := f(doc)
				bad = bad || err != nil && !kind.Is(err, kind.NotFound)
			}
			if bad {
				q.read.Bad++
			}
		}
		if !got.More || len(got.Messages) == 0 {
			return nil
		}
		last := got.Messages[len(got.Messages)-1].UID
		ranges = slices.DeleteFunc(ranges, func(r mail.UIDRange) bool { return r.Last <= last })
	}
	return nil
}

// failed tells whether a message failed DMARC when it came: the topmost field
// with results is that of our door.
func failed(msg []byte) bool {
	all := message.Named(msg, "authentication-results")
	if len(all) == 0 {
		return false
	}
	r, err := authn.ParseAuthResults(all[0].Value(msg))
	return err == nil && slices.ContainsFunc(r.Methods, func(m authn.Method) bool { return m.Name == "dmarc" && m.Result == authn.Fail })
}

// body reads a message, which the store gives in pieces.
func (q *question) body(ctx context.Context, m mail.Message) ([]byte, error) {
	out := make([]byte, 0, m.Size)
	for int64(len(out)) < m.Size {
		some, err := q.store.Body(ctx, q.at, mail.BodyRequest{Blob: m.Blob, Offset: int64(len(out)), Length: m.Size - int64(len(out))})
		if err != nil {
			return nil, err
		}
		if len(some) == 0 {
			return nil, kind.Errorf(kind.Corrupt, "a message ends after %d of %d bytes", len(out), m.Size)
		}
		out = append(out, some...)
	}
	return out, nil
}
