package imapd

import (
	"bytes"
	"encoding/base64"
	"io"
	"mime/quotedprintable"
	"strings"

	"github.com/emersion/go-imap/v2"

	"github.com/postern-mail/postern/internal/mail"
)

// findPart finds a part by its numbers (RFC 9051 section 6.4.5.1); nil if
// there is none.
func findPart(message *mail.Part, path []int) *mail.Part {
	p := message
	inMessage := true // the next number counts the parts of a message
	for _, n := range path {
		if !inMessage && p.Message != nil {
			p, inMessage = p.Message, true
		}
		switch {
		case p.Type == "multipart":
			if n < 1 || n > len(p.Children) || p.Children[n-1] == nil {
				return nil
			}
			p = p.Children[n-1]
		case !inMessage || n != 1:
			return nil
		}
		inMessage = false
	}
	return p
}

// sectionSpan tells where a section lies, without HEADER.FIELDS and partial.
func sectionSpan(m *mail.Message, section *imap.FetchItemBodySection) (span, bool) {
	if ownHeader(section) && m.Header != nil {
		return span{0, int64(len(m.Header))}, true
	}
	root := structureOf(m)
	if len(section.Part) == 0 {
		switch section.Specifier {
		case imap.PartSpecifierHeader:
			return span{root.HeaderStart, root.BodyStart}, true
		case imap.PartSpecifierText:
			return span{root.BodyStart, m.Size}, true
		case imap.PartSpecifierNone:
			return span{0, m.Size}, true
		}
		return span{}, false // MIME needs a part
	}
	p := findPart(root, section.Part)
	switch {
	case p == nil:
		return span{}, false
	case section.Specifier == imap.PartSpecifierNone && p == root:
		return span{p.BodyStart, m.Size}, true
	case section.Specifier == imap.PartSpecifierNone:
		return span{p.BodyStart, p.BodyEnd}, true
	case section.Specifier == imap.PartSpecifierMIME:
		return span{p.HeaderStart, p.BodyStart}, true
	case p.Message == nil:
		return span{}, false
	case section.Specifier == imap.PartSpecifierHeader:
		return span{p.Message.HeaderStart, p.Message.BodyStart}, true
	}
	return span{p.Message.BodyStart, p.Message.BodyEnd}, true
}

func (src *source) section(m *mail.Message, section *imap.FetchItemBodySection) (*body, error) {
	where, ok := sectionSpan(m, section)
	if !ok {
		return &body{section: section, missing: true}, nil
	}
	where = where.within(m.Size)
	var b *body
	var err error
	if len(section.HeaderFields)+len(section.HeaderFieldsNot) > 0 {
		where.to = min(where.to, where.from+maxHeader)
		var header []byte
		if header, err = src.all(where); err == nil {
			text := cut(filterHeader(header, section.HeaderFields, section.HeaderFieldsNot), section.Partial)
			b = &body{text: text, size: int64(len(text))}
		}
	} else {
		b, err = src.body(where.part(section.Partial))
	}
	if err != nil {
		return nil, err
	}
	b.section = section
	return b, nil
}

// filterHeader keeps the named fields of a header, or all but the named, with
// their bytes as they are, and ends it with an empty line.
func filterHeader(header []byte, only, not []string) []byte {
	out := make([]byte, 0, min(len(header), 4096))
	keep := false
	for len(header) > 0 {
		line := header
		if i := bytes.IndexByte(header, '\n'); i >= 0 {
			line = header[:i+1]
		}
		header = header[len(line):]
		text := bytes.TrimRight(line, "\r\n")
		if len(text) == 0 {
			break
		}
		if text[0] != ' ' && text[0] != '\t' { // else: goes on
			name, _, isField := bytes.Cut(text, []byte(":"))
			name = bytes.TrimRight(name, " \t")
			keep = isField && (len(only) > 0 && named(only, name) || len(not) > 0 && !named(not, name))
		}
		if keep {
			out = append(out, line...)
		}
	}
	return append(out, "\r\n"...)
}

func named(list []string, name []byte) bool {
	for _, n := range list {
		if len(n) == len(name) && strings.EqualFold(n, string(name)) {
			return true
		}
	}
	return false
}

var errUnknownEncoding = no(imap.ResponseCodeUnknownCTE, "The part cannot be decoded")

// binary makes the answer for BINARY[...]: the part without its transfer
// encoding (RFC 9051 section 6.4.5.2). Its size has to be known first, so the
// part is decoded twice instead of being held.
func (src *source) binary(m *mail.Message, path []int, partial *imap.SectionPartial) (*body, error) {
	p := findPart(structureOf(m), path)
	if p == nil {
		return &body{missing: true}, nil
	}
	where, encoding := span{p.BodyStart, p.BodyEnd}, strings.ToLower(strings.TrimSpace(p.Encoding))
	if len(path) == 0 {
		where, encoding = span{0, m.Size}, "binary"
	}
	if p.Type == "multipart" || p.Message != nil {
		encoding = "binary" // RFC 2045 section 6.4 allows no other
	}
	where = where.within(m.Size)
	switch encoding {
	case "", "7bit", "8bit", "binary":
		return src.body(where.part(partial))
	case "base64", "quoted-printable":
	default:
		return nil, errUnknownEncoding
	}
	size, err := io.Copy(io.Discard, src.decoder(where, encoding))
	if err != nil {
		if _, isStore := err.(*storeError); isStore {
			return nil, err
		}
		return nil, errUnknownEncoding
	}
	want := span{0, size}.part(partial)
	r := src.decoder(where, encoding)
	return &body{size: want.size(), from: &skipReader{r: r, skip: want.from}}, nil
}

func (src *source) decoder(where span, encoding string) io.Reader {
	raw := storeReader{&spanReader{src: src, rest: where}}
	if encoding == "base64" {
		return base64.NewDecoder(base64.StdEncoding, &base64Text{r: raw})
	}
	return quotedprintable.NewReader(raw)
}

// storeError marks an error of the store among those of a decoder.
type storeError struct{ err error }

func (e *storeError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *storeError) Unwrap() error { return e.err }

type storeReader struct{ r *spanReader }

// Read implements io.Reader.
func (r storeReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if err != nil && err != io.EOF {
		err = &storeError{err}
	}
	return n, err
}

// base64Text leaves out all that is not base64 (RFC 2045 section 6.8).
type base64Text struct{ r io.Reader }

// Read implements io.Reader.
func (r *base64Text) Read(p []byte) (int, error) {
	for {
		n, err := r.r.Read(p)
		k := 0
		for _, c := range p[:n] {
			if c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '+' || c == '/' || c == '=' {
				p[k] = c
				k++
			}
		}
		if k > 0 || err != nil || len(p) == 0 {
			return k, err
		}
	}
}

// skipReader drops the beginning.
type skipReader struct {
	r    io.Reader
	skip int64
}

// Read implements io.Reader.
func (r *skipReader) Read(p []byte) (int, error) {
	if r.skip > 0 {
		if _, err := io.CopyN(io.Discard, r.r, r.skip); err != nil {
			return 0, err
		}
		r.skip = 0
	}
	return r.r.Read(p)
}
