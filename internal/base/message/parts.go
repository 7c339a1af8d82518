package message

import (
	"bytes"
	"strings"
)

// Limits of the walk over parts.
const (
	MaxDepth    = 100
	MaxParts    = 10_000
	maxBoundary = 256
	maxNames    = 8 // of one part
)

// Part is a part of a message (RFC 2046): the message itself, what a multipart
// has, what an attached message has.
type Part struct {
	Depth       int
	Type        string   // media type in small letters, such as text/plain
	Names       []string // all names its header gives it, decoded
	Disposition string   // small letters, empty for none
	Encoding    string   // small letters, empty for none
	Start, End  int      // of the body in the message
}

// Parts walks over the parts of a message. whole is false where a limit, or a
// header that is not one, hides something.
func Parts(msg []byte) (parts []Part, whole bool) {
	w := walker{msg: msg, whole: true}
	w.begin(0, 0, false)
	for w.pos < len(msg) {
		w.line()
	}
	w.close(len(msg))
	return w.parts, w.whole
}

// open is a multipart whose end was not seen.
type open struct {
	boundary string
	depth    int  // of its parts
	digest   bool // they are messages by default
}

type walker struct {
	msg    []byte
	pos    int
	stack  []open
	parts  []Part
	whole  bool
	header bool // the lines are those of a header
	lines  int  // of this header
	fields struct {
		start  int // of the header
		digest bool
		depth  int
	}
	bodies []int // parts whose body has not ended: indices, with the stack's length when they began
	levels []int
}

// begin begins the header of a part.
func (w *walker) begin(at, depth int, digest bool) {
	w.header, w.lines = true, 0
	w.fields.start, w.fields.depth, w.fields.digest = at, depth, digest
	if len(w.parts) >= MaxParts || depth > MaxDepth {
		w.header, w.whole = false, false
	}
}

// line takes the next line.
func (w *walker) line() {
	start := w.pos
	w.pos = lineEnd(w.msg, start)
	line := w.msg[start:w.pos]
	if i, last, ok := w.delimits(line); ok {
		w.delimiter(start, i, last)
		return
	}
	if !w.header {
		return
	}
	if w.lines++; w.lines > MaxHeaderLines || start-w.fields.start > MaxHeader {
		w.whole = false // looked through for its end only
	}
	if emptyLine(line) > 0 {
		w.part(start, w.pos)
	}
}

// delimits tells which open multipart a line is a delimiter of.
func (w *walker) delimits(line []byte) (i int, last, ok bool) {
	if len(w.stack) == 0 || len(line) < 3 || line[0] != '-' || line[1] != '-' || len(line) > 2*maxBoundary {
		return 0, false, false
	}
	name := bytes.TrimRight(line[2:], " \t\r\n")
	short, ends := bytes.CutSuffix(name, []byte("--"))
	for i := len(w.stack) - 1; i >= 0; i-- {
		switch b := w.stack[i].boundary; {
		case string(name) == b:
			return i, false, true
		case ends && string(short) == b:
			return i, true, true
		}
	}
	return 0, false, false
}

// delimiter ends the part before it, and those around that which were not
// ended, and begins the next.
func (w *walker) delimiter(start, i int, last bool) {
	if w.header {
		w.part(start, start) // without an empty line: no body
	}
	w.header = false
	w.stack = w.stack[:i+1]
	w.endBodies(start)
	if last {
		w.stack = w.stack[:i]
		return
	}
	w.begin(w.pos, w.stack[i].depth, w.stack[i].digest)
}

// endBodies ends the bodies of the parts inside the multiparts that are open.
func (w *walker) endBodies(at int) {
	for n := len(w.bodies); n > 0 && w.levels[n-1] >= len(w.stack); n-- {
		p := &w.parts[w.bodies[n-1]]
		p.End = max(p.Start, at)
		w.bodies, w.levels = w.bodies[:n-1], w.levels[:n-1]
	}
}

// close ends what is open at the end of the message.
func (w *walker) close(at int) {
	if w.header {
		w.part(at, at)
	}
	w.stack = nil
	w.endBodies(at)
}

// part takes a header that ended, with its body beginning at body.
func (w *walker) part(end, body int) {
	w.header = false
	p := Part{Depth: w.fields.depth, Type: "text/plain", Start: body}
	if w.fields.digest {
		p.Type = "message/rfc822"
	}
	boundary := w.read(&p, w.msg[w.fields.start:end])
	w.bodies, w.levels = append(w.bodies, len(w.parts)), append(w.levels, len(w.stack))
	w.parts = append(w.parts, p)
	switch {
	case strings.HasPrefix(p.Type, "multipart/"):
		if boundary == "" || len(boundary) > maxBoundary || w.isOpen(boundary) {
			w.whole = false // readers do not agree what its parts are
			return
		}
		if p.Depth >= MaxDepth {
			w.whole = false
			return
		}
		w.stack = append(w.stack, open{boundary, p.Depth + 1, p.Type == "multipart/digest"})
		w.levels[len(w.levels)-1] = len(w.stack) - 1
	case p.Type == "message/rfc822" || p.Type == "message/global":
		if e := p.Encoding; e != "" && e != "7bit" && e != "8bit" && e != "binary" {
			w.whole = false // an encoded message: RFC 2046 section 5.2.1 forbids it
			return
		}
		w.begin(body, p.Depth+1, false)
	}
}

func (w *walker) isOpen(boundary string) bool {
	for _, o := range w.stack {
		if o.boundary == boundary {
			return true
		}
	}
	return false
}

// read takes the fields of a part's header and returns the boundary.
func (w *walker) read(p *Part, header []byte) (boundary string) {
	var end Ending
	typed := false
	for f := range Fields(header, &end) {
		switch strings.ToLower(f.Name) {
		case "content-type":
			head, params := parameters(f.Value(header))
			if !typed && strings.Contains(head, "/") {
				p.Type, typed = head, true
				boundary = strings.TrimRight(params["boundary"], " \t")
			}
			p.name(params["name"])
		case "content-disposition":
			head, params := parameters(f.Value(header))
			first(&p.Disposition, head)
			p.name(params["filename"])
		case "content-transfer-encoding":
			head, _ := parameters(f.Value(header))
			first(&p.Encoding, head)
		}
	}
	if end.Junk || end.Cut {
		w.whole = w.whole && !end.Cut && !hides(header[end.At:])
	}
	return boundary
}

// hides tells whether what stands behind a line that is no field could be read
// as a description of the part by others.
func hides(rest []byte) bool {
	return bytes.Contains(bytes.ToLower(rest), []byte("content-"))
}

func (p *Part) name(s string) {
	if s = strings.TrimSpace(s); s == "" || len(p.Names) >= maxNames {
		return
	}
	for _, have := range p.Names {
		if have == s {
			return
		}
	}
	p.Names = append(p.Names, s)
}
