package inbox

import "bytes"

// maxTag bounds one tag of XML in bytes: a parser keeps each attribute, which
// takes much more memory than its text.
const maxTag = 64 << 10

// longTag tells whether a document has a tag that is too long. Where the
// quotes of a tag are not closed it is.
func longTag(doc []byte) bool {
	for {
		i := bytes.IndexByte(doc, '<')
		if i < 0 {
			return false
		}
		doc = doc[i:]
		n := 0
		for _, s := range [][2]string{{"<!--", "-->"}, {"<![CDATA[", "]]>"}, {"<?", "?>"}} {
			if bytes.HasPrefix(doc, []byte(s[0])) {
				if n = bytes.Index(doc, []byte(s[1])); n < 0 {
					return false // no parser gets beyond it
				}
				n += len(s[1])
				break
			}
		}
		if n == 0 {
			if n = tagEnd(doc[:min(len(doc), maxTag)]); n < 0 {
				return true
			}
		}
		doc = doc[n:]
	}
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
