package inbox

import (
	"bytes"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/text/encoding/charmap"

	"github.com/postern-mail/postern/internal/base/kind"
	"github.com/postern-mail/postern/internal/mail"
)

const (
	maxRecords = 50_000
	// maxCount keeps sums of what strangers claim from running over.
	maxCount = 1 << 40
	maxText  = 255 // bytes
)

// dmarcReport is what we take from an aggregate report.
type dmarcReport struct {
	Reporter, ID, Domain string
	Begin, End           time.Time
	Records              []dmarcRecord
}

type dmarcRecord struct {
	Source                netip.Addr
	Count                 uint64
	DKIM, SPF             bool // aligned and passed
	Quarantined, Rejected bool
}

// xmlMetadata, xmlPolicy and xmlRecord are parts of the file (RFC 9990 section
// 3.1.1, RFC 7489 appendix C), in any namespace.
type xmlMetadata struct {
	Reporter string `xml:"org_name"`
	ID       string `xml:"report_id"`
	Begin    int64  `xml:"date_range>begin"`
	End      int64  `xml:"date_range>end"`
}

type xmlPolicy struct {
	Domain string `xml:"domain"`
}

type xmlRecord struct {
	Source      string `xml:"row>source_ip"`
	Count       uint64 `xml:"row>count"`
	Disposition string `xml:"row>policy_evaluated>disposition"`
	DKIM        string `xml:"row>policy_evaluated>dkim"`
	SPF         string `xml:"row>policy_evaluated>spf"`
}

// parseDMARC reads an aggregate report. Errors are of kind Invalid; NotFound
// says that the document is something else.
func parseDMARC(doc []byte) (dmarcReport, error) {
	bad := func(err error) error { return kind.Errorf(kind.Invalid, "DMARC report: %w", err) }
	if len(doc) > MaxUnpacked {
		return dmarcReport{}, bad(fmt.Errorf("more than %d bytes", MaxUnpacked))
	}
	doc = bytes.TrimPrefix(doc, []byte("\xef\xbb\xbf"))
	if !bytes.HasPrefix(bytes.TrimSpace(doc[:min(len(doc), 64)]), []byte("<")) {
		return dmarcReport{}, kind.Errorf(kind.NotFound, "no DMARC report: it is no XML")
	}
	if err := tame(doc); err != nil {
		return dmarcReport{}, bad(err)
	}
	d := xml.NewDecoder(bytes.NewReader(doc))
	d.CharsetReader = charset
	if err := root(d); err != nil {
		return dmarcReport{}, err
	}
	var out dmarcReport
	for {
		tok, err := d.Token()
		if err != nil {
			return dmarcReport{}, bad(err)
		}
		switch t := tok.(type) {
		case xml.Directive:
			return dmarcReport{}, bad(errors.New("a declaration where none belongs"))
		case xml.EndElement:
			return out, out.check()
		case xml.StartElement:
			if err := out.element(d, t); err != nil {
				return dmarcReport{}, bad(err)
			}
		}
	}
}

// root goes to the first element. Declarations of entities are not even read.
func root(d *xml.Decoder) error {
	for {
		tok, err := d.Token()
		if err != nil {
			return kind.Errorf(kind.Invalid, "DMARC report: %w", err)
		}
		switch t := tok.(type) {
		case xml.Directive:
			return kind.Errorf(kind.Invalid, "DMARC report: it has a document type")
		case xml.StartElement:
			if t.Name.Local != "feedback" {
				return kind.Errorf(kind.NotFound, "no DMARC report: it begins with %.40q", t.Name.Local)
			}
			return nil
		}
	}
}

// element reads one of the first level.
func (r *dmarcReport) element(d *xml.Decoder, t xml.StartElement) error {
	switch t.Name.Local {
	case "report_metadata":
		var m xmlMetadata
		if err := d.DecodeElement(&m, &t); err != nil {
			return err
		}
		r.Reporter, r.ID = text(m.Reporter), text(m.ID)
		r.Begin, r.End = time.Unix(m.Begin, 0).UTC(), time.Unix(m.End, 0).UTC()
	case "policy_published":
		var p xmlPolicy
		if err := d.DecodeElement(&p, &t); err != nil {
			return err
		}
		var err error
		if r.Domain, err = mail.NormalizeDomain(strings.TrimSpace(p.Domain)); err != nil {
			return err
		}
	case "record":
		var x xmlRecord
		if err := d.DecodeElement(&x, &t); err != nil {
			return err
		}
		ip, err := netip.ParseAddr(strings.TrimSpace(x.Source))
		if err != nil {
			return err
		}
		if len(r.Records) == maxRecords {
			return fmt.Errorf("more than %d records", maxRecords)
		}
		is := func(s, want string) bool { return strings.EqualFold(strings.TrimSpace(s), want) }
		r.Records = append(r.Records, dmarcRecord{Source: ip.Unmap().WithZone(""), Count: min(x.Count, maxCount), DKIM: is(x.DKIM, "pass"), SPF: is(x.SPF, "pass"),
			Quarantined: is(x.Disposition, "quarantine"), Rejected: is(x.Disposition, "reject")})
	default:
		return d.Skip()
	}
	return nil
}

func (r *dmarcReport) check() error {
	if r.Reporter == "" || r.ID == "" || r.Domain == "" || len(r.Records) == 0 {
		return kind.Errorf(kind.Invalid, "DMARC report: without sender, identity, domain or records")
	}
	return nil
}

// charset reads what some senders still declare.
func charset(label string, r io.Reader) (io.Reader, error) {
	switch strings.ToLower(label) {
	case "us-ascii", "ascii":
		return r, nil
	case "iso-8859-1", "latin1", "windows-1252":
		return charmap.Windows1252.NewDecoder().Reader(r), nil
	}
	return nil, fmt.Errorf("charset %.40q is not known", label)
}

// text bounds a text that a stranger chose.
func text(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}
