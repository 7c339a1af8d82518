package authn

import (
	"net/url"
	"strings"

	"github.com/postern-mail/postern/internal/base/kind"
)

// Limits of a DMARC record. RFC 9989 has none; DNS operators stay below 512
// octets.
const (
	MaxRecord  = 4096 // octets
	MaxTags    = 64
	maxReports = 10 // addresses of rua that are kept
)

// DMARCRecord is a policy record (RFC 9989 section 4.7). Tags pct, rf and ri
// of RFC 7489 are history and read as unknown ones; fo and ruf are not kept,
// as failure reports are not sent.
type DMARCRecord struct {
	Policy       Disposition // p; none if the record has none
	Subdomains   Disposition // sp; empty if the record has none
	NonExistent  Disposition // np; empty if the record has none
	StrictDKIM   bool        // adkim=s
	StrictSPF    bool        // aspf=s
	Testing      bool        // t=y
	PublicSuffix byte        // psd: y, n or u
	Reports      []string    // rua: URIs without the obsolete size
}

// isDMARC tells whether a text is a policy record at all: its first tag is v
// and its value DMARC1 in this case (RFC 9989 section 4.7, tag v).
func isDMARC(txt string) bool {
	first, _, _ := strings.Cut(txt, ";")
	name, value, ok := strings.Cut(first, "=")
	return ok && strings.EqualFold(blanks(name), "v") && blanks(value) == "DMARC1"
}

// ParseDMARC reads a policy record. Unknown tags are ignored and a value that
// is not understood is the default's, but a bad p, sp or np makes the record
// one of p=none if somebody is there to be told (rua), else an error of kind
// Invalid (RFC 9989 sections 4.8 and 4.10.1). An error of kind NotFound says
// that the text is no policy record.
func ParseDMARC(txt string) (DMARCRecord, error) {
	if !isDMARC(txt) {
		return DMARCRecord{}, kind.Errorf(kind.NotFound, "dmarc record: does not start with v=DMARC1")
	}
	if len(txt) > MaxRecord {
		return DMARCRecord{}, kind.Errorf(kind.Invalid, "dmarc record: %d octets, at most %d", len(txt), MaxRecord)
	}
	tags, err := readTags(txt)
	if err != nil {
		return DMARCRecord{}, err
	}
	rec := DMARCRecord{
		StrictDKIM: strings.EqualFold(tags["adkim"], "s"), StrictSPF: strings.EqualFold(tags["aspf"], "s"),
		Testing: strings.EqualFold(tags["t"], "y"), PublicSuffix: 'u', Reports: reportURIs(tags["rua"]),
	}
	switch strings.ToLower(tags["psd"]) {
	case "y":
		rec.PublicSuffix = 'y'
	case "n":
		rec.PublicSuffix = 'n'
	}
	bad := ""
	for _, p := range []struct {
		tag string
		to  *Disposition
	}{{"p", &rec.Policy}, {"sp", &rec.Subdomains}, {"np", &rec.NonExistent}} {
		v, there := tags[p.tag]
		switch d := Disposition(strings.ToLower(v)); {
		case !there:
		case d == DispositionNone, d == DispositionQuarantine, d == DispositionReject:
			*p.to = d
		default:
			bad = p.tag
		}
	}
	if bad != "" {
		if len(rec.Reports) == 0 {
			return DMARCRecord{}, kind.Errorf(kind.Invalid, "dmarc record: value of %s is not none, quarantine or reject", bad)
		}
		rec.Policy, rec.Subdomains, rec.NonExistent = DispositionNone, "", ""
	}
	if rec.Policy == "" {
		rec.Policy = DispositionNone
	}
	return rec, nil
}

// readTags splits a tag list. A name that comes twice makes the whole list
// invalid (RFC 6376 section 3.2, by reference).
func readTags(txt string) (map[string]string, error) {
	if n := strings.Count(txt, ";"); n > MaxTags {
		return nil, kind.Errorf(kind.Invalid, "dmarc record: more than %d tags", MaxTags)
	}
	tags := map[string]string{}
	for part := range strings.SplitSeq(txt, ";") {
		name, value, ok := strings.Cut(part, "=")
		name = strings.ToLower(blanks(name))
		if !ok || name == "" {
			continue // a syntax error in the remainder is ignored (RFC 9989 section 4.8)
		}
		if _, twice := tags[name]; twice {
			return nil, kind.Errorf(kind.Invalid, "dmarc record: tag %.20q comes twice", name)
		}
		tags[name] = blanks(value)
	}
	return tags, nil
}

// reportURIs reads rua: valid URIs, the obsolete "!10m" taken off.
func reportURIs(list string) []string {
	var out []string
	for s := range strings.SplitSeq(list, ",") {
		s, _, _ = strings.Cut(blanks(s), "!")
		u, err := url.Parse(s)
		if err != nil || u.Scheme == "" || u.Opaque == "" && u.Host == "" || !printable(s) || strings.Contains(s, " ") {
			continue
		}
		if out = append(out, s); len(out) == maxReports {
			break
		}
	}
	return out
}

func blanks(s string) string { return strings.Trim(s, " \t\r\n") }

// For picks the policy for an author domain. inherited: the record was found
// at its organizational domain or public suffix; missing: the author domain
// does not exist (RFC 9989 section 4.10.1).
func (r DMARCRecord) For(inherited, missing bool) Disposition {
	switch {
	case inherited && missing && r.NonExistent != "":
		return r.NonExistent
	case inherited && r.Subdomains != "":
		return r.Subdomains
	}
	return r.Policy
}
