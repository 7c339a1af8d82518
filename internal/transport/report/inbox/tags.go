package inbox

import (
	"bytes"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Limits of XML. A parser keeps each attribute of a tag and each element it is
// in, which takes much more memory than their text.
const (
	maxTag   = 64 << 10 // bytes
	maxDepth = 32       // a report has 6
)

// tame refuses documents that are small but take much memory to parse. A tag
// whose quotes are not closed is too long.
func tame(doc []byte) error {
	depth := 0
	for {
		i := bytes.IndexByte(doc, '<')
		if i < 0 {
			return nil
		}
		doc = doc[i:]
		if n := aside(doc); n != 0 {
			if n < 0 {
				return nil // no parser gets beyond it
			}
			doc = doc[n:]
			continue
		}
		n := tagEnd(doc[:min(len(doc), maxTag)])
		if n < 0 {
			return kind.Errorf(kind.Invalid, "XML: a tag of more than %d bytes", maxTag)
		}
		switch tag := doc[:n]; {
		case tag[1] == '/':
			depth--
		case tag[n-2] != '/':
			depth++
		}
		if depth > maxDepth {
			return kind.Errorf(kind.Invalid, "XML: elements within more than %d others", maxDepth)
		}
		doc = doc[n:]
	}
}

// aside is the length of what begins here, if that is no tag, else 0; negative
// where it does not end.
func aside(doc []byte) int {
	for _, s := range [][2]string{{"<!--", "-->"}, {"<![CDATA[", "]]>"}, {"<?", "?>"}} {
		if bytes.HasPrefix(doc, []byte(s[0])) {
			n := bytes.Index(doc[len(s[0]):], []byte(s[1]))
			if n < 0 {
				return -1
			}
			return len(s[0]) + n + len(s[1])
		}
	}
	return 0
}

// tagEnd is behind the end of the tag that begins here.
func tagEnd(b []byte) int {
	var quote byte
	for i, c := range b {
		switch {
		case quote != 0:
			if c == quote {
				quote = 0
			}
		case c == '"' || c == '\'':
			quote = c
		case c == '>':
			return i + 1
		}
	}
	return -1
}
