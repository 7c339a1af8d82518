package imapd

import (
	"errors"
	"slices"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/mail"
)

const (
	// fetchWindow is how many ranges of UIDs one page request names.
	fetchWindow = 256
	// fetchPage and fetchPageSummaries are messages per page.
	fetchPage          = 1000
	fetchPageSummaries = 100
)

// Fetch implements imapserver.Session. It goes through the messages page by
// page, so that what it holds does not grow with the set.
func (s *session) Fetch(w *imapserver.FetchWriter, set imap.NumSet, options *imap.FetchOptions) error {
	if s.sel == nil {
		return errNothingSelected
	}
	if err := s.settled(); err != nil {
		return err
	}
	f := &fetch{s: s, w: w, options: options, summaries: needSummaries(options), marks: !s.sel.readOnly && marksSeen(options)}
	for rest := s.resolve(set); len(rest) > 0; {
		window := rest[:min(len(rest), fetchWindow)]
		rest = rest[len(window):]
		if err := f.window(window); err != nil {
			return err
		}
	}
	if len(f.seen) == 0 {
		return nil
	}
	// The messages were sent already: when their flag cannot be set now, the
	// client will ask for it again or not care.
	err := s.changeFlags(w, f.seen, mail.FlagsChange{Folder: s.sel.folder, Op: "add", Flags: mail.Seen}, false)
	if refused := (*imap.Error)(nil); errors.As(err, &refused) {
		return nil
	}
	return err
}

// fetch is one FETCH command.
type fetch struct {
	s         *session
	w         *imapserver.FetchWriter
	options   *imap.FetchOptions
	summaries bool
	marks     bool            // \Seen is set by it
	seen      []mail.UIDRange // to be marked at the end
}

func (f *fetch) window(uids []mail.UIDRange) error {
	for len(uids) > 0 {
		page, err := f.page(uids)
		if err != nil {
			return f.s.answer("fetch", err)
		}
		for i := range page.Messages {
			if err := f.message(&page.Messages[i]); err != nil {
				return err
			}
		}
		n := len(page.Messages)
		if !page.More || n == 0 {
			return nil
		}
		uids = after(uids, page.Messages[n-1].UID)
	}
	return nil
}

func (f *fetch) page(uids []mail.UIDRange) (mail.Messages, error) {
	ctx, cancel := f.s.wait()
	defer cancel()
	limit := fetchPage
	if f.summaries {
		limit = fetchPageSummaries
	}
	return f.s.srv.deps.Store.Messages(ctx, f.s.account.Mailbox, mail.MessagesRequest{
		Folder: f.s.sel.folder, UIDs: uids, Summaries: f.summaries, Limit: limit, Headers: needHeaders(f.options),
	})
}

// needSummaries tells whether the answer needs more than the index row.
func needSummaries(o *imap.FetchOptions) bool {
	if o.Envelope || o.BodyStructure != nil || len(o.BinarySection) > 0 || len(o.BinarySectionSize) > 0 {
		return true
	}
	return slices.ContainsFunc(o.BodySection, func(b *imap.FetchItemBodySection) bool {
		return len(b.Part) > 0 || b.Specifier != imap.PartSpecifierNone && b.Specifier != imap.PartSpecifierHeader
	})
}

// needHeaders tells whether the answer has parts of the messages' own headers.
func needHeaders(o *imap.FetchOptions) bool {
	return slices.ContainsFunc(o.BodySection, ownHeader)
}

// ownHeader tells whether a section is the message's own header, or fields of it.
func ownHeader(b *imap.FetchItemBodySection) bool {
	return b.Specifier == imap.PartSpecifierHeader && len(b.Part) == 0
}

func marksSeen(o *imap.FetchOptions) bool {
	for _, b := range o.BodySection {
		if !b.Peek {
			return true
		}
	}
	for _, b := range o.BinarySection {
		if !b.Peek {
			return true
		}
	}
	return false
}

// message answers for one message. Its bodies are looked up before the
// response begins: what is missing then can still be refused.
func (f *fetch) message(m *mail.Message) error {
	seq := f.s.sel.uids.Seq(m.UID)
	if seq == 0 {
		return nil // new, the client will hear of it
	}
	bodies, err := f.prepare(m)
	if errors.Is(err, errMessageGone) {
		return nil // expunged meanwhile, the client will hear of it
	} else if err != nil {
		return f.s.answer("fetch", err)
	}
	o, w := f.options, f.w.CreateMessage(seq)
	if o.UID {
		w.WriteUID(imap.UID(m.UID))
	}
	if o.Flags {
		w.WriteFlags(wireFlags(*m))
	}
	if o.InternalDate {
		w.WriteInternalDate(m.Time().UTC())
	}
	if o.RFC822Size {
		w.WriteRFC822Size(m.Size)
	}
	if o.Envelope {
		w.WriteEnvelope(envelopeOf(m))
	}
	if o.BodyStructure != nil {
		w.WriteBodyStructure(structureOf(m))
	}
	for _, b := range bodies {
		if err := b.write(w); err != nil {
			w.Abort()
			return err
		}
	}
	if err := w.Close(); err != nil {
		return err
	}
	if f.marks && m.Flags&mail.Seen == 0 {
		f.mark(m.UID)
	}
	return nil
}

func (f *fetch) mark(u mail.UID) {
	if n := len(f.seen); n > 0 && f.seen[n-1].Last+1 == u {
		f.seen[n-1].Last = u
		return
	}
	f.seen = append(f.seen, mail.UIDRange{First: u, Last: u})
}

func envelopeOf(m *mail.Message) *mail.MessageEnvelope {
	if m.Summary == nil {
		return nil
	}
	return &m.Summary.Envelope
}

func structureOf(m *mail.Message) *mail.Part {
	if m.Summary == nil || m.Summary.Structure == nil {
		return &mail.Part{Type: "text", Subtype: "plain", BodyEnd: m.Size}
	}
	return m.Summary.Structure
}
