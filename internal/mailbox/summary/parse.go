package summary

import (
	"bytes"

	"github.com/postern-mail/postern/internal/mail"
)

// Limits (promise 2). They are those of every parser that meets mail.
const (
	maxDepth       = 100
	maxParts       = 10_000
	maxHeaderBytes = 1 << 20
	maxHeaderLines = 20_000
	maxAddresses   = 10_000
	maxBoundary    = 256
	// maxKept is how many bytes of strings one summary keeps in all.
	maxKept = 1 << 20
)

// Parse parses a message. It never fails: what cannot be understood is a part
// of its own without inner structure.
func Parse(body []byte) *mail.Summary {
	p := &parser{b: body, open: map[string]int{}, budget: maxKept, addresses: maxAddresses}
	s := &mail.Summary{}
	s.Structure, _ = p.part(1, "text", "plain", &s.Envelope)
	clamp(s.Structure, 0, int64(len(body)))
	s.Preview = preview(s.Structure, body)
	return s
}

// clamp keeps a part and those in it inside the part around it. Only empty
// parts can lie outside: in the line end that belongs to the delimiter after
// them, or behind it.
func clamp(n *mail.Part, from, to int64) {
	n.HeaderStart = min(max(n.HeaderStart, from), to)
	n.BodyStart = min(max(n.BodyStart, n.HeaderStart), to)
	n.BodyEnd = min(max(n.BodyEnd, n.BodyStart), to)
	n.Lines = min(n.Lines, n.BodyEnd-n.BodyStart)
	for _, c := range n.Children {
		clamp(c, n.BodyStart, n.BodyEnd)
	}
	if n.Message != nil {
		clamp(n.Message, n.BodyStart, n.BodyEnd)
	}
}

// parser goes over the message once. pos only grows; lines counts the line
// feeds before pos.
type parser struct {
	b         []byte
	pos       int
	lines     int64
	open      map[string]int // boundaries of the multiparts around pos -> depth
	parts     int
	budget    int // bytes of strings that may still be kept
	addresses int // that may still be kept
}

// delimiter is a line that ends a part: the boundary of the multipart at
// depth, 0 for the end of the message.
type delimiter struct {
	depth int
	last  bool // "--boundary--"
	start int  // of the line
	lines int64
}

// part parses the part that begins at pos, up to the delimiter that ends it,
// which it returns. typ and sub are the type of parts that name none; env is
// filled for messages.
func (p *parser) part(depth int, typ, sub string, env *mail.MessageEnvelope) (*mail.Part, delimiter) {
	p.parts++
	n := &mail.Part{Type: typ, Subtype: sub, HeaderStart: int64(p.pos)}
	boundary, end, ended := p.header(n, env)
	first := p.lines
	n.BodyStart = int64(p.pos)
	if ended {
		// No empty line: the body is empty and lies before the delimiter.
		n.BodyStart = int64(end.start)
	} else {
		end = p.content(n, depth, boundary)
	}
	p.finish(n, end, first)
	return n, end
}

// content goes over the body of a part, by what the part is.
func (p *parser) content(n *mail.Part, depth int, boundary string) delimiter {
	deeper := depth < maxDepth && p.parts < maxParts
	switch {
	case !deeper:
	case n.Type == "multipart" && boundary != "":
		// Where an inner multipart has the boundary of an outer one the outer
		// one owns it (RFC 2046 section 5.1.2), and the inner has no parts.
		if _, taken := p.open[boundary]; !taken {
			return p.multipart(n, depth, boundary)
		}
	case n.Type == "message" && (n.Subtype == "rfc822" || n.Subtype == "global") && plainEncoding(n.Encoding):
		n.Envelope = &mail.MessageEnvelope{}
		var end delimiter
		n.Message, end = p.part(depth+1, "text", "plain", n.Envelope)
		return end
	}
	return p.next()
}

func (p *parser) multipart(n *mail.Part, depth int, boundary string) delimiter {
	p.open[boundary] = depth
	typ, sub := "text", "plain"
	if n.Subtype == "digest" {
		typ, sub = "message", "rfc822" // RFC 2046 section 5.1.5
	}
	d := p.next() // after the preamble
	for d.depth == depth && !d.last {
		var child *mail.Part
		if p.parts >= maxParts-1 {
			child, d = p.rest(depth)
		} else {
			child, d = p.part(depth+1, typ, sub, nil)
		}
		n.Children = append(n.Children, child)
	}
	delete(p.open, boundary)
	if d.depth == depth {
		d = p.next() // the epilogue
	}
	return d
}

// rest makes one opaque part of all that is left of a multipart.
func (p *parser) rest(depth int) (*mail.Part, delimiter) {
	p.parts++
	n := &mail.Part{Type: "application", Subtype: "octet-stream", HeaderStart: int64(p.pos), BodyStart: int64(p.pos)}
	first := p.lines
	d := p.next()
	for d.depth == depth && !d.last {
		d = p.next()
	}
	p.finish(n, d, first)
	return n, d
}

// finish sets where the body ends. The line end before a delimiter belongs to
// the delimiter.
func (p *parser) finish(n *mail.Part, d delimiter, first int64) {
	start := int(n.BodyStart)
	end, lines := d.start, d.lines-first
	if d.depth > 0 && end > start {
		end--
		lines--
		if end > start && p.b[end-1] == '\r' {
			end--
		}
	}
	if end < start {
		end, lines = start, 0
	}
	if end > start && p.b[end-1] != '\n' {
		lines++
	}
	n.BodyEnd, n.Lines = int64(end), max(lines, 0)
}

// next goes to the line after the next delimiter, or to the end.
func (p *parser) next() delimiter {
	for p.pos < len(p.b) {
		if len(p.open) == 0 {
			p.lines += int64(bytes.Count(p.b[p.pos:], []byte{'\n'}))
			p.pos = len(p.b)
			break
		}
		start, lines := p.pos, p.lines
		line := p.line()
		if d, ok := p.delimits(line); ok {
			d.start, d.lines = start, lines
			return d
		}
	}
	return delimiter{start: len(p.b), lines: p.lines}
}

// line returns the line at pos, with its end, and goes past it.
func (p *parser) line() []byte {
	rest := p.b[p.pos:]
	i := bytes.IndexByte(rest, '\n')
	if i < 0 {
		p.pos = len(p.b)
		return rest
	}
	p.pos += i + 1
	p.lines++
	return rest[:i+1]
}

// delimits tells whether a line is a delimiter of an open multipart.
func (p *parser) delimits(line []byte) (delimiter, bool) {
	if len(line) < 3 || line[0] != '-' || line[1] != '-' || len(p.open) == 0 || len(line) > 2*maxBoundary {
		return delimiter{}, false
	}
	name := bytes.TrimRight(line[2:], " \t\r\n")
	if depth, ok := p.open[string(name)]; ok {
		return delimiter{depth: depth}, true
	}
	if name, last := bytes.CutSuffix(name, []byte("--")); last {
		if depth, ok := p.open[string(name)]; ok {
			return delimiter{depth: depth, last: true}, true
		}
	}
	return delimiter{}, false
}

func plainEncoding(e string) bool {
	return e == "" || e == "7bit" || e == "8bit" || e == "binary"
}
