package sign

import (
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxTags is how many tags a list may have; the registries know 20.
const maxTags = 64

// tag is one tag=value of a list, blanks around both removed.
type tag struct{ name, value string }

// tags is a tag list in the order it was written (RFC 6376 section 3.2).
type tags []tag

// parseTags reads a tag list. Values may hold folding blanks; characters
// outside ASCII have to be UTF-8 (RFC 8616 section 4). A name that occurs
// twice makes the list invalid, as the RFC demands.
func parseTags(s string) (tags, error) {
	var list tags
	for rest, more := s, true; more; {
		var spec string
		spec, rest, more = strings.Cut(rest, ";")
		if !more && trim(spec) == "" && len(list) > 0 {
			return list, nil // the semicolon behind the last one is optional
		}
		if len(list) == maxTags {
			return nil, fmt.Errorf("more than %d tags", maxTags)
		}
		t, err := parseTag(spec)
		if err != nil {
			return nil, err
		}
		if _, twice := list.get(t.name); twice {
			return nil, fmt.Errorf("tag %s twice", t.name)
		}
		list = append(list, t)
	}
	return list, nil
}

func parseTag(spec string) (tag, error) {
	name, value, ok := strings.Cut(spec, "=")
	if !ok {
		return tag{}, fmt.Errorf("tag %.20q without value", trim(spec))
	}
	t := tag{trim(name), trim(value)}
	if !tagName(t.name) {
		return tag{}, fmt.Errorf("bad tag name %.20q", t.name)
	}
	if !utf8.ValidString(t.value) {
		return tag{}, fmt.Errorf("tag %s is not UTF-8", t.name)
	}
	for i := range len(t.value) {
		if c := t.value[i]; (c < ' ' && !blank(c)) || c == 0x7f {
			return tag{}, fmt.Errorf("control character in tag %s", t.name)
		}
	}
	return t, nil
}

// tagName is ALPHA *(ALPHA / DIGIT / "_").
func tagName(s string) bool {
	for i := range len(s) {
		c := s[i]
		alpha := c|0x20 >= 'a' && c|0x20 <= 'z'
		if !alpha && (i == 0 || c != '_' && (c < '0' || c > '9')) {
			return false
		}
	}
	return s != "" && len(s) <= 32
}

// get returns the value of a tag; names are case-sensitive.
func (l tags) get(name string) (string, bool) {
	for _, t := range l {
		if t.name == name {
			return t.value, true
		}
	}
	return "", false
}

// blank reports whether c is one of the characters of folding white space.
func blank(c byte) bool { return c == ' ' || c == '\t' || c == '\r' || c == '\n' }

func trim(s string) string { return strings.Trim(s, " \t\r\n") }

// squeeze removes all folding white space, as in base64 values.
func squeeze(s string) string {
	if !strings.ContainsAny(s, " \t\r\n") {
		return s
	}
	b := make([]byte, 0, len(s))
	for i := range len(s) {
		if !blank(s[i]) {
			b = append(b, s[i])
		}
	}
	return string(b)
}

// colons splits a list at its colons, blanks around the parts removed, and
// refuses more than limit parts.
func colons(s string, limit int) ([]string, error) {
	if strings.Count(s, ":") >= limit {
		return nil, fmt.Errorf("more than %d names", limit)
	}
	parts := strings.Split(s, ":")
	for i, p := range parts {
		parts[i] = trim(p)
	}
	return parts, nil
}

// number reads 1 to 12 digits (the limit of t= and x= in RFC 6376).
func number(s string) (int64, error) {
	if s == "" || len(s) > 12 {
		return 0, errors.New("not a number of 1 to 12 digits")
	}
	var n int64
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, errors.New("not a number of 1 to 12 digits")
		}
		n = n*10 + int64(s[i]-'0')
	}
	return n, nil
}
