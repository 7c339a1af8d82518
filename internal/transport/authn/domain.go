package authn

import (
	"net"
	"strings"

	"golang.org/x/net/idna"
)

// asciiDomain brings a name to the form that names are compared and asked in:
// A-labels in lower case without the last dot (RFC 9989 section 5.3.1). Unlike
// a mail domain a name here may hold underscores. Empty: it can not be asked.
func asciiDomain(s string) string {
	s = strings.TrimSuffix(s, ".")
	if len(s) > 4*maxName {
		return ""
	}
	for i := range len(s) {
		if s[i] >= 0x80 {
			p := idna.New(idna.MapForLookup(), idna.Transitional(false), idna.BidiRule(), idna.StrictDomainName(false))
			var err error
			if s, err = p.ToASCII(s); err != nil {
				return ""
			}
			break
		}
	}
	s = strings.ToLower(s)
	if !goodName(s) {
		return ""
	}
	return s
}

const (
	maxName  = 253
	maxLabel = 63
)

// goodName tells whether a name can be asked: labels of 1 to 63 printable
// octets, 253 in all (RFC 1035 section 2.3.4). Quotes and backslashes mean
// something else where names are read from text: with them a sender could turn
// a macro of somebody else's record into a fault.
func goodName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > maxLabel {
			return false
		}
		for i := range len(label) {
			if label[i] <= ' ' || label[i] >= 0x7f || label[i] == '\\' || label[i] == '"' {
				return false
			}
		}
	}
	return true
}

// hostDomain is asciiDomain for what a client called itself: address literals
// and names of one label have no records (RFC 7208 section 2.3).
func hostDomain(helo string) string {
	if strings.HasPrefix(helo, "[") || net.ParseIP(helo) != nil {
		return ""
	}
	d := asciiDomain(helo)
	if !strings.Contains(d, ".") {
		return ""
	}
	return d
}

// under reports whether name is domain or lies below it.
func under(name, domain string) bool {
	rest, ok := strings.CutSuffix(name, domain)
	return ok && domain != "" && (rest == "" || strings.HasSuffix(rest, "."))
}
