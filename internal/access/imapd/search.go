package imapd

import (
	"context"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/mail"
)

// nobody is a set that holds no message: there is no UID 0.
func nobody() []mail.UIDRange { return []mail.UIDRange{{}} }

// Search implements imapserver.Session.
func (s *session) Search(numKind imapserver.NumKind, criteria *imap.SearchCriteria, o *imap.SearchOptions) (*imap.SearchData, error) {
	if s.sel == nil {
		return nil, errNothingSelected
	}
	c, err := s.criteria(criteria)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(s.srv.ctx, s.srv.cfg.SearchTimeout.Std())
	defer cancel()
	found, err := s.srv.deps.Store.Search(ctx, s.account.Mailbox, mail.SearchRequest{Folder: s.sel.folder, Criteria: c})
	if err != nil {
		if o.ReturnSave {
			s.sel.saved = nil // RFC 9051 section 6.4.4.1
		}
		return nil, s.answer("search", err)
	}
	return s.searchData(numKind, found.UIDs, o), nil
}

// searchData puts the messages the client knows into numbers.
func (s *session) searchData(numKind imapserver.NumKind, found []mail.UID, o *imap.SearchOptions) *imap.SearchData {
	data := &imap.SearchData{}
	var seqs imap.SeqSet
	var uids []mail.UIDRange
	for _, u := range found {
		seq := s.sel.uids.Seq(u)
		if seq == 0 {
			continue
		}
		data.Count++
		n := uint32(u)
		if numKind == imapserver.NumKindSeq {
			n = seq
			if k := len(seqs); k > 0 && seqs[k-1].Stop+1 == seq {
				seqs[k-1].Stop = seq
			} else {
				seqs = append(seqs, imap.SeqRange{Start: seq, Stop: seq})
			}
		}
		if k := len(uids); k > 0 && uids[k-1].Last+1 == u {
			uids[k-1].Last = u
		} else {
			uids = append(uids, mail.UIDRange{First: u, Last: u})
		}
		if data.Min == 0 {
			data.Min = n
		}
		data.Max = n
	}
	if o.ReturnSave {
		s.sel.saved = savedOf(uids, o)
	}
	if numKind == imapserver.NumKindSeq {
		data.All = seqs
		return data
	}
	all := make(imap.UIDSet, len(uids))
	for i, r := range uids {
		all[i] = imap.UIDRange{Start: imap.UID(r.First), Stop: imap.UID(r.Last)}
	}
	data.All = all
	return data
}

// savedOf is what SAVE keeps: with MIN or MAX and without ALL and COUNT just
// those (RFC 9051 section 6.4.4.1).
func savedOf(uids []mail.UIDRange, o *imap.SearchOptions) []mail.UIDRange {
	if len(uids) == 0 || o.ReturnAll || o.ReturnCount || !o.ReturnMin && !o.ReturnMax {
		return uids
	}
	var out []mail.UIDRange
	if first := uids[0].First; o.ReturnMin {
		out = append(out, mail.UIDRange{First: first, Last: first})
	}
	if last := uids[len(uids)-1].Last; o.ReturnMax {
		out = append(out, mail.UIDRange{First: last, Last: last})
	}
	return unionRanges(out)
}

// criteria puts search keys into the words of the store. The depth was
// bounded when they were read.
func (s *session) criteria(in *imap.SearchCriteria) (mail.Criteria, error) {
	out := mail.Criteria{
		Since: dayOf(in.Since), Before: dayOf(in.Before), SentSince: dayOf(in.SentSince), SentBefore: dayOf(in.SentBefore),
		Larger: in.Larger, Smaller: in.Smaller, Body: in.Body, Text: in.Text,
	}
	for _, set := range in.SeqNum {
		s.addSet(&out, set)
	}
	for _, set := range in.UID {
		s.addSet(&out, set)
	}
	for _, f := range in.Flag {
		s.addFlag(&out, f, true)
	}
	for _, f := range in.NotFlag {
		s.addFlag(&out, f, false)
	}
	texts := append(in.Body[:len(in.Body):len(in.Body)], in.Text...)
	for _, h := range in.Header {
		out.Header = append(out.Header, mail.HeaderMatch{Name: h.Key, Value: h.Value})
		texts = append(texts, h.Value)
	}
	for _, t := range texts {
		if !utf8.ValidString(t) {
			return out, no(imap.ResponseCodeBadCharset+" (US-ASCII UTF-8)", "Search text is not UTF-8")
		}
	}
	for i := range in.Not {
		c, err := s.criteria(&in.Not[i])
		if err != nil {
			return out, err
		}
		out.Not = append(out.Not, c)
	}
	for i := range in.Or {
		a, err := s.criteria(&in.Or[i][0])
		if err != nil {
			return out, err
		}
		b, err := s.criteria(&in.Or[i][1])
		if err != nil {
			return out, err
		}
		out.Or = append(out.Or, [2]mail.Criteria{a, b})
	}
	return out, nil
}

func (s *session) addSet(out *mail.Criteria, set imap.NumSet) {
	uids := s.resolve(set)
	if len(uids) == 0 {
		uids = nobody()
	}
	out.UIDs = append(out.UIDs, uids)
}

func (s *session) addFlag(out *mail.Criteria, f imap.Flag, want bool) {
	for _, known := range systemFlags {
		if strings.EqualFold(string(f), string(known.name)) {
			if want {
				out.Flags |= known.flag
			} else {
				out.NotFlags |= known.flag
			}
			return
		}
	}
	switch {
	case strings.HasPrefix(string(f), `\`): // \Recent and what does not exist
		if want {
			out.UIDs = append(out.UIDs, nobody())
		}
	case want:
		out.Keywords = append(out.Keywords, string(f))
	default:
		out.NotKeywords = append(out.NotKeywords, string(f))
	}
}

// dayOf is the beginning of the day, 0 for none. A day before 1970 is the
// first second of 1970: nothing older is kept as such.
func dayOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return max(t.Unix(), 1)
}
