package imapd

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/emersion/go-imap/v2"
	"golang.org/x/text/unicode/norm"
)

const delim = '/'

// Limits of mailbox names (faults.md B45).
const (
	maxName    = 1000 // bytes
	maxLevel   = 255  // bytes of one level
	maxLevels  = 32
	maxPattern = 1000 // bytes of a LIST pattern
)

// checkName refuses names that could not be listed or mistaken for something
// else. Names are keys, never paths.
func checkName(name string) error {
	switch {
	case name == "":
		return no(imap.ResponseCodeCannot, "Mailbox names must not be empty")
	case len(name) > maxName:
		return no(imap.ResponseCodeLimit, "The mailbox name is too long")
	case !utf8.ValidString(name):
		return bad("Mailbox names are UTF-8")
	}
	levels := strings.Split(name, string(delim))
	if len(levels) > maxLevels {
		return no(imap.ResponseCodeLimit, "The mailbox name has too many levels")
	}
	for _, l := range levels {
		if l == "" || l == "." || l == ".." || len(l) > maxLevel {
			return no(imap.ResponseCodeCannot, "Levels of mailbox names have 1 to 255 bytes and are not dots only")
		}
	}
	for _, r := range name {
		if unicode.IsControl(r) || r == '*' || r == '%' || r == unicode.ReplacementChar || r == '\u2028' || r == '\u2029' {
			return no(imap.ResponseCodeCannot, "The mailbox name holds a character that is not allowed")
		}
	}
	return nil
}

// canonical spells a name as it is stored: in NFC, and INBOX in capitals, also
// as the first level of others.
func canonical(name string) string {
	name = norm.NFC.String(name)
	first, rest, deeper := strings.Cut(name, string(delim))
	if !strings.EqualFold(first, "INBOX") {
		return name
	}
	if !deeper {
		return "INBOX"
	}
	return "INBOX" + string(delim) + rest
}

// ancestors are the names above name, the highest first.
func ancestors(name string) []string {
	var out []string
	for i, r := range name {
		if r == delim {
			out = append(out, name[:i])
		}
	}
	return out
}

// pattern is a LIST pattern: "*" matches anything, "%" all but the delimiter.
type pattern []byte

// newPattern joins reference and pattern and collapses wildcards in a row, of
// which "*" is the stronger.
func newPattern(ref, pat string) (pattern, error) {
	if len(ref)+len(pat) > maxPattern {
		return nil, no(imap.ResponseCodeLimit, "The pattern is too long")
	}
	var p pattern
	for _, c := range []byte(canonical(ref + pat)) {
		if n := len(p); n > 0 && isWild(c) && isWild(p[n-1]) {
			if c == '*' {
				p[n-1] = '*'
			}
			continue
		}
		p = append(p, c)
	}
	return p, nil
}

func isWild(c byte) bool { return c == '*' || c == '%' }

// match follows all ways through the pattern at once, so the time is bounded
// by the product of the lengths whatever the pattern.
func (p pattern) match(name string) bool {
	// at[i]: p[:i] matches what was read so far.
	at, next := make([]bool, len(p)+1), make([]bool, len(p)+1)
	at[0] = true
	p.skipWild(at)
	for _, c := range []byte(name) {
		clear(next)
		for i, here := range at[:len(p)] {
			switch {
			case !here:
			case p[i] == '*', p[i] == '%' && c != delim:
				next[i] = true
			case p[i] == c && !isWild(p[i]):
				next[i+1] = true
			}
		}
		p.skipWild(next)
		at, next = next, at
	}
	return at[len(p)]
}

// skipWild lets wildcards match nothing.
func (p pattern) skipWild(at []bool) {
	for i := range p {
		if at[i] && isWild(p[i]) {
			at[i+1] = true
		}
	}
}

// matchAny tells whether one of the patterns matches.
func matchAny(patterns []pattern, name string) bool {
	for _, p := range patterns {
		if p.match(name) {
			return true
		}
	}
	return false
}
