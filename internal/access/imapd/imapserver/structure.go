package imapserver

import (
	"maps"
	"slices"
	"strings"

	"github.com/postern-mail/postern/internal/access/imapd/imapwire"
	"github.com/postern-mail/postern/internal/mail"
)

// maxPartDepth is where BODYSTRUCTURE stops to look into parts, so that no
// message makes a client or this server recurse without end.
const maxPartDepth = 200

// WriteEnvelope writes ENVELOPE (RFC 9051 section 7.5.2).
func (w *FetchResponseWriter) WriteEnvelope(e *mail.MessageEnvelope) {
	w.writeItemSep()
	w.enc.Atom("ENVELOPE").SP()
	writeEnvelope(w.enc.Encoder, e)
}

// WriteBodyStructure writes BODY, BODYSTRUCTURE or both, as was asked for.
func (w *FetchResponseWriter) WriteBodyStructure(p *mail.Part) {
	if w.options.bodyStructure.nonExtended {
		w.writeItemSep()
		w.enc.Atom("BODY").SP()
		writePart(w.enc.Encoder, p, false, 0)
	}
	if w.options.bodyStructure.extended {
		w.writeItemSep()
		w.enc.Atom("BODYSTRUCTURE").SP()
		writePart(w.enc.Encoder, p, true, 0)
	}
}

func writeEnvelope(enc *imapwire.Encoder, e *mail.MessageEnvelope) {
	if e == nil {
		e = new(mail.MessageEnvelope)
	}
	sender, replyTo := e.Sender, e.ReplyTo
	if len(sender) == 0 {
		sender = e.From
	}
	if len(replyTo) == 0 {
		replyTo = e.From
	}
	enc.Special('(')
	writeNString(enc, e.RawDate)
	enc.SP()
	writeNString(enc, e.Subject)
	for _, l := range [][]mail.HeaderAddress{e.From, sender, replyTo, e.To, e.Cc, e.Bcc} {
		enc.SP()
		writeAddresses(enc, l)
	}
	enc.SP()
	if len(e.InReplyTo) > 0 {
		enc.String("<" + strings.Join(e.InReplyTo, "> <") + ">")
	} else {
		enc.NIL()
	}
	enc.SP()
	if e.MessageID != "" {
		enc.String("<" + e.MessageID + ">")
	} else {
		enc.NIL()
	}
	enc.Special(')')
}

func writeAddresses(enc *imapwire.Encoder, l []mail.HeaderAddress) {
	if len(l) == 0 {
		enc.NIL()
		return
	}
	enc.Special('(')
	for _, a := range l {
		enc.Special('(')
		writeNString(enc, a.Name)
		enc.Atom(" NIL ")
		writeNString(enc, a.Mailbox)
		enc.SP()
		writeNString(enc, a.Host)
		enc.Special(')')
	}
	enc.Special(')')
}

// emptyText stands for the child that a multipart without any lacks: the
// grammar asks for at least one.
func emptyText() *mail.Part {
	return &mail.Part{Type: "text", Subtype: "plain"}
}

func writePart(enc *imapwire.Encoder, p *mail.Part, extended bool, depth int) {
	if p == nil {
		p = emptyText()
	}
	enc.Special('(')
	switch {
	case depth >= maxPartDepth && (p.Type == "multipart" || p.Message != nil):
		leaf := *p
		leaf.Type, leaf.Subtype, leaf.Message, leaf.Params = "application", "octet-stream", nil, nil
		writeSinglePart(enc, &leaf, extended, depth)
	case p.Type == "multipart":
		writeMultipart(enc, p, extended, depth)
	default:
		writeSinglePart(enc, p, extended, depth)
	}
	enc.Special(')')
}

func writeMultipart(enc *imapwire.Encoder, p *mail.Part, extended bool, depth int) {
	children := p.Children
	if len(children) == 0 {
		children = []*mail.Part{emptyText()}
	}
	for _, c := range children { // no space between them
		writePart(enc, c, extended, depth+1)
	}
	enc.SP().String(p.Subtype)
	if extended {
		enc.SP()
		writeParams(enc, p.Params)
		writePartExt(enc, p)
	}
}

func writeSinglePart(enc *imapwire.Encoder, p *mail.Part, extended bool, depth int) {
	encoding := strings.ToLower(p.Encoding) // Outlook for iOS needs lower case
	if encoding == "" {
		encoding = "7bit"
	}
	enc.String(p.Type).SP().String(p.Subtype).SP()
	writeParams(enc, p.Params)
	enc.SP()
	writeNString(enc, p.ID)
	enc.SP()
	writeNString(enc, p.Description)
	enc.SP().String(encoding).SP().Number64(max(p.BodyEnd-p.BodyStart, 0))
	switch {
	case p.Type == "message" && (p.Subtype == "rfc822" || p.Subtype == "global"):
		enc.SP()
		writeEnvelope(enc, p.Envelope)
		enc.SP()
		writePart(enc, p.Message, extended, depth+1)
		enc.SP().Number64(p.Lines)
	case p.Type == "text":
		enc.SP().Number64(p.Lines)
	}
	if extended {
		enc.SP().NIL() // MD5
		writePartExt(enc, p)
	}
}

// writePartExt writes disposition, language and location.
func writePartExt(enc *imapwire.Encoder, p *mail.Part) {
	enc.SP()
	if p.Disposition == "" {
		enc.NIL()
	} else {
		enc.Special('(').String(p.Disposition).SP()
		writeParams(enc, p.DispParams)
		enc.Special(')')
	}
	enc.SP()
	if len(p.Language) == 0 {
		enc.NIL()
	} else {
		enc.List(len(p.Language), func(i int) { enc.String(p.Language[i]) })
	}
	enc.SP()
	writeNString(enc, p.Location)
}

func writeParams(enc *imapwire.Encoder, params map[string]string) {
	if len(params) == 0 {
		enc.NIL()
		return
	}
	names := slices.Sorted(maps.Keys(params))
	enc.List(len(names), func(i int) {
		enc.String(names[i]).SP().String(params[names[i]])
	})
}
