package store

import (
	"strings"

	"golang.org/x/text/unicode/norm"
)

// fold brings text into the form in which it is compared: composed (NFC) and
// in lower case. German sharp s is ss, final sigma is sigma.
func fold(s string) string {
	s = strings.ToLower(norm.NFC.String(s))
	if isASCII(s) {
		return s
	}
	return foldings.Replace(s)
}

// foldings are letters that lower case alone leaves different.
var foldings = strings.NewReplacer("ß", "ss", "ς", "σ")

func isASCII(s string) bool {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return false
		}
	}
	return true
}
