package imapd

import (
	"errors"
	"io"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/access/imapd/imapserver"
	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

const (
	// bodyChunk is how much of a body is held at a time.
	bodyChunk = 1 << 20
	// maxHeader is how much of a header HEADER.FIELDS looks through.
	maxHeader = 4 << 20
)

var errMessageGone = errors.New("imapd: message was expunged")

// span is a run of bytes of a message.
type span struct{ from, to int64 }

func (p span) size() int64 { return p.to - p.from }

// within cuts the span to the bytes there are: a damaged summary may say anything.
func (p span) within(size int64) span {
	p.from = min(max(p.from, 0), size)
	p.to = min(max(p.to, p.from), size)
	return p
}

// part narrows the span to BODY[]<offset.size>.
func (p span) part(partial *imap.SectionPartial) span {
	if partial == nil {
		return p
	}
	from := p.from + min(partial.Offset, p.size())
	return span{from, from + min(partial.Size, p.to-from)}
}

// cut is part for bytes in memory.
func cut(b []byte, partial *imap.SectionPartial) []byte {
	p := span{0, int64(len(b))}.part(partial)
	return b[p.from:p.to]
}

// body is one BODY[...] or BINARY[...] item that was looked up.
type body struct {
	section *imap.FetchItemBodySection
	binary  *imap.FetchItemBinarySection
	sizeOf  *imap.FetchItemBinarySectionSize
	missing bool  // there is no such part
	size    int64 // of what is sent
	text    []byte
	from    io.Reader // where text is not all
}

func (b *body) write(w *imapserver.FetchResponseWriter) error {
	switch {
	case b.sizeOf != nil:
		w.WriteBinarySectionSize(b.sizeOf, uint32(b.size))
		return nil
	case b.missing && b.section != nil:
		w.WriteBodySectionNIL(b.section)
		return nil
	case b.missing:
		w.WriteBinarySectionNIL(b.binary)
		return nil
	}
	var lit io.WriteCloser
	if b.section != nil {
		lit = w.WriteBodySection(b.section, b.size)
	} else {
		lit = w.WriteBinarySection(b.binary, b.size)
	}
	if _, err := lit.Write(b.text); err != nil {
		return err
	}
	if b.from != nil {
		if _, err := io.CopyN(lit, b.from, b.size-int64(len(b.text))); err != nil {
			return err
		}
	}
	return lit.Close()
}

// prepare looks up all bodies that were asked for. Up to bodyChunk bytes are
// read ahead, so that most failures come before the response begins.
func (f *fetch) prepare(m *mail.Message) ([]*body, error) {
	o := f.options
	if len(o.BodySection)+len(o.BinarySection)+len(o.BinarySectionSize) == 0 {
		return nil, nil
	}
	src := &source{s: f.s, blob: m.Blob, size: m.Size, chunk: m.Header}
	var out []*body
	for _, section := range o.BodySection {
		b, err := src.section(m, section)
		if err != nil {
			return nil, src.explain(err)
		}
		out = append(out, b)
	}
	for _, section := range o.BinarySection {
		b, err := src.binary(m, section.Part, section.Partial)
		if err != nil {
			return nil, src.explain(err)
		}
		b.binary = section
		out = append(out, b)
	}
	for _, section := range o.BinarySectionSize {
		b, err := src.binary(m, section.Part, nil)
		if err != nil {
			return nil, src.explain(err)
		}
		b.sizeOf = section
		out = append(out, b)
	}
	return out, nil
}

// source reads the bytes of one message.
type source struct {
	s     *session
	blob  mail.BlobID
	size  int64
	ahead int64 // bytes read ahead for the present response
	// last chunk read, for sections that lie close together
	chunk []byte
	at    int64
}

func (src *source) explain(err error) error {
	if kind.Is(err, kind.NotFound) {
		return errMessageGone
	}
	return err
}

// read returns bytes of the message, fewer than asked for only at its end.
func (src *source) read(p span) ([]byte, error) {
	p = p.within(src.size)
	if p.size() == 0 {
		return nil, nil
	}
	if p.from >= src.at && p.to <= src.at+int64(len(src.chunk)) {
		return src.chunk[p.from-src.at : p.to-src.at], nil
	}
	ctx, cancel := src.s.wait()
	defer cancel()
	b, err := src.s.srv.deps.Store.Body(ctx, src.s.account.Mailbox, mail.BodyRequest{Blob: src.blob, Offset: p.from, Length: p.size()})
	if err != nil {
		return nil, err
	}
	if len(b) == 0 {
		return nil, kind.Errorf(kind.Corrupt, "body %d: no bytes at %d of %d", src.blob, p.from, src.size)
	}
	b = b[:min(int64(len(b)), p.size())]
	src.chunk, src.at = b, p.from
	return b, nil
}

// all reads a span into memory; the caller bounds it.
func (src *source) all(p span) ([]byte, error) {
	p = p.within(src.size)
	var out []byte
	for p.size() > 0 {
		b, err := src.read(span{p.from, min(p.to, p.from+bodyChunk)})
		if err != nil {
			return nil, err
		}
		if out == nil && int64(len(b)) == p.size() {
			return b, nil
		}
		out = append(out, b...)
		p.from += int64(len(b))
	}
	return out, nil
}

// body makes the answer for a span.
func (src *source) body(p span) (*body, error) {
	p = p.within(src.size)
	b := &body{size: p.size()}
	rest := p
	if p.size() > 0 && src.ahead < bodyChunk {
		text, err := src.read(span{p.from, min(p.to, p.from+bodyChunk)})
		if err != nil {
			return nil, err
		}
		b.text = text
		src.ahead += int64(len(text))
		rest.from += int64(len(text))
	}
	if rest.size() > 0 {
		b.from = &spanReader{src: src, rest: rest}
	}
	return b, nil
}

// spanReader reads a span chunk by chunk.
type spanReader struct {
	src  *source
	rest span
	buf  []byte
}

// Read implements io.Reader.
func (r *spanReader) Read(p []byte) (int, error) {
	if len(r.buf) == 0 {
		if r.rest.size() <= 0 {
			return 0, io.EOF
		}
		b, err := r.src.read(span{r.rest.from, min(r.rest.to, r.rest.from+bodyChunk)})
		if err != nil {
			return 0, err
		}
		r.buf = b
		r.rest.from += int64(len(b))
	}
	n := copy(p, r.buf)
	r.buf = r.buf[n:]
	return n, nil
}
