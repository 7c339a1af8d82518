package store

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Limits of folder names and folders.
const (
	maxNameBytes  = 1024
	maxNameLevels = 100
	maxFolders    = 10_000
)

const inbox = "INBOX"

// canonical checks a folder name and returns the one form under which it is
// kept: NFC, and INBOX in capitals, also as the first level of others
// (RFC 9051 section 5.1).
func canonical(name string) (string, error) {
	if len(name) > maxNameBytes {
		return "", kind.Errorf(kind.Invalid, "folder name of %d bytes: at most %d", len(name), maxNameBytes)
	}
	if !utf8.ValidString(name) {
		return "", kind.Errorf(kind.Invalid, "folder name %q: not UTF-8", name)
	}
	name = norm.NFC.String(name)
	if len(name) > maxNameBytes {
		return "", kind.Errorf(kind.Invalid, "folder name of %d bytes: at most %d", len(name), maxNameBytes)
	}
	if strings.ContainsFunc(name, func(r rune) bool { return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' }) {
		return "", kind.Errorf(kind.Invalid, "folder name %q: control character", name)
	}
	if strings.Count(name, "/") >= maxNameLevels {
		return "", kind.Errorf(kind.Invalid, "folder name %q: more than %d levels", name, maxNameLevels)
	}
	if name == "" || name[0] == '/' || name[len(name)-1] == '/' || strings.Contains(name, "//") {
		return "", kind.Errorf(kind.Invalid, "folder name %q: empty level", name)
	}
	first, rest, below := strings.Cut(name, "/")
	if strings.EqualFold(first, inbox) {
		name = inbox
		if below {
			name += "/" + rest
		}
	}
	return name, nil
}
