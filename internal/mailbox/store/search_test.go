package store

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
	"github.com/postern-mail/postern/internal/org"
)

// searched is a folder with four messages.
func searched(t testing.TB) (*bench, mail.Folder, Fetch) {
	b := newBench(t)
	b.setup(box1())
	for i, m := range []struct {
		body  string
		flags mail.Flags
		words []string
	}{
		{"From: Ann <ann@example.test>\nSubject: =?iso-8859-1?q?Caf=E9?= bill\nDate: Mon, 1 Jan 2024 10:00:00 +0000\nX-Tag: One\n\nplain Straße\n", mail.Seen, nil},
		{"From: Bob <bob@example.test>\nTo: ann@example.test\nSubject: second\nContent-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\nSGVsbG8gV8O2cmxk\n", 0, []string{"Work"}},
		{"Subject: third\nContent-Type: multipart/mixed; boundary=b\n\n--b\n\nfirst part\n--b\nContent-Type: message/rfc822\n\nSubject: inner subject\n\ninner text\n--b\nContent-Type: image/png\n\nhello in a picture\n--b--\n", mail.Flagged | mail.Deleted, nil},
		{"X-Empty:\nSubject: a very\n folded subject\n\n", mail.Seen, []string{"work", "b"}},
	} {
		b.must(&AppendReq{Mailbox: box1(), Append: mail.Append{
			Folder: inbox, Body: []byte(strings.ReplaceAll(m.body, "\n", "\r\n")), Flags: m.flags, Keywords: m.words,
			InternalDate: int64(1_700_000_000+100*i) * 1e9,
		}})
	}
	f := b.folder(box1(), inbox)
	return b, f, func(id mail.BlobID) ([]byte, error) {
		var lsn org.LSN
		b.read(func(r *Reader) { lsn, _, _ = r.Blob(id) })
		for _, rec := range b.log {
			if rec.LSN == lsn {
				return rec.Body, nil
			}
		}
		return nil, kind.Errorf(kind.NotFound, "blob %d", id)
	}
}

func TestSearch(t *testing.T) {
	type c = mail.Criteria
	b, f, fetch := searched(t)
	header := func(name, value string) c { return c{Header: []mail.HeaderMatch{{Name: name, Value: value}}} }
	for i, test := range []struct {
		c    c
		want []mail.UID
	}{
		{c{}, []mail.UID{1, 2, 3, 4}},
		{c{Flags: mail.Seen}, []mail.UID{1, 4}},
		{c{NotFlags: mail.Seen}, []mail.UID{2, 3}},
		{c{Keywords: []string{"WORK"}}, []mail.UID{2, 4}},
		{c{NotKeywords: []string{"work"}}, []mail.UID{1, 3}},
		{c{UIDs: [][]mail.UIDRange{{{First: 4, Last: 2}}, {{First: 1, Last: 3}}}}, []mail.UID{2, 3}},
		{c{UIDs: [][]mail.UIDRange{{}}}, nil},
		{c{Since: 1_700_000_100, Before: 1_700_000_300}, []mail.UID{2, 3}},
		{c{SentBefore: 1_705_000_000, SentSince: 1_704_000_000}, []mail.UID{1}},
		{c{Larger: 200}, []mail.UID{3}},
		{c{Smaller: 60}, []mail.UID{4}},
		{header("Subject", "CAFÉ"), []mail.UID{1}},
		{header("Subject", "very folded"), []mail.UID{4}},
		{header("from", "bob@EXAMPLE"), []mail.UID{2}},
		{header("to", "ann"), []mail.UID{2}},
		{header("x-tag", "one"), []mail.UID{1}},
		{header("x-empty", ""), []mail.UID{4}},
		{header("date", ""), []mail.UID{1}},
		{c{Body: []string{"STRASSE"}}, []mail.UID{1}},
		{c{Body: []string{"wörld"}}, []mail.UID{2}},
		{c{Body: []string{"inner text"}}, []mail.UID{3}},
		{c{Body: []string{"inner subject"}}, []mail.UID{3}},
		{c{Body: []string{"picture"}}, nil},
		{c{Text: []string{"x-tag: one"}}, []mail.UID{1}},
		{c{Text: []string{"café", "plain"}}, []mail.UID{1}},
		{c{ModSeq: 4}, []mail.UID{3, 4}},
		{c{Not: []c{{Flags: mail.Seen}, {Body: []string{"hello"}}}}, []mail.UID{3}},
		{c{Or: [][2]c{{{Flags: mail.Flagged}, header("subject", "second")}}}, []mail.UID{2, 3}},
		{c{Not: []c{{Or: [][2]c{{{Flags: mail.Seen}, {Keywords: []string{"work"}}}}}}}, []mail.UID{3}},
	} {
		b.read(func(r *Reader) {
			got, err := r.Search(t.Context(), box1(), mail.SearchRequest{Folder: f.ID, Criteria: test.c}, fetch)
			if err != nil || !slices.Equal(got.UIDs, test.want) {
				t.Errorf("%d %+v: %v, want %v (%v)", i, test.c, got.UIDs, test.want, err)
			}
		})
	}
}

func TestSearchLimits(t *testing.T) {
	b, f, fetch := searched(t)
	deep := mail.Criteria{Flags: mail.Seen}
	for range maxSearchDepth {
		deep = mail.Criteria{Not: []mail.Criteria{deep}}
	}
	wide := mail.Criteria{Not: make([]mail.Criteria, maxSearchTerms)}
	b.read(func(r *Reader) {
		for _, c := range []mail.Criteria{deep, wide} {
			_, err := r.Search(t.Context(), box1(), mail.SearchRequest{Folder: f.ID, Criteria: c}, fetch)
			wantKind(t, err, kind.Invalid)
		}
		_, err := r.Search(t.Context(), box1(), mail.SearchRequest{Folder: 99}, fetch)
		wantKind(t, err, kind.NotFound)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err = r.Search(ctx, box1(), mail.SearchRequest{Folder: f.ID}, fetch)
		wantKind(t, err, kind.Busy)
		broken := func(mail.BlobID) ([]byte, error) { return nil, kind.Errorf(kind.Corrupt, "no") }
		_, err = r.Search(t.Context(), box1(), mail.SearchRequest{Folder: f.ID, Criteria: mail.Criteria{Body: []string{"x"}}}, broken)
		wantKind(t, err, kind.Corrupt)
	})
}

func TestMessagesPages(t *testing.T) {
	b := newBench(t)
	b.setup(box1())
	for i := range 30 {
		b.must(delivery(fmt.Sprint(i), box1()))
	}
	f := b.folder(box1(), inbox)
	b.must(&FlagsReq{Mailbox: box1(), FlagsChange: mail.FlagsChange{Folder: f.ID, Op: "add", Flags: mail.Seen,
		UIDs: []mail.UIDRange{{First: 5, Last: 6}, {First: 20, Last: 20}}}})
	b.must(&ExpungeReq{Mailbox: box1(), Expunge: mail.Expunge{Folder: f.ID, UIDs: []mail.UIDRange{{First: 10, Last: 12}}}})
	since := f.HighestModSeq
	b.apply()
	list := func(q mail.MessagesRequest) (out []mail.UID, more bool) {
		q.Folder = f.ID
		b.read(func(r *Reader) {
			page, err := r.Messages(box1(), q)
			if err != nil {
				t.Fatal(err)
			}
			more = page.More
			for _, m := range page.Messages {
				out = append(out, m.UID)
			}
		})
		return out, more
	}
	for _, c := range []struct {
		q    mail.MessagesRequest
		want string
	}{
		{mail.MessagesRequest{Limit: 3}, "[1 2 3] true"},
		{mail.MessagesRequest{UIDs: []mail.UIDRange{{First: 9, Last: 13}}}, "[9 13] false"},
		{mail.MessagesRequest{UIDs: []mail.UIDRange{{First: 29, Last: 1<<32 - 1}, {First: 1, Last: 1}, {First: 1, Last: 2}}}, "[1 2 29 30] false"},
		{mail.MessagesRequest{ChangedSince: since}, "[5 6 20] false"},
		{mail.MessagesRequest{ChangedSince: since, UIDs: []mail.UIDRange{{First: 6, Last: 40}}, Limit: 1}, "[6] true"},
		{mail.MessagesRequest{ChangedSince: since + 100}, "[] false"},
		{mail.MessagesRequest{UIDs: []mail.UIDRange{}}, "[] false"},
	} {
		got, more := list(c.q)
		if s := fmt.Sprint(got, more); s != c.want {
			t.Errorf("%+v: %s, want %s", c.q, s, c.want)
		}
	}
	b.read(func(r *Reader) {
		uids, err := r.UIDs(box1(), f.ID)
		if err != nil || fmt.Sprint(uids) != "[{1 9} {13 30}]" {
			t.Errorf("uids %v: %v", uids, err)
		}
	})
}
